"""Input that must never reach an engine: every backend refuses the same, in the same words.

What an engine makes of a number outside its table is its own affair: ONNX Runtime fails, OpenVINO answers with zeros.
So the table below is checked on each backend there is, and each is shown to answer the good input next to it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.runtime import AdaptiveModel, InputError, load
from tests.prepared_engines import prepare, require_openvino
from tests.runtime.tensorrt_bundles import build

TEXTS = Path(__file__).parent / "fixtures" / "texts"
WORDS, LONGEST, BATCH = 40, 12, 3
Inputs = dict[str, Any]


def good(length: int = 5) -> Inputs:
    generator = np.random.default_rng(length)
    return {
        "words": generator.integers(0, WORDS, (BATCH, length)),
        "mask": np.arange(length) < np.array([[length], [1], [max(length - 1, 1)]]),
        "style": generator.standard_normal((BATCH, 2)).astype(np.float32),
    }


def put(name: str, value: Any, *place: int) -> Callable[[Inputs], Inputs]:
    """One element replaced."""

    def change(inputs: Inputs) -> Inputs:
        array = inputs[name].copy()
        array[place] = value
        return {**inputs, name: array}

    return change


def swap(name: str, make: Callable[[Any], Any]) -> Callable[[Inputs], Inputs]:
    """One array replaced."""
    return lambda inputs: {**inputs, name: make(inputs[name])}


def masked(array: Any) -> Any:
    return np.ma.MaskedArray(array, mask=np.zeros(array.shape, bool))


BAD: dict[str, tuple[Callable[[Inputs], Any], str]] = {
    "a word behind the last": (put("words", WORDS, 1, 2), r"'words': got 40 at \[1, 2\], expected 0 to 39; feed"),
    "a word far behind the last": (put("words", 10**6, 0, 0), r"got 1000000 at \[0, 0\], expected 0 to 39"),
    "a word before the first": (put("words", -1, 2, 4), r"got -1 at \[2, 4\], expected 0 to 39"),
    "a word beyond 32 bits": (put("words", 2**32 + 3, 0, 1), r"got 4294967299 at \[0, 1\], expected 0 to 39"),
    "the largest number": (put("words", 2**63 - 1, 0, 1), "got 9223372036854775807 at"),
    "the smallest number": (put("words", -(2**63), 0, 1), "got -9223372036854775808 at"),
    "a word where nothing is real": (put("words", 99, 1, 4), r"got 99 at \[1, 4\], expected 0 to 39"),
    "a text longer than the model": (lambda _: good(LONGEST + 1), r"where length is 13, expected 1 to 12; cut it"),
    "a much longer text": (lambda _: good(4000), r"'words': got \[3, 4000\], where length is 4000, expected 1 to 12"),
    "a text of nothing": (
        lambda inputs: {**inputs, "words": inputs["words"][:, :0], "mask": inputs["mask"][:, :0]},
        "where length is 0, expected 1 to 12; give more",
    ),
    "a mask of another length": (swap("mask", lambda a: a[:, :-1]), "'mask': length is 4, expected 5 as in"),
    "a mask of other samples": (swap("mask", lambda a: a[:-1]), "'mask': batch is 2, expected 3 as in"),
    "words of 32 bits": (swap("words", lambda a: a.astype(np.int32)), r"got int32 .* expected int64"),
    "words without a sign": (swap("words", lambda a: a.astype(np.uint64)), r"got uint64 .* expected int64"),
    "words as fractions": (swap("words", lambda a: a.astype(np.float32)), r"got float32 .* expected int64"),
    "words as texts": (swap("words", lambda a: a.astype(str)), r"got <U.* expected int64"),
    "words of the other byte order": (swap("words", lambda a: a.astype(">i8")), r"got >i8 .* expected int64"),
    "words as a list": (swap("words", lambda a: a.tolist()), "'words': got list, expected a numpy array int64"),
    "one text without its batch": (swap("words", lambda a: a[0]), r"got int64 \[5\], expected int64 .*x\[None\]"),
    "an axis too many": (swap("words", lambda a: a[None]), r"got int64 \[1, 3, 5\], expected int64"),
    "one word, no array at all": (swap("words", lambda _: np.int64(3)), "got numpy.int64, expected a numpy array"),
    "masked words": (swap("words", masked), "'words': got a masked array, expected a plain one int64"),
    "a masked mask": (swap("mask", masked), "'mask': got a masked array"),
    "a mask that is a view of 255": (
        swap("mask", lambda a: np.where(a, 255, 0).astype(np.uint8).view(bool)),
        r"'mask': got a boolean whose byte is 255 at \[0, 0\], expected 0 or 1; .*x.view\(np.uint8\) != 0",
    ),
    "a mask of numbers": (swap("mask", lambda a: a.astype(np.int64)), r"got int64 .* expected bool"),
    "NaN": (put("style", np.nan, 1, 0), r"'style': got nan at \[1, 0\], expected finite numbers"),
    "infinity": (put("style", np.inf, 2, 1), r"got inf at \[2, 1\], expected finite numbers"),
    "minus infinity": (put("style", -np.inf, 0, 0), r"got -inf at \[0, 0\], expected finite numbers"),
    "NaN in every second place": (
        swap("style", lambda a: np.full((2 * len(a), 2), np.nan, np.float32)[::2]), r"got nan at \[0, 0\]",
    ),
    "another number of columns": (swap("style", lambda a: a[:, :1]), r"got float32 \[3, 1\], expected float32"),
    "half precision": (swap("style", lambda a: a.astype(np.float16)), "got float16 .* expected float32"),
    "an input left out": (lambda inputs: {"words": inputs["words"]}, "inputs: got 'words', expected exactly"),
    "an input too many": (lambda i: {**i, "price": np.zeros(1, np.float32)}, "inputs: got .*'price', expected"),
    "inputs without names": (lambda inputs: list(inputs.values()), "inputs: got list, expected a dictionary"),
    "nothing": (lambda _: None, "inputs: got NoneType, expected a dictionary"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(TEXTS, tmp_path_factory.mktemp("bad inputs") / "texts"))


@pytest.fixture(params=["onnxruntime", "openvino", "tensorrt"])
def model(request: pytest.FixtureRequest, folder: Path) -> AdaptiveModel:
    """On each backend that can be had: TensorRT's on its stand-in, as everywhere in these tests."""
    if request.param == "openvino":
        require_openvino()
        if not (folder / "engines" / "openvino-fp32").exists():
            prepare(folder)
    if request.param == "tensorrt":
        request.getfixturevalue("trt")
        if not (folder / "engines" / "tensorrt-fp32").exists():
            build(folder)
    return load(folder, threads=1, backend=request.param)


