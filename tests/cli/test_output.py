from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from adaptrt.cli.errors import CommandError
from adaptrt.cli.output import check_output_file, plain
from adaptrt.cli.tables import count, percent, quality, size
from adaptrt.runtime.bundle.bundle_file import Knob


@dataclasses.dataclass
class _Record:
    share: float
    by_batch: dict[int, object]
    path: Path


def test_anything_becomes_finite_json():
    knob = Knob("price", "float32", [1], 0.0, 1.0, 0.0)
    record = _Record(float("nan"), {1: np.float32(np.inf), 64: knob, 2: np.arange(3)}, Path("a/b"))
    text = json.dumps(plain([record, (True, None, np.int64(3), np.bool_(True), 2.5)]), allow_nan=False)
    first, second = json.loads(text)
    assert first["share"] is None and first["by_batch"]["1"] is None
    assert first["by_batch"]["64"]["name"] == "price" and first["by_batch"]["2"] == [0, 1, 2]
    assert first["path"] == "a/b"
    assert second == [True, None, 3, True, 2.5]


def test_numbers():
    assert [count(n) for n in (0, 999, 1e3, 90_400_000, 2.5e9, 3e12)] == [
        "0",
        "999",
        "1.0k",
        "90.4M",
        "2.5G",
        "3.0T",
    ]
    assert [size(n) for n in (12, 5_300_000)] == ["12 B", "5.3 MB"]
    assert percent(0.4231) == "42.3%" and percent(None) == "-"
    assert quality(0.97222, "accuracy") == "97.22%"
    assert quality(12.34567, "perplexity") == "12.35"
    assert quality(None, "accuracy") == "-"


def test_output_files(tmp_path):
    check_output_file(tmp_path / "a.npz", (".npz",))
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "in.npz").touch()
    for path, match in (
        (tmp_path / "a.txt", "ends in .npz"),
        (tmp_path / "folder.npz", "a folder"),
        (tmp_path / "nowhere" / "a.npz", "mkdir -p"),
        (tmp_path / "folder.npz" / ".." / "in.npz", "two files"),
    ):
        with pytest.raises(CommandError, match=match):
            check_output_file(path, (".npz",), inputs=[tmp_path / "in.npz"])
