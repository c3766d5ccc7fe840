"""What a bundle of several inputs is timed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.bundle_latency import measure_bundle
from adaptrt.bench.timing.samples import cut_to_length, draw_inputs, find_inputs
from adaptrt.runtime.bundle.bundle_file import read_bundle
from tests.runtime.conftest import FIXTURES

TEXTS = FIXTURES / "texts"
BUNDLE = read_bundle(TEXTS)


def given(samples: int = 20) -> dict[str, Any]:
    return draw_inputs(BUNDLE, samples)


def test_by_name() -> None:
    found, origin = find_inputs(TEXTS, BUNDLE, given())
    assert origin == "given" and list(found) == [spec.name for spec in BUNDLE.inputs]
    tiny = read_bundle(FIXTURES / "tiny")
    found, origin = find_inputs(FIXTURES / "tiny", tiny, np.zeros((3, 4), np.float32))
    assert (list(found), origin) == (["x"], "given")


def test_drawn_where_there_are_none(tmp_path: Path) -> None:
    found, origin = find_inputs(tmp_path, BUNDLE, None)
    assert origin == "random" and {len(array) for array in found.values()} == {64}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: arrays.pop("mask"), r"got inputs \['style', 'words'\], expected words, mask, style"),
        (lambda arrays: arrays.update(mask=arrays["mask"][:3]), "got 20 of words, 3 of mask"),
        (lambda arrays: arrays.update(words=arrays["words"].astype(np.int32)), "got inputs int32"),
    ],
)
def test_what_does_not_fit(change: Any, said: str) -> None:
    arrays = given()
    change(arrays)
    with pytest.raises(BenchError, match=said):
        find_inputs(TEXTS, BUNDLE, arrays)


def test_a_bundle_of_texts_is_measured() -> None:
    result = measure_bundle(TEXTS, batches=(1, 2), points=2, rounds=3, inputs=given())
    assert result.inputs == "given" and set(result.rows[0].latency_ms) == {1, 2}
    assert all(0 < share <= 1.2 for row in result.rows for share in row.timed_macs_fraction.values())


def test_cut_to_a_length() -> None:
    arrays = given()
    arrays["mask"][:15, 3:] = False
    found = cut_to_length(arrays, BUNDLE, 4)
    assert {name: array.shape[:2] for name, array in found.items() if name != "style"} == {
        "words": (5, 4),
        "mask": (5, 4),
    }
    assert found["mask"].all() and len(found["style"]) == 5
    np.testing.assert_array_equal(found["words"], arrays["words"][15:, :4])
    with pytest.raises(BenchError, match=r"got samples of at most \d+ tokens, expected some of 9999"):
        cut_to_length(arrays, BUNDLE, 9999)
    tiny = read_bundle(FIXTURES / "tiny")
    with pytest.raises(BenchError, match="no mask of real tokens"):
        cut_to_length({"x": np.zeros((3, 4), np.float32)}, tiny, 2)