def test_all_of_it_is_refused_and_nothing_is_left_behind(model: AdaptiveModel) -> None:
    expected = model.run(good())
    for name, (change, match) in BAD.items():
        with pytest.raises(InputError, match=match) as caught:
            model.run(change(good()))
        message = str(caught.value)
        assert "\n" not in message and len(message) < 500, name
        again = model.run(good())
        np.testing.assert_array_equal(again.outputs["logits"], expected.outputs["logits"], err_msg=name)


def test_what_is_just_right_is_taken(model: AdaptiveModel) -> None:
    for length in (1, LONGEST):
        inputs = good(length)
        inputs["words"][0, 0], inputs["words"][-1, -1] = 0, WORDS - 1
        inputs["style"][0, 0] = np.finfo(np.float32).max / 8  # finite, and its square is not
        result = model.run(inputs)
        assert result.outputs["logits"].shape == (BATCH, 3)
        assert result.macs_fraction.min() >= 0.3 and result.macs_fraction.max() <= 0.3 + 0.05 * length + 1e-6


def test_an_empty_batch_is_no_mistake(model: AdaptiveModel) -> None:
    assert model.run({name: array[:0] for name, array in good().items()}).outputs["logits"].shape == (0, 3)


def test_the_table_is_long_enough() -> None:
    assert len(BAD) >= 30
