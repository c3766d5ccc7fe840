"""Stages that are tables, on an engine whose tensors the host cannot read: who leaves where, in which order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime import AdaptiveModel, BackendError
from adaptrt.runtime.bundle.bundle_file import Bundle, Carry, Dense, Knob, Stage, TensorSpec
from adaptrt.runtime.compaction import Compaction

IDS = 12


@dataclass(frozen=True)
class Held:
    """A tensor on the device."""

    content: np.ndarray[Any, Any]


class TableBackend:
    """A stage whose confidence in sample i is ``confidence[i]``; its inputs and outputs stay on the device."""

    def __init__(self, number: int, stages: int, confidence: Any, spoil: dict[str, Any] | None = None) -> None:
        self.number, self.confidence, self.spoil = number, np.asarray(confidence, np.float32), spoil or {}
        names = ["x", "hint"] if number == 0 else ["ids", "work", *(["hint"] if number == stages - 1 else [])]
        self.inputs = {name: TensorSpec(name, "float32", ["batch"]) for name in names}
        self.outputs: dict[str, TensorSpec] = {}
        self.batches: list[int] = []
        self.read: list[Any] = []

    def run(self, feeds: Any) -> Any:
        raise AssertionError(f"got arrays {sorted(feeds)}, expected values: there are several stages")

    def run_values(self, feeds: Any, outputs: Any) -> list[Any]:
        assert set(feeds) == set(self.inputs)
        arrays = {name: value.content for name, value in feeds.items()}
        ids = arrays["x"] if self.number == 0 else arrays["ids"]
        assert len({len(array) for array in arrays.values()}) == 1, "every tensor has the same samples"
        if "hint" in arrays:
            np.testing.assert_array_equal(arrays["hint"], ids + 100)
        self.batches.append(len(ids))
        work = np.full(len(ids), self.number + 1, np.float32)
        found = {
            "logits": np.stack([ids, np.full(len(ids), self.number, np.float32)], axis=1),
            "macs_fraction": work,
            "confidence": self.confidence[ids.astype(int)],
            "next_ids": ids,
            **self.spoil,
        }
        return [Held(found[name]) for name in outputs]

    def recover(self) -> None:
        """Nothing to forget."""

    def bind(self, inputs: Any, outputs: Any) -> None:
        """Its values lie on a device."""

    def to_value(self, array: Any) -> Held:
        return Held(array)

    def to_array(self, value: Any) -> Any:
        self.read.append(value)
        return value.content


def network(confidences, spoil=None):
    stages = len(confidences)
    carry = [Carry("ids", "next_ids", "float32", ["batch"]), Carry("work", "macs_fraction", "float32", ["batch"])]
    bundle = Bundle(
        format_version=1,
        name="tables",
        producer="tests",
        inputs=[TensorSpec("x", "float32", ["batch"]), TensorSpec("hint", "float32", ["batch"])],
        outputs=[TensorSpec("logits", "float32", ["batch", 2]), TensorSpec("macs_fraction", "float32", ["batch"])],
        stages=[Stage(f"stage{i}.onnx", "0" * 64, exit=str(i), carry=carry if i else []) for i in range(stages)],
        knobs=[Knob("exit_thresholds", "float32", [stages - 1], -math.inf, math.inf, math.inf)],
        dense=Dense(1, 1),
        exit_criterion="patience",
    )
    backends = [
        TableBackend(number, stages, confidence, (spoil or {}).get(number))
        for number, confidence in enumerate(confidences)
    ]
    return AdaptiveModel(bundle, backends), backends


def run(model, ids, thresholds):
    x = np.asarray(ids, np.float32)
    return model.run({"x": x, "hint": x + 100}, knobs={"exit_thresholds": thresholds})


confidence = st.one_of(st.floats(-1, 4, width=32), st.just(math.nan), st.sampled_from([0.0, 1.0, 2.0]))
tables = st.integers(2, 5).flatmap(
    lambda stages: st.tuples(
        st.lists(st.lists(confidence, min_size=IDS, max_size=IDS), min_size=stages, max_size=stages),
        st.lists(
            st.one_of(st.floats(-2, 5, width=32), st.sampled_from([0.0, 1.0, math.inf])),
            min_size=stages - 1,
            max_size=stages - 1,
        ),
    )
)


@given(tables, st.lists(st.integers(0, IDS - 1), min_size=1, max_size=10))
def test_everyone_leaves_at_the_first_exit_that_is_sure(table, ids):
    confidences, thresholds = table
    model, backends = network(confidences)
    result = run(model, ids, thresholds)
    expected = [
        next(
            (stage for stage, limit in enumerate(thresholds) if confidences[stage][i] > limit),
            len(thresholds),
        )
        for i in ids
    ]
    np.testing.assert_array_equal(result.exit, expected)
    np.testing.assert_array_equal(result.outputs["logits"], np.stack([ids, expected], axis=1))
    np.testing.assert_array_equal(result.macs_fraction, np.array(expected) + 1)
    for stage, backend in enumerate(backends):
        there = sum(taken >= stage for taken in expected)
        assert backend.batches == ([there] if there else []), "a stage runs once, on those still there"


@given(tables, st.lists(st.integers(0, IDS - 1), min_size=1, max_size=6))
def test_a_batch_is_its_samples_one_by_one(table, ids):
    confidences, thresholds = table
    model, _ = network(confidences)
    together = run(model, ids, thresholds)
    alone = [run(model, [i], thresholds) for i in ids]
    np.testing.assert_array_equal(together.exit, np.concatenate([one.exit for one in alone]))
    np.testing.assert_array_equal(together.outputs["logits"], np.concatenate([one.outputs["logits"] for one in alone]))


def test_a_confidence_of_nan_is_never_sure():
    model, _ = network([[math.nan] * IDS, [math.nan] * IDS, [math.nan] * IDS])
    with np.errstate(all="raise"):
        assert set(run(model, range(4), [-2.0, -2.0]).exit) == {2}
    mixed, _ = network([[math.nan, 1.0] * 6, [math.nan] * IDS])
    assert run(mixed, [0, 1, 2, 3], [0.5]).exit.tolist() == [1, 0, 1, 0]


def test_a_confidence_at_the_threshold_is_not_above_it_whatever_float32_makes_of_it():
    at = float(np.float32(0.1))
    assert at > 0.1, "rounded up: compared as float64 it would be sure"
    model, _ = network([[at] * IDS, [0.0] * IDS])
    assert run(model, range(3), [0.1]).exit.tolist() == [1, 1, 1]
    assert run(model, [0], [0.1]).exit.tolist() == [1]


def test_nothing_is_read_from_the_device_where_nobody_leaves():
    model, backends = network([[0.0] * IDS] * 3)
    run(model, range(4), [math.inf, math.inf])
    assert [len(backend.read) for backend in backends] == [0, 0, 2], "the results of the last stage alone"
    run(model, range(4), [1.0, 1.0])
    assert [len(backend.read) for backend in backends] == [1, 1, 4], "and the confidences that are compared"


def test_everyone_leaves_at_once():
    model, backends = network([[0.0] * IDS, [3.0] * IDS, [0.0] * IDS])
    result = run(model, [5, 3, 5], [1.0, 1.0])
    assert result.exit.tolist() == [1, 1, 1]
    assert result.outputs["logits"].tolist() == [[5, 1], [3, 1], [5, 1]]
    assert backends[2].batches == []


@pytest.mark.parametrize(
    "spoil,match",
    [
        ({0: {"confidence": np.ones(1, np.float32)}}, r"stage0\.onnx: 'confidence' came .* \[1\], expected \[3\]"),
        ({0: {"confidence": np.ones((3, 1), np.float32)}}, r"'confidence' came out as float32 \[3, 1\]"),
        ({0: {"logits": np.ones((1, 2), np.float32)}}, r"'logits' came out as .* \[1, 2\], expected \[3, \.\.\.\]"),
        ({0: {"next_ids": np.ones(2, np.float32)}}, r"'next_ids' came out as float32 \[2\]"),
        ({0: {"next_ids": np.ones((3, 1), np.float32)}}, r"'next_ids' came out as float32 \[3, 1\]"),
        ({1: {"logits": np.ones((2, 3), np.float32)}}, r"stage1\.onnx: 'logits' .*expected \[batch, 2\]"),
        ({1: {"macs_fraction": np.float32(1)}}, r"'macs_fraction' came out as float32 \[\]"),
    ],
)  # fmt: skip
def test_a_stage_that_puts_out_other_shapes(spoil, match):
    model, _ = network([[1.0, 0.0, 0.0] * 4, [0.0] * IDS], spoil)
    with pytest.raises(BackendError, match=match) as caught:
        run(model, [0, 1, 2], [0.5])
    assert "\n" not in str(caught.value)


@given(st.data())
def test_compaction(data):
    """The kept samples' valid tokens come through, and no column that none of them needs."""
    batch, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    valid = np.array(
        data.draw(st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=batch, max_size=batch))
    )
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, batch - 1), min_size=1))))
    numbers = np.arange(batch * width * 2, dtype=np.float32).reshape(batch, width, 2)
    arrays = {"valid": valid, "hidden": numbers, "across": numbers.transpose(0, 2, 1), "work": numbers[:, 0, 0]}
    shapes = {"valid": ["batch", "t"], "hidden": ["batch", "t", 2], "across": ["batch", 2, "t"], "work": ["batch"]}
    carried = [Carry(n, n, "bool" if n == "valid" else "float32", shape) for n, shape in shapes.items()]
    kept, widths = Compaction.of(carried, {"valid"}).apply(arrays, rows)
    left = widths.pop("valid")
    assert not widths
    needed = np.flatnonzero(valid[rows].any(axis=0))
    assert left == (needed[-1] + 1 if len(needed) else 1), "never no token at all"
    np.testing.assert_array_equal(kept["valid"], valid[rows][:, :left])
    np.testing.assert_array_equal(kept["hidden"], numbers[rows][:, :left])
    np.testing.assert_array_equal(kept["across"], numbers[rows][:, :left].transpose(0, 2, 1))
    np.testing.assert_array_equal(kept["work"], numbers[rows, 0, 0])
    assert all(array.flags.c_contiguous for array in kept.values())


