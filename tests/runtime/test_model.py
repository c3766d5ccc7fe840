from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime import Budget, BudgetError, Result, load

TINY = Path(__file__).parent / "fixtures" / "tiny"


def run_bare(inputs, price):
    """The same file in a plain onnxruntime session, as a user without adaptrt would run it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(TINY / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {**inputs, "price": np.array([price], np.float32)}
    return dict(zip(("logits", "macs_fraction"), session.run(["logits", "macs_fraction"], feeds), strict=True))


@pytest.mark.parametrize("price", [0.0, 0.1, 0.35, 0.7, 1.0])
def test_same_as_the_plain_file_with_a_price_set_by_hand(model, x, price):
    result = model.run({"x": x}, knobs={"price": price})
    bare = run_bare({"x": x}, price)
    np.testing.assert_array_equal(result.outputs["logits"], bare["logits"])
    np.testing.assert_array_equal(result.macs_fraction, bare["macs_fraction"])


def test_result(model, x):
    result = model.run({"x": x}, budget=Budget.fraction(0.5))
    assert isinstance(result, Result)
    assert list(result.outputs) == ["logits"]
    assert result.outputs["logits"].shape == (32, 3)
    assert result.macs_fraction.shape == (32,)
    assert result.macs_fraction.dtype == np.float32
    assert result.latency_ms > 0
    assert result.budget == Budget.fraction(0.5)
    assert result.knobs == model.operating_point(Budget.fraction(0.5)).knobs
    assert (result.reachable, result.message) == (True, None)
    with pytest.raises(AttributeError, match="immutable"):
        result.latency_ms = 0.0


def test_mean_work_follows_the_budget(model):
    x = np.random.default_rng(5).standard_normal((20_000, 4)).astype(np.float32)
    for share in (0.25, 0.4, 0.5, 0.75, 0.9):
        assert model.run({"x": x}, budget=Budget.fraction(share)).macs_fraction.mean() == pytest.approx(share, abs=0.03)
    work = [model.run({"x": x}, knobs={"price": p}).macs_fraction.mean() for p in np.linspace(0, 1, 21)]
    assert all(np.diff(work) <= 0)


def test_an_unreachable_budget_runs_the_cheapest_and_says_so(model, x):
    result = model.run({"x": x}, budget=Budget.fraction(0.05))
    assert not result.reachable
    assert result.message is not None
    assert "0.05 of the dense work" in result.message
    assert "0.2 of the dense work" in result.message
    np.testing.assert_allclose(result.macs_fraction, 0.2)


def test_macs(model, x):
    assert model.run({"x": x}, budget=Budget.macs(30)).knobs == model.run({"x": x}, budget=Budget.fraction(0.5)).knobs


def test_full_runs_everything(model, x):
    np.testing.assert_allclose(model.run({"x": x}).macs_fraction, 1.04, rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_a_sample_alone_and_in_a_batch(model, batch):
    x = np.random.default_rng(batch).standard_normal((batch, 4)).astype(np.float32)
    together = model.run({"x": x}, budget=Budget.fraction(0.5))
    for row in range(batch):
        alone = model.run({"x": x[row : row + 1]}, budget=Budget.fraction(0.5))
        np.testing.assert_allclose(alone.outputs["logits"][0], together.outputs["logits"][row], rtol=0, atol=1e-6)
        assert alone.macs_fraction[0] == together.macs_fraction[row]


def test_no_samples(model, x):
    result = model.run({"x": x[:0]}, budget=Budget.fraction(0.5))
    assert result.outputs["logits"].shape == (0, 3)
    assert result.outputs["logits"].dtype == np.float32
    assert result.macs_fraction.shape == (0,)
    assert result.budget == Budget.fraction(0.5)


def test_no_samples_never_reach_the_graph(recording, x):
    model, backend = recording()
    model.run({"x": x[:0]})
    assert backend.feeds == []


@pytest.mark.parametrize(
    "view",
    [lambda a: a[::2], lambda a: a[::-1], np.asfortranarray, lambda a: a.astype(np.float32, order="F")[3:9]],
    ids=["strided", "reversed", "fortran", "slice"],
)
def test_arrays_that_are_not_contiguous(model, x, view):
    result = model.run({"x": view(x)})
    np.testing.assert_array_equal(result.outputs["logits"], model.run({"x": view(x).copy()}).outputs["logits"])


def test_read_only_and_memory_mapped_arrays(model, x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(model.run({"x": mapped}).outputs["logits"], model.run({"x": x}).outputs["logits"])


def test_results_are_the_callers_own(model, x):
    first = model.run({"x": x})
    first.outputs["logits"][:] = 0
    first.knobs["price"] = 9.0
    model.operating_point().knobs["price"] = 9.0
    assert model.run({"x": x}).knobs == {"price": 0.0}
    assert model.run({"x": x}).outputs["logits"].any()


def test_the_callers_dictionary_is_left_alone(model, x):
    inputs = {"x": x}
    model.run(inputs, budget=Budget.fraction(0.5))
    assert list(inputs) == ["x"]


def test_budget_of_the_model_and_of_a_call(x):
    model = load(TINY, threads=1)
    assert model.budget == Budget.full()
    model.budget = Budget.fraction(0.5)
    assert model.budget == Budget.fraction(0.5)
    assert model.operating_point() == model.operating_point(Budget.fraction(0.5))
    assert model.run({"x": x}).budget == Budget.fraction(0.5)
    assert model.run({"x": x}, budget=Budget.full()).budget == Budget.full()
    assert model.run({"x": x}, knobs={"price": 0.2}).budget is None
    assert model.budget == Budget.fraction(0.5)


@pytest.mark.parametrize("wrong", [0.5, None, "full", 1, np.float32(0.3)])
def test_a_budget_that_is_none(x, wrong):
    model = load(TINY, threads=1)
    with pytest.raises(BudgetError, match=r"expected a Budget; pass Budget\.fraction\(0\.5\)"):
        model.budget = wrong
    assert model.budget == Budget.full()
    if wrong is not None:
        with pytest.raises(BudgetError):
            model.run({"x": x}, budget=wrong)


def test_a_bundle_without_a_curve(tiny, edit, x):
    edit(tiny, lambda b: b.update(curve=[]))
    model = load(tiny)
    with pytest.raises(BudgetError, match="adaptrt calibrate"):
        model.budget = Budget.fraction(0.5)
    with pytest.raises(BudgetError, match="adaptrt calibrate"):
        model.run({"x": x}, budget=Budget.macs(30))
    assert model.run({"x": x}).knobs == {"price": 0.0}
    assert model.run({"x": x}, knobs={"price": 1.0}).macs_fraction.max() < 0.21


@given(st.floats(0, 2))
def test_every_budget_feeds_one_float32_price(recording, share):
    model, backend = recording()
    result = model.run({"x": np.zeros((1, 4), np.float32)}, budget=Budget.fraction(share))
    price = backend.feeds[0]["price"]
    assert (price.shape, price.dtype) == ((1,), np.float32)
    assert price[0] == np.float32(result.knobs["price"])


def test_thousands_of_different_budgets(recording, x):
    model, _ = recording()
    for share in np.linspace(0.2, 1.0, 2000):
        model.run({"x": x}, budget=Budget.fraction(share))


def test_each_thread_gets_its_own_budget():
    model = load(TINY, threads=1)
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    shares = np.linspace(0.2, 1.04, 16)
    alone = [model.run({"x": x}, budget=Budget.fraction(share)) for share in shares]

    def call(number: int) -> bool:
        expected = alone[number % 16]
        model.budget = Budget.fraction(shares[(number * 7) % 16])  # others must not care
        result = model.run({"x": x}, budget=Budget.fraction(shares[number % 16]))
        return (
            result.knobs == expected.knobs
            and bool((result.macs_fraction == expected.macs_fraction).all())
            and bool((result.outputs["logits"] == expected.outputs["logits"]).all())
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(800)))


def test_a_call_sees_one_budget_from_beginning_to_end(recording):
    """While others set the budget, what is reported is what was fed."""
    model, _ = recording()
    points = {budget: model.operating_point(budget) for budget in map(Budget.fraction, np.linspace(0.2, 1.0, 8))}
    budgets = list(points)
    model.budget = budgets[0]

    def call(number: int) -> bool:
        model.budget = budgets[number % 8]
        result = model.run({"x": np.zeros((2, 4), np.float32)})
        assert result.budget is not None
        return result.knobs == points[result.budget].knobs and bool(
            (result.macs_fraction == np.float32(result.knobs["price"])).all()
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(2000)))
