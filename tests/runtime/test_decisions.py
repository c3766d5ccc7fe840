"""What a model tells of its decisions, followed back to the positions that the tokens had at first."""

from __future__ import annotations

import numpy as np
import pytest

from adaptrt.runtime import AdaptiveModel, BackendError, InputError, load
from adaptrt.runtime.bundle.bundle_file import Bundle, DecisionSpec, Dense, Stage, TensorSpec, TokenSet
from adaptrt.runtime.decisions import DecisionRecorder
from tests.runtime import staged_reference as reference

NEVER = 9.0


def learners(number, **rest):
    return DecisionSpec("learners", number, {"runs": f"learners_{number}"}, **rest)


def selection(number, **rest):
    return DecisionSpec("selection", number, {"index": f"kept_{number}", "count": f"count_{number}"}, **rest)


def bundle(*stages, tokens=None):
    return Bundle(
        format_version=2,
        name="test",
        producer="tests",
        inputs=[TensorSpec("x", "float32", ["batch", "words"])],
        outputs=[TensorSpec("macs_fraction", "float32", ["batch"])],
        stages=[Stage(f"{number}.onnx", "0" * 64, decisions=list(told)) for number, told in enumerate(stages)],
        knobs=[],
        dense=Dense(1, 1),
        tokens=tokens or {"tokens": TokenSet(valid="valid")},
    )