def test_nothing_is_cut_where_nothing_says_what_is_valid():
    hidden = np.ones((3, 4, 2), np.float32)
    for carried in (
        [Carry("hidden", "h", "float32", ["batch", "tokens", 2])],
        [Carry("hidden", "h", "float32", ["batch", 4, 2]), Carry("valid", "v", "bool", ["batch", 4])],
    ):
        arrays = {"hidden": hidden, "valid": np.zeros((3, 4), bool)}
        compaction = Compaction.of(carried, {"valid"})
        kept, widths = compaction.apply({c.name: arrays[c.name] for c in carried}, np.array([1]))
        assert (kept["hidden"].shape, widths) == ((1, 4, 2), {})


def test_each_set_of_tokens_is_cut_by_its_own_mask():
    valid = {"left": np.array([[True, False, False]] * 2), "right": np.array([[True, True, False, False]] * 2)}
    pairs = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    carried = [
        Carry("left", "l", "bool", ["batch", "m"]),
        Carry("pairs", "p", "float32", ["batch", "m", "n"]),
        Carry("right", "r", "bool", ["batch", "n"]),
    ]
    compaction = Compaction.of(carried, {"left", "right"})
    kept, widths = compaction.apply({**valid, "pairs": pairs}, np.array([1]))
    assert widths == {"left": 1, "right": 2}
    np.testing.assert_array_equal(kept["pairs"], pairs[1:, :1, :2])
