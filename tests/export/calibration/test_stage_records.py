"""What stages said, and what that makes of any thresholds."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from adaptrt.export.calibration.stage_records import BATCH, Outcome, StageRecords, record_stages
from adaptrt.export.errors import CalibrationError
from adaptrt.models.data.split import Split
from adaptrt.runtime.bundle.bundle_file import Axis, TensorSpec
from tests.export.fake_bundle import ALL, EXITS, KEEP, FakeModel, fake_data


def test_records_are_those_of_one_large_batch() -> None:
    model, split = FakeModel(*ALL), fake_data(2 * BATCH + 9).calibration
    knobs = {"price": 0.7, "token_price": 0.3}
    records = record_stages(model, split, knobs)
    stages = model.run_stages({"x": split.inputs}, knobs=knobs)
    assert records.stages == 2
    for number, stage in enumerate(stages):
        assert np.array_equal(records.confidence[number], stage["confidence"])
        assert np.array_equal(records.macs_fraction[number], stage["macs_fraction"])
        assert np.array_equal(records.quality[number], stage["logits"].argmax(1) == split.labels)
        probabilities = np.exp(stage["logits"].astype(np.float64))
        probabilities /= probabilities.sum(1, keepdims=True)
        loss = -np.log(probabilities[np.arange(len(split)), split.labels])
        assert records.loss[number] == pytest.approx(loss, rel=1e-6, abs=1e-6)
    assert {array.dtype.name for array in (records.confidence, records.loss, records.macs_fraction)} == {"float32"}


def test_a_bundle_of_one_stage_has_no_confidence() -> None:
    records = record_stages(FakeModel(KEEP), fake_data(20).calibration, {"keep": [3]})
    assert records.stages == 1 and np.isnan(records.confidence).all()
    outcome = records.outcome()
    assert outcome.cost == pytest.approx(0.55, abs=1e-6) and len(outcome.qualities) == 20


def test_outcomes_follow_the_exits() -> None:
    records = StageRecords(
        confidence=np.array([[0.9, 0.2, np.nan], [0.0, 0.0, 0.0]], np.float32),
        quality=np.array([[1, 0, 1], [0, 1, 0]], np.float32),
        loss=np.array([[1, 2, 3], [10, 20, 30]], np.float32),
        macs_fraction=np.array([[0.25, 0.25, 0.5], [1, 1, 1]], np.float32),
    )
    nobody = records.outcome()
    assert (nobody.cost, nobody.loss, nobody.quality) == (1.0, 20.0, 1 / 3)
    assert records.outcome([0.9]).cost == 1.0  # strictly above
    some = records.outcome([0.5])
    assert (some.cost, some.loss) == (0.75, 17.0) and some.qualities.tolist() == [1, 1, 0]
    assert records.outcome([-1.0]).cost == 0.5  # all but the one without a confidence


def test_large_logits_do_not_overflow() -> None:
    model = FakeModel(EXITS)
    model.run_stages = lambda *_, **__: [  # type: ignore[method-assign]
        {"logits": np.array([[3e4, -3e4, 0.0]], np.float32), "macs_fraction": np.ones(1), "confidence": np.ones(1)}
    ]
    split = Split(np.zeros((1, 3), np.float32), np.array([1]))
    assert record_stages(model, split, {}).loss[0, 0] == 6e4


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((4, 2), np.float32), "labels up to 2 for logits of shape"),
        (np.zeros((4, 1, 3), np.float32), "expected logits"),
        (np.full((4, 3), math.nan, np.float32), "NaN or infinite"),
    ],
)
def test_logits_that_are_no_classes(logits: np.ndarray, message: str) -> None:  # type: ignore[type-arg]
    model = FakeModel(EXITS)
    model.run_stages = lambda *_, **__: [  # type: ignore[method-assign]
        {"logits": logits, "macs_fraction": np.ones(4), "confidence": np.ones(4)}
    ]
    with pytest.raises(CalibrationError, match=message):
        record_stages(model, Split(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0])), {})


def test_inputs_of_another_shape() -> None:
    split = Split(np.zeros((4, 5), np.float32), np.zeros(4, np.int64))
    with pytest.raises(CalibrationError, match=r"got inputs of shape \[4, 5\], expected \['batch', 3\]"):
        record_stages(FakeModel(EXITS), split, {})


def test_records_of_several_shapes() -> None:
    one, other = np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match="expected one shape"):
        StageRecords(one, one.astype(bool), other, one)


def test_quality_is_exact() -> None:
    assert Outcome(0.5, 0.0, np.array([True] * 7 + [False] * 3)).quality == 0.7


def test_errors_of_a_difference_are_those_of_the_samples_that_differ() -> None:
    right = np.arange(100) < 90
    own, same = Outcome(1.0, 0.0, right), Outcome(0.5, 0.0, right.copy())
    other = Outcome(0.5, 0.0, np.roll(right, 5))  # five gained, five lost
    assert own.error_against(same) == 0
    assert own.error_against(other) == pytest.approx(math.sqrt(10) / 100)


class TextModel:
    """Notes how long the texts are that it gets; its answer is their number of words."""

    def __init__(self, *outputs: TensorSpec) -> None:
        axes = {"batch": Axis(0), "tokens": Axis(4, 64)}
        words = TensorSpec("words", "int64", ["batch", "tokens"], minimum=0, maximum=9)
        mask = TensorSpec("mask", "bool", ["batch", "tokens"])
        self.bundle = msgspec.structs.replace(
            FakeModel(KEEP).bundle, inputs=[words, mask], outputs=list(outputs), axes=axes
        )
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Mapping[str, Any], *, knobs: Any = None, decisions: bool = False) -> Any:
        raise NotImplementedError

    def run_stages(self, inputs: Mapping[str, Any], *, knobs: Any = None) -> list[dict[str, Any]]:
        assert knobs == {} and inputs["words"].shape == inputs["mask"].shape
        assert not inputs["words"][~inputs["mask"]].any()
        self.shapes.append(inputs["words"].shape)
        count = inputs["mask"].sum(1).astype(np.float32)
        return [{"logits": np.stack([count, count + 1], 1), "macs_fraction": count / 64}]


def texts(lengths: list[int]) -> Split:
    mask = np.arange(64) < np.array(lengths)[:, None]
    words = np.where(mask, 7, 0).astype(np.int64)
    return Split(words, np.ones(len(lengths), np.int64), {"mask": mask}, "words")


def test_texts_are_cut_to_the_longest_of_a_batch_and_come_back_in_order() -> None:
    logits = TensorSpec("logits", "float32", ["batch", 2])
    lengths = np.random.default_rng(0).integers(1, 61, 2 * BATCH + 9).tolist()
    model = TextModel(logits)
    records = record_stages(model, texts(lengths), {})
    assert records.macs_fraction[0] == pytest.approx(np.array(lengths) / 64)
    ordered = sorted(lengths)
    longest = [max(ordered[start : start + BATCH]) for start in (0, BATCH, 2 * BATCH)]
    assert [shape[1] for shape in model.shapes] == longest[::-1] and longest[0] < 40
    short = TextModel(logits)
    record_stages(short, texts([1, 2, 2]), {})
    assert short.shapes == [(3, 4)]  # no shorter than the graph takes


def test_answers_for_every_token_keep_their_length() -> None:
    model = TextModel(TensorSpec("logits", "float32", ["batch", 2]), TensorSpec("each", "float32", ["batch", "tokens"]))
    record_stages(model, texts([1, 5, 2]), {})
    assert model.shapes == [(3, 64)]
