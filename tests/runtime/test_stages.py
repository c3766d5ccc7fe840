"""Bundles of several stages on ONNX Runtime, against what they compute in numpy."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.runtime import BackendError, Budget, BudgetError, InputError, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from tests.runtime import staged_reference as reference
from tests.runtime.conftest import FIXTURES

NEVER = 9.0  # above every confidence


def exits_inputs(samples, seed=1):
    return {
        "x": reference.eighths(seed, samples, 6),
        "hint": reference.eighths(seed + 1, samples, 2),
        "scale": np.ones(1, np.float32),
    }


def tokens_inputs(samples, seed=1):
    return {"x": reference.eighths(seed, samples, 6, 4)}


def rows(inputs, chosen):
    """Some samples of a batch; ``scale`` belongs to none."""
    return {name: array if name == "scale" else array[chosen] for name, array in inputs.items()}


def expected_exits(inputs, thresholds, price=0.0):
    samples = [
        reference.exits_sample(x, hint, inputs["scale"], price)
        for x, hint in zip(inputs["x"], inputs["hint"], strict=True)
    ]
    return samples, np.array([sample.exit(np.array(thresholds)) for sample in samples], np.int64)


def require(result, samples, taken):
    assert result.exit.dtype == np.int64
    np.testing.assert_array_equal(result.exit, taken)
    assert list(result.outputs) == ["logits"]
    logits = [sample.logits[stage] for sample, stage in zip(samples, taken, strict=True)]
    work = [sample.macs_fraction[stage] for sample, stage in zip(samples, taken, strict=True)]
    np.testing.assert_allclose(result.outputs["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(result.macs_fraction, work, atol=1e-6)
    assert result.macs_fraction.dtype == np.float32


@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize("price", [0.0, 0.5])
@pytest.mark.parametrize(
    "thresholds", [(0.8, 0.45), (0.0, 0.5), (0.9, 0.5), (1.0, 0.6), (0.7, 1.0), (1.0, 1.0), (0.0, 0.0)]
)
def test_each_sample_leaves_where_it_is_sure_enough(exits_model, batch, price, thresholds):
    inputs = exits_inputs(batch, seed=batch)
    result = exits_model.run(inputs, knobs={"price": price, "exit_thresholds": list(thresholds)})
    never = [NEVER if threshold == 1.0 else threshold for threshold in thresholds]
    require(result, *expected_exits(inputs, never, price))
    assert result.knobs == {"price": price, "exit_thresholds": list(thresholds)}
    assert result.latency_ms > 0 and result.decisions is None


def test_the_mixture_is_worth_testing():
    _, taken = expected_exits(exits_inputs(64, seed=64), (0.8, 0.45))
    assert min(np.bincount(taken, minlength=3)) >= 10


def test_one_number_is_every_exits_threshold(exits_model):
    inputs = exits_inputs(40)
    one, list_of = (exits_model.run(inputs, knobs={"exit_thresholds": value}) for value in (0.6, [0.6, 0.6]))
    np.testing.assert_array_equal(one.exit, list_of.exit)
    require(one, *expected_exits(inputs, (0.6, 0.6)))
    assert exits_model.run(inputs, knobs={"exit_thresholds": np.array([0.6, 0.6])}).knobs == list_of.knobs


def test_by_default_nobody_leaves(exits_model):
    result = exits_model.run(exits_inputs(40))
    assert set(result.exit) == {2}
    assert result.budget == Budget.full()


def test_a_confidence_equal_to_the_threshold_stays(exits_model):
    """Strictly above: of many samples exactly the ones beyond the chosen one leave."""
    inputs = exits_inputs(40)
    confidence = exits_model.run_stages(inputs)[0]["confidence"]
    chosen = float(np.sort(confidence)[20])
    result = exits_model.run(inputs, knobs={"exit_thresholds": [chosen, 1.0]})
    np.testing.assert_array_equal(result.exit == 0, confidence > np.float32(chosen))
    assert 0 < (result.exit == 0).sum() < 40


def test_at_infinity_nobody_leaves_however_sure(exits_model):
    inputs = exits_inputs(40)
    confidence = exits_model.run_stages(inputs)[0]["confidence"]
    assert set(exits_model.run(inputs, knobs={"exit_thresholds": math.inf}).exit) == {2}
    surest = float(confidence.max())
    assert 0 not in exits_model.run(inputs, knobs={"exit_thresholds": [surest, math.inf]}).exit
    below = float(np.nextafter(np.float32(surest), np.float32(0)))
    assert 0 in exits_model.run(inputs, knobs={"exit_thresholds": [below, math.inf]}).exit
    assert set(exits_model.run(inputs, knobs={"exit_thresholds": [-math.inf, math.inf]}).exit) == {0}


@settings(max_examples=60)
@given(
    samples=st.lists(st.integers(0, 39), min_size=1, max_size=8),
    thresholds=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    price=st.floats(0, 2),
)
def test_a_batch_is_its_samples_one_by_one(exits_model, samples, thresholds, price):
    inputs = rows(exits_inputs(40), samples)
    knobs = {"price": price, "exit_thresholds": list(thresholds)}
    together = exits_model.run(inputs, knobs=knobs)
    alone = [exits_model.run(rows(inputs, [row]), knobs=knobs) for row in range(len(samples))]
    for name, got in (
        ("logits", together.outputs["logits"]),
        ("work", together.macs_fraction),
        ("exit", together.exit),
    ):
        parts = [{**one.outputs, "work": one.macs_fraction, "exit": one.exit}[name] for one in alone]
        np.testing.assert_array_equal(got, np.concatenate(parts), err_msg=name)


@settings(max_examples=60)
@given(
    samples=st.lists(st.integers(0, 39), min_size=1, max_size=8),
    threshold=st.floats(0, 1),
    price=st.floats(-2, 2),
    token_price=st.floats(-2, 3),
    capacity=st.tuples(st.integers(-1, 2), st.integers(-1, 2)),
)
def test_a_batch_with_differing_token_counts_is_its_samples_one_by_one(
    tokens_model, samples, threshold, price, token_price, capacity
):
    x = tokens_inputs(40)["x"][samples]
    knobs = {"price": price, "token_price": token_price, "capacity": list(capacity), "exit_thresholds": threshold}
    together = tokens_model.run({"x": x}, knobs=knobs, decisions=True)
    alone = [tokens_model.run({"x": x[row : row + 1]}, knobs=knobs, decisions=True) for row in range(len(x))]
    np.testing.assert_array_equal(together.outputs["logits"], np.concatenate([r.outputs["logits"] for r in alone]))
    np.testing.assert_array_equal(together.macs_fraction, np.concatenate([r.macs_fraction for r in alone]))
    np.testing.assert_array_equal(together.exit, np.concatenate([r.exit for r in alone]))
    np.testing.assert_array_equal(together.decisions.learners, np.concatenate([r.decisions.learners for r in alone]))
    np.testing.assert_array_equal(together.decisions.kept, np.concatenate([r.decisions.kept for r in alone]))


@pytest.mark.parametrize("knobs", [{}, {"price": 0.5, "token_price": 0.5}, {"capacity": [1, 0]}, {"token_price": 9.0}])
@pytest.mark.parametrize("threshold", [1.0, 0.4, 0.0])
def test_pruned_tokens(tokens_model, knobs, threshold):
    inputs = tokens_inputs(50)
    samples = [reference.tokens_sample(x, **knobs) for x in inputs["x"]]
    taken = [sample.exit(np.array([NEVER if threshold == 1.0 else threshold])) for sample in samples]
    require(tokens_model.run(inputs, knobs={**knobs, "exit_thresholds": [threshold]}), samples, taken)


@pytest.mark.parametrize("decisions", [False, True])
def test_no_samples(tokens_model, exits_model, decisions):
    result = tokens_model.run(tokens_inputs(0), decisions=decisions)
    assert (result.outputs["logits"].shape, result.exit.shape, result.exit.dtype) == ((0, 3), (0,), np.int64)
    assert result.decisions is None or result.decisions.kept.shape[:2] == (0, 2)
    assert exits_model.run(exits_inputs(0), budget=Budget.fraction(0.5)).macs_fraction.shape == (0,)


def test_every_stages_word_on_every_sample(exits_model):
    inputs = exits_inputs(20)
    stages = exits_model.run_stages(inputs, knobs={"price": 0.5, "exit_thresholds": [0.0, 0.0]})
    samples, _ = expected_exits(inputs, (NEVER, NEVER), price=0.5)
    early = ["confidence", "logits", "macs_fraction"]
    assert [sorted(stage) for stage in stages] == [early, early, early[1:]]
    for number, stage in enumerate(stages):
        np.testing.assert_allclose(stage["logits"], [s.logits[number] for s in samples], atol=1e-5)
        if number < 2:
            np.testing.assert_allclose(stage["confidence"], [s.confidence[number] for s in samples], atol=1e-6)
        np.testing.assert_allclose(stage["macs_fraction"], [s.macs_fraction[number] for s in samples], atol=1e-6)
    empty = exits_model.run_stages(exits_inputs(0))
    shapes = {"logits": (0, 3), "macs_fraction": (0,)}
    early = shapes | {"confidence": (0,)}
    assert [{name: array.shape for name, array in stage.items()} for stage in empty] == [early, early, shapes]


def test_one_stages_word(model, x):
    (stage,) = model.run_stages({"x": x}, knobs={"price": 0.3})
    result = model.run({"x": x}, knobs={"price": 0.3})
    np.testing.assert_array_equal(stage["logits"], result.outputs["logits"])
    np.testing.assert_array_equal(stage["macs_fraction"], result.macs_fraction)
    assert result.exit is None


def test_the_confidence_is_an_output_where_the_bundle_says_so(exits, edit):
    edit(exits, lambda b: b["outputs"].append({"name": "confidence", "dtype": "float32", "shape": ["batch"]}))
    inputs = exits_inputs(40)
    result = load(exits).run(inputs, knobs={"exit_thresholds": [0.8, 0.45]})
    samples, taken = expected_exits(inputs, (0.8, 0.45))
    expected = [sample.confidence[stage] for sample, stage in zip(samples, taken, strict=True)]
    np.testing.assert_allclose(result.outputs["confidence"], expected, atol=1e-6)


def test_states_pass_without_a_copy_where_nobody_leaves(exits_model, monkeypatch):
    """What a stage takes is the very array that the one before gave, over memory that is ONNX Runtime's."""
    given, taken = [], []

    def watch(backend):
        real = backend.run_values

        def run_values(feeds, outputs):
            taken.append(dict(feeds))
            given.append(dict(zip(outputs, real(feeds, outputs), strict=True)))
            return [given[-1][name] for name in outputs]

        monkeypatch.setattr(backend, "run_values", run_values)

    for backend in exits_model.backends:
        watch(backend)
    exits_model.run(exits_inputs(8), knobs={"exit_thresholds": [0.9999, 0.9999]})
    for before, after in ((0, 1), (1, 2)):
        assert taken[after]["hidden"] is given[before]["next_hidden"]
        assert taken[after]["macs_before"] is given[before]["macs_fraction"]
    assert not given[0]["next_hidden"].flags.owndata
    assert "confidence" not in given[2] and "probability" not in given[0]


