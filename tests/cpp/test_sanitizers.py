"""Altered files, read by a program that was built with the sanitizers."""

from __future__ import annotations

import json

from tests.cpp.programs import Programs
from tests.cpp.test_validation import SEEDS

FUZZED = 1_500
"""`make cpp-fuzz` does more."""


def test_altered_files(sanitized: Programs) -> None:
    done = sanitized.run("adaptrt_fuzz", FUZZED, 1, *SEEDS)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["times"] == FUZZED and FUZZED / 3 < report["refused"] < FUZZED
