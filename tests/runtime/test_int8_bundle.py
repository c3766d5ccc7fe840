"""Graphs in int8 that ``adaptrt build`` wrote, run with numpy and ONNX Runtime alone: the oldest one supported, too.

Products of bytes are exact in every version. What lies around them is not, and a number on the edge between two bytes
may become either: answers are those of the version that made the fixture, but for single bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.runtime import AdaptiveModel, Budget, load

FOLDER = Path(__file__).parent / "fixtures" / "int8"
ANSWERS = "answers.npz"
PRECISIONS = ("fp32", "int8")
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"budget": Budget.full()},
    "everything in the stages": {"budget": Budget.full(), "decisions": True},
    "half": {"knobs": {"price": 0.5}},
}
OUTPUT = "sentence_embedding"
STEPS = 1e-3
"""Largest difference, relative to the largest number; int8 is further from float32 than that."""

Array = np.ndarray[Any, Any]


def answers(model: AdaptiveModel, inputs: Mapping[str, Array], asked: Mapping[str, Any]) -> dict[str, Array]:
    """What a call gives: its output, and the share of work."""
    result = model.run(inputs, **asked)
    return {OUTPUT: result.outputs[OUTPUT], "macs_fraction": result.macs_fraction}


@pytest.fixture(scope="module")
def known() -> dict[str, Array]:
    with np.load(FOLDER / ANSWERS, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def inputs(known: dict[str, Array]) -> dict[str, Array]:
    return {name[6:]: array for name, array in known.items() if name.startswith("input.")}


@pytest.fixture(scope="module")
def model() -> AdaptiveModel:
    return load(FOLDER, precision="int8", threads=1)


def far(one: Array, other: Array) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


@pytest.mark.parametrize("setting", SETTINGS)
def test_it_answers_as_where_it_was_made(
    model: AdaptiveModel, known: dict[str, Array], inputs: dict[str, Array], setting: str
) -> None:
    given = answers(model, inputs, SETTINGS[setting])
    assert far(given[OUTPUT], known[f"int8.{setting}.{OUTPUT}"]) < STEPS
    np.testing.assert_allclose(given["macs_fraction"], known[f"int8.{setting}.macs_fraction"], rtol=0, atol=1e-6)


def test_full_budgets_are_answered_by_the_dense_model_in_int8(
    model: AdaptiveModel, known: dict[str, Array], inputs: dict[str, Array]
) -> None:
    assert model.answers_by_dense
    dense, stages = known[f"fp32.full.{OUTPUT}"], known[f"int8.everything in the stages.{OUTPUT}"]
    given = answers(model, inputs, SETTINGS["full"])[OUTPUT]
    assert STEPS < far(given, dense) < 0.03 < far(stages, dense)
    # The bundle was left without the dense model in float32, whose answers these were.
    exact = load(FOLDER, threads=1)
    assert not exact.answers_by_dense
    everything = known[f"fp32.everything in the stages.{OUTPUT}"]
    assert far(answers(exact, inputs, SETTINGS["full"])[OUTPUT], everything) < 1e-5


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_sample_alone_and_in_a_batch(model: AdaptiveModel, inputs: dict[str, Array], setting: str) -> None:
    together = answers(model, inputs, SETTINGS[setting])[OUTPUT]
    for row, beside in enumerate(together):
        alone = answers(model, {name: array[row : row + 1] for name, array in inputs.items()}, SETTINGS[setting])
        assert far(alone[OUTPUT][0], beside) <= 1e-6