def test_only_the_inputs_and_knobs_that_a_stage_takes_are_fed(exits_model):
    assert [sorted(backend.inputs) for backend in exits_model.backends] == [
        ["price", "x"],
        ["hidden", "macs_before", "scale"],
        ["hidden", "hint", "macs_before", "price"],
    ]
    assert exits_model.backend is exits_model.backends[0]


@pytest.mark.parametrize(
    "value,match",
    [
        ([0.5], "got 1 values, expected 2, or one number for all"),
        ([0.5] * 3, "got 3 values, expected 2"),
        ([], "got 0 values"),
        ([0.5, float("nan")], r"'exit_thresholds': got nan, expected a number, or 2 of them, from -inf to inf"),
        (float("nan"), "got nan"),
        ([0.5, 1e39], r"got 1e\+39"),
        ([True, 0.5], "got True"),
        (["0.5", 0.5], "got '0.5'"),
        ("0.5", "got '0.5'"),
        (np.array([[0.5, 0.5]]), r"got array\(\[\[0\.5, 0\.5\]\]\)"),
        (np.full((40, 40), 0.5), "got array"),
        ({0: 0.5, 1: 0.5}, "got {0: 0.5"),
        (10**400, "got 1000"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_wrong_thresholds(exits_model, value, match):
    with pytest.raises(InputError, match=match) as caught:
        exits_model.run(exits_inputs(2), knobs={"exit_thresholds": value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_thresholds_need_not_descend(exits_model):
    inputs = exits_inputs(40)
    for thresholds in ((0.4, 0.8), (0.8, 0.4)):
        result = exits_model.run(inputs, knobs={"exit_thresholds": list(thresholds)})
        require(result, *expected_exits(inputs, thresholds))


def test_whole_number_knobs_take_no_fractions(tokens_model):
    with pytest.raises(InputError, match=r"'capacity': got 0\.5, expected a whole number \(int32\)"):
        tokens_model.run(tokens_inputs(2), knobs={"capacity": [0.5, 1]})
    assert tokens_model.run(tokens_inputs(2), knobs={"capacity": (1, 2.0)}).knobs["capacity"] == [1.0, 2.0]


def test_a_budget_sets_the_thresholds(exits_model):
    inputs = {"scale": np.ones(1, np.float32)}
    inputs |= {"x": reference.eighths(100, 400, 6), "hint": reference.eighths(101, 400, 2)}  # as calibrated
    for share in (0.3, 0.45, 0.6, 0.8, 0.92):
        result = exits_model.run(inputs, budget=Budget.fraction(share))
        assert result.macs_fraction.mean() == pytest.approx(share, abs=0.08)
        assert len(result.knobs["exit_thresholds"]) == 2
    at_points = [exits_model.run(inputs, knobs=point.knobs).macs_fraction.mean() for point in exits_model.bundle.curve]
    np.testing.assert_allclose(at_points, [point.macs_fraction for point in exits_model.bundle.curve], atol=1e-4)


def test_a_hard_budget_costs_every_sample_the_same(tokens_model):
    result = tokens_model.run(tokens_inputs(64), budget=Budget.fraction(1.0, hard=True))
    assert result.knobs["capacity"] == [1.0, 1.0]
    assert np.ptp(result.macs_fraction) < 1e-6 and result.macs_fraction.max() <= 1.0
    soft = tokens_model.run(tokens_inputs(64), budget=Budget.fraction(0.5))
    assert np.ptp(soft.macs_fraction) > 0.1
    too_low = tokens_model.run(tokens_inputs(2), budget=Budget.fraction(0.1, hard=True))
    assert not too_low.reachable and "0.1 of the dense work for each sample" in too_low.message


def test_a_hard_budget_of_a_bundle_without_hard_points(exits_model):
    with pytest.raises(BudgetError, match="`capacity`.*calibrate it for hard budgets.*or ask for a soft one") as caught:
        exits_model.run(exits_inputs(2), budget=Budget.fraction(0.5, hard=True))
    assert "\n" not in str(caught.value)


def test_results_are_the_callers_own(exits_model):
    budget = Budget.fraction(0.5)
    first = exits_model.run(exits_inputs(2), budget=budget)
    first.knobs["exit_thresholds"][0] = 0.123
    exits_model.operating_point(budget).knobs["exit_thresholds"][0] = 0.123
    assert exits_model.run(exits_inputs(2), budget=budget).knobs["exit_thresholds"][0] != 0.123


def test_arrays_that_are_not_contiguous_or_read_only(exits_model):
    inputs = exits_inputs(40)
    expected = exits_model.run(rows(inputs, np.arange(0, 40, 2)), knobs={"exit_thresholds": 0.6})
    strided = rows(inputs, slice(None, None, 2))
    for array in strided.values():
        array.setflags(write=False)
    result = exits_model.run(strided, knobs={"exit_thresholds": 0.6})
    np.testing.assert_array_equal(result.outputs["logits"], expected.outputs["logits"])
    np.testing.assert_array_equal(result.exit, expected.exit)


def test_threads_do_not_disturb_each_other():
    model = load(FIXTURES / "tokens", threads=1)
    inputs = tokens_inputs(24)
    budgets = [Budget.fraction(share, hard=hard) for share in (0.25, 0.4, 0.8, 1.0) for hard in (False, True)]
    alone = [model.run(inputs, budget=budget, decisions=True) for budget in budgets]

    def call(number: int) -> bool:
        expected = alone[number % len(alone)]
        got = model.run(inputs, budget=budgets[number % len(alone)], decisions=bool(number % 3))
        same = got.decisions is None or bool((got.decisions.learners == expected.decisions.learners).all())
        return (
            same and got.knobs == expected.knobs and bool((got.outputs["logits"] == expected.outputs["logits"]).all())
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(400)))


def test_a_failing_stage_is_named(exits_model):
    with pytest.raises(BackendError, match=r"stage1\.onnx: onnxruntime .* failed on hidden \[2, 9\]") as caught:
        exits_model.backends[1].run_values(
            {"hidden": np.zeros((2, 9), np.float32), "macs_before": np.zeros(2, np.float32),
             "scale": np.ones(1, np.float32)},
            ["logits"],
        )  # fmt: skip
    assert "\n" not in str(caught.value)


def test_stages_side_by_side_do_not_spin(monkeypatch):
    """Each session has its own threads; those of one stage must not keep the cores from the next."""
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession

    def session(model, options, **keywords):
        try:
            seen.append(options.get_session_config_entry("session.force_spinning_stop"))
        except RuntimeError:
            seen.append(None)
        return real(model, options, **keywords)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    load(FIXTURES / "exits")
    load(FIXTURES / "tiny")
    assert seen == ["1", "1", "1", None]


def test_reads_what_was_written():
    for name in ("exits", "tokens"):
        bundle = read_bundle(FIXTURES / name)
        assert [stage.exit for stage in bundle.stages][-1] == "final"
        assert bundle.stages[1].carry[0].name == "hidden"