def i32(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize("knobs", [{}, {"price": 0.5, "token_price": 0.5}, {"capacity": [1, 0]}, {"token_price": 99.0}])
@pytest.mark.parametrize("threshold", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("batch", [1, 50])
def test_of_a_bundle(tokens_model, knobs, threshold, batch):
    x = reference.eighths(batch, batch, 6, 4)
    told = tokens_model.run({"x": x}, knobs={**knobs, "exit_thresholds": threshold}, decisions=True)
    plain = tokens_model.run({"x": x}, knobs={**knobs, "exit_thresholds": threshold})
    samples = [reference.tokens_sample(row, **knobs) for row in x]
    taken = [sample.exit(np.array([NEVER if threshold == 1.0 else threshold])) for sample in samples]
    learners = [
        [s.learners[0], s.learners[1] if exit else np.full(6, -1)] for s, exit in zip(samples, taken, strict=True)
    ]
    kept = [[s.kept[0], s.kept[1] if exit else np.zeros(6, bool)] for s, exit in zip(samples, taken, strict=True)]
    np.testing.assert_array_equal(told.decisions.learners, learners)
    np.testing.assert_array_equal(told.decisions.kept, kept)
    assert (told.decisions.learners.dtype, told.decisions.kept.dtype) == (np.int32, np.bool_)
    np.testing.assert_array_equal(told.outputs["logits"], plain.outputs["logits"])
    np.testing.assert_array_equal(told.exit, taken)
    assert plain.decisions is None and list(told.outputs) == ["logits"]


def test_the_fixture_decides_differently_from_sample_to_sample(tokens_model):
    x = reference.eighths(50, 50, 6, 4)
    told = tokens_model.run({"x": x}, knobs={"price": 0.5, "token_price": 0.5, "exit_thresholds": 0.4}, decisions=True)
    assert set(np.unique(told.decisions.learners)) == {-1, 0, 1, 2}
    assert len(set(told.decisions.kept[:, 0].sum(axis=1))) >= 4
    assert set(told.exit) == {0, 1}


def test_tokens_that_leave_with_the_samples_that_needed_them():
    """Two samples, the wider one leaves: the other's padding goes, its positions stay."""
    first, second = [learners(0), selection(0)], [learners(1)]
    recorder = DecisionRecorder(bundle(first, second), 2, {})
    recorder.record(first, {
        "learners_0": i32(1, 2, 3, 4, 5, 6, 7, 8),
        "kept_0": i32([1, 3, 0], [0, 2, 3]),
        "count_0": i32(2, 3),
    })  # fmt: skip
    recorder.compact(np.array([0]), {"valid": 2})
    recorder.record(second, {"learners_1": i32(9, 8)})
    told = recorder.result()
    assert told.learners[0].tolist() == [[1, 2, 3, 4], [-1, 9, -1, 8]]
    assert told.learners[1].tolist() == [[5, 6, 7, 8], [-1, -1, -1, -1]]
    assert told.kept[:, 0].tolist() == [[False, True, False, True], [True, False, True, True]]


def test_padding_that_a_gate_ran_on_is_not_told():
    stage = [selection(0), learners(0)]
    recorder = DecisionRecorder(bundle(stage), 2, {"tokens": 3})
    recorder.record(stage, {"kept_0": i32([2, 0], [0, 1]), "count_0": i32(1, 2), "learners_0": i32(4, 7, 5, 6)})
    assert recorder.result().learners[:, 0].tolist() == [[-1, -1, 4], [5, 6, -1]]


@pytest.mark.parametrize(
    "told,flat,match",
    [
        ({"learners_0": i32(1, 2, 3)}, True, r"'learners_0' \[3\] does not follow .*\[2 samples \* 3 tokens\]"),
        ({"learners_0": i32([1, 2, 3], [4, 5, 6])}, True, r"'learners_0' \[2, 3\]"),
        ({"kept_0": i32(1, 2), "count_0": i32(1, 1)}, True, r"'kept_0' \[2\] .*\[2 samples, tokens\]"),
        ({"kept_0": i32([1]), "count_0": i32(1)}, True, r"'kept_0' \[1, 1\]"),
        ({"kept_0": i32([1], [1]), "count_0": i32(1, 2)}, True, "a count for each sample"),
        ({"kept_0": i32([1], [1]), "count_0": i32(1, -1)}, True, "a count for each sample"),
        ({"kept_0": i32([1], [1]), "count_0": i32(1)}, True, "a count for each sample"),
        ({"kept_0": i32([1], [3]), "count_0": i32(1, 1)}, True, "positions of some of the 3 tokens"),
        ({"kept_0": i32([1], [-1]), "count_0": i32(1, 1)}, True, "positions of some of the 3 tokens"),
        ({"learners_0": i32(1, 2, 3, 4, 5, 6)}, False, r"'learners_0' \[6\] .*\[2 samples, 3 tokens\]"),
    ],
)
def test_decisions_that_contradict_each_other(told, flat, match):
    stage = [learners(0, flat=flat)] if "learners_0" in told else [selection(0)]
    recorder = DecisionRecorder(bundle(stage), 2, {"tokens": 3})
    with pytest.raises(BackendError, match=match) as caught:
        recorder.record(stage, told)
    assert "\n" not in str(caught.value)


def test_a_token_that_is_gone_cannot_be_kept():
    stage = [selection(0), selection(1)]
    recorder = DecisionRecorder(bundle(stage), 1, {"tokens": 3})
    with pytest.raises(BackendError, match="'kept_1'"):
        recorder.record(stage, {
            "kept_0": i32([2, 0]), "count_0": i32(1), "kept_1": i32([0, 1]), "count_1": i32(2),
        })  # fmt: skip


def test_asked_of_a_bundle_that_tells_none(model, exits_model, x):
    with pytest.raises(InputError, match="got decisions=True, but bundle 'tiny' tells none; leave it out"):
        model.run({"x": x}, decisions=True)
    inputs = {"x": x[:, :1].repeat(6, axis=1), "hint": x[:, :2], "scale": x[0, :1]}
    with pytest.raises(InputError, match="'exits' tells none"):
        exits_model.run(inputs, decisions=True)


def one_stage(folder, edit):
    """The first stage of ``tokens`` as a model of its own."""

    def change(content):
        content.update(stages=content["stages"][:1], exit_criterion=None, curve=[])
        content["knobs"].pop()
        content["tokens"] = {"tokens": {}}

    edit(folder, change)
    return folder


def test_a_bundle_of_one_stage_tells_too(tokens, edit, tokens_model):
    x = reference.eighths(4, 9, 6, 4)
    result = load(one_stage(tokens, edit)).run({"x": x}, knobs={"token_price": 0.5}, decisions=True)
    first = tokens_model.run({"x": x}, knobs={"token_price": 0.5, "exit_thresholds": 0.0}, decisions=True)
    np.testing.assert_array_equal(result.decisions.learners[:, 0], first.decisions.learners[:, 0])
    np.testing.assert_array_equal(result.decisions.kept[:, 0], first.decisions.kept[:, 0])
    assert (result.exit, result.decisions.kept.shape) == (None, (9, 1, 6))
    assert load(tokens).run({"x": x[:0]}, decisions=True).decisions.learners.shape == (0, 1, 0)


def test_selections_alone(tokens, edit, tokens_model):
    """A selection does not tell how many tokens it chose from; the bundle does."""
    sets = {"tokens": {"size": 6, "valid": "valid"}}
    edit(tokens, lambda b: (b.update(tokens=sets), [stage["decisions"].pop(0) for stage in b["stages"]]))
    x = reference.eighths(4, 9, 6, 4)
    knobs = {"token_price": 0.5, "exit_thresholds": 0.4}
    told = load(tokens).run({"x": x}, knobs=knobs, decisions=True).decisions
    np.testing.assert_array_equal(told.kept, tokens_model.run({"x": x}, knobs=knobs, decisions=True).decisions.kept)
    assert told.learners.shape == (9, 0, 6)
    assert load(tokens).run({"x": x[:0]}, decisions=True).decisions.kept.shape == (0, 2, 6)


def test_the_number_of_tokens_may_be_an_axis():
    class Engine:
        def __init__(self):
            self.inputs = {"x": TensorSpec("x", "float32", ["batch", "words"])}

        def run_values(self, feeds, outputs):
            batch = len(feeds["x"])
            found = {"macs_fraction": np.ones(batch, np.float32), "count_0": np.ones(batch, np.int32)}
            found["kept_0"] = np.full((batch, 1), feeds["x"].shape[1] - 1, np.int32)
            return [found[name] for name in outputs]

        def to_value(self, array):
            return array

        to_array = to_value

    model = AdaptiveModel(bundle([selection(0)], tokens={"tokens": TokenSet("words")}), [Engine()])
    for words in (2, 5):
        told = model.run({"x": np.zeros((3, words), np.float32)}, decisions=True).decisions
        assert told.kept.tolist() == [[[False] * (words - 1) + [True]]] * 3


def test_sets_of_tokens_are_told_apart():
    """Two sets of different sizes, one routed, one pruned; numbers count through both."""
    sets = {"left": TokenSet(3, "valid_left"), "right": TokenSet(2)}
    first = [learners(0, of="left", flat=False), selection(0, of="left", nested=False), selection(1, of="right")]
    second = [learners(1, of="right"), learners(2, of="left")]
    recorder = DecisionRecorder(bundle(first, second, tokens=sets), 2, {"left": 3, "right": 2})
    recorder.record(first, {
        "learners_0": i32([1, 2, 3], [4, 5, 6]),
        "kept_0": i32([1], [2]), "count_0": i32(1, 1), "kept_1": i32([1], [0]), "count_1": i32(1, 1),
    })  # fmt: skip
    recorder.compact(np.array([1]), {"valid_left": 2})
    recorder.record(second, {"learners_1": i32(7), "learners_2": i32(8, 9)})
    told = recorder.result()
    assert told.sets["left"].learners.tolist() == [[[1, 2, 3], [-1, -1, -1]], [[4, 5, 6], [8, 9, -1]]]
    assert told.sets["left"].kept.tolist() == [[[False, True, False]], [[False, False, True]]]
    assert told.sets["right"].learners.tolist() == [[[-1, -1]], [[7, -1]]]
    assert told.sets["right"].kept.tolist() == [[[False, True]], [[True, False]]]
    with pytest.raises(InputError, match="decisions about 2 sets of tokens, expected one; look in sets: 'left', 'rig"):
        _ = told.learners
