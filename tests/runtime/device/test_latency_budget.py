"""Latency budgets and deadlines on real bundles."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest

from adaptrt.runtime import AdaptiveModel, Budget, BudgetError, InputError, load
from tests.runtime.conftest import FIXTURES, TINY


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("adaptrt.runtime.device.profiling.SECONDS", 0.05)
    monkeypatch.setattr("adaptrt.runtime.device.profile._PAUSE_S", 0.01)
    return tmp_path / "cache" / "profiles"


def inputs_of(model: AdaptiveModel, samples: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    made = {}
    for spec in model.bundle.inputs:
        shape = [samples if size == "batch" else size for size in spec.shape]
        made[spec.name] = generator.random(shape).astype(spec.dtype)
    return made


@pytest.fixture
def model() -> AdaptiveModel:
    return load(FIXTURES / "exits", threads=1)


def test_the_first_call_profiles_and_the_next_load_does_not(model: AdaptiveModel, cache: Path):
    x = inputs_of(model, 1)
    model.budget = Budget.latency(1000.0)
    assert not cache.exists()
    result = model.run(x)
    assert len(list(cache.iterdir())) == 1
    assert result.budget == Budget.latency(1000.0) and result.reachable and result.expected > 0
    again = load(FIXTURES / "exits", threads=1)
    again._device.profile = None  # type: ignore[method-assign] - not to be called
    assert again.run(x, budget=Budget.latency(1000.0)).expected is not None


def test_generous_runs_everything_and_unreachable_the_cheapest(model: AdaptiveModel):
    x = inputs_of(model, 1)
    model.budget = Budget.latency(1e6)
    for _ in range(3):
        result = model.run(x)
    assert result.knobs == model.run(x, budget=Budget.full()).knobs and result.reachable
    for own in (None, Budget.latency(1e-6)):
        model.budget = Budget.latency(1e-6)
        result = model.run(x, budget=own)
        assert not result.reachable and "ran that one" in result.message
        assert result.knobs == model.run(x, budget=Budget.fraction(0.0)).knobs


def test_a_latency_budget_leaves_sensors_alone_that_nobody_asked_for(model: AdaptiveModel):
    x = inputs_of(model, 1)
    assert model.run(x, budget=Budget.latency(1000.0)).telemetry is None
    model.telemetry()
    assert model.run(x).telemetry is not None


def test_a_call_with_its_own_budget_teaches_nothing(model: AdaptiveModel):
    x = inputs_of(model, 1)
    model.budget = Budget.latency(5.0)
    model.run(x)
    controller = model._device.budgets._controller
    state = dict(controller._device.__dict__)
    for _ in range(5):
        model.run(x, budget=Budget.latency(0.5))
    assert model._device.budgets._controller is controller and controller._device.__dict__ == state
    model.budget = Budget.latency(5.0)
    assert model._device.budgets._controller is None


def test_batches_of_any_size(model: AdaptiveModel):
    model.budget = Budget.latency(50.0)
    for samples in (1, 3, 64, 1, 3):
        result = model.run(inputs_of(model, samples))
        assert len(result.macs_fraction) == samples and result.expected > 0
    empty = model.run(inputs_of(model, 0))
    assert len(empty.macs_fraction) == 0 and empty.expected is None


def test_many_threads_share_one_profile_and_one_controller(model: AdaptiveModel, cache: Path):
    model.budget = Budget.latency(5.0)
    x, failed = inputs_of(model, 1), []

    def work() -> None:
        try:
            for _ in range(20):
                assert model.run(x).expected > 0
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(list(cache.iterdir())) == 1


def test_profile_says_what_was_measured(model: AdaptiveModel):
    told: list[float] = []
    profile = model.profile(inputs_of(model, 2), progress=told.append, seconds=0.05)
    assert profile.key.batch == 2 and profile.key.threads == 1 and "onnxruntime" in profile.key.backend
    shares = [point.fraction for point in profile.points]
    assert shares == sorted(shares) and told[-1] == 1.0
    assert all(point.p95_ms >= point.median_ms > 0 for point in profile.points)
    with pytest.raises(InputError, match="empty batch"):
        model.profile(inputs_of(model, 0))


@pytest.mark.parametrize("budget", [Budget.energy(5.0), Budget.power(5.0)])
def test_without_a_sensor_there_is_no_energy_budget(model: AdaptiveModel, budget: Budget):
    with pytest.raises(BudgetError, match="no sensor of this device"):
        model.budget = budget
    with pytest.raises(BudgetError, match="no sensor of this device"):
        model.run(inputs_of(model, 1), budget=budget)


def test_latency_needs_a_curve(tiny: Path, edit):
    edit(tiny, lambda content: content.update(curve=[]))
    with pytest.raises(BudgetError, match="no calibrated curve"):
        load(tiny).budget = Budget.latency(5.0)


def test_a_deadline_that_is_far_changes_nothing(model: AdaptiveModel):
    x = inputs_of(model, 6)
    result, usual = model.run(x, deadline_ms=60_000), model.run(x)
    assert result.deadline_met and usual.deadline_met is None
    np.testing.assert_array_equal(result.exit, usual.exit)
    for name, array in usual.outputs.items():
        np.testing.assert_array_equal(result.outputs[name], array)


def test_a_deadline_that_is_near_takes_the_first_answer(model: AdaptiveModel):
    x = inputs_of(model, 6)
    result = model.run(x, deadline_ms=1e-3)
    assert not result.deadline_met and (result.exit == 0).all()
    first = model.run_stages(x)[0]
    for name, array in result.outputs.items():
        np.testing.assert_array_equal(array, first[name])
    np.testing.assert_array_equal(result.macs_fraction, first["macs_fraction"])


@pytest.mark.parametrize("samples", [1, 6])
def test_a_deadline_between_takes_the_stages_that_fit(model: AdaptiveModel, samples: int):
    x = inputs_of(model, samples)
    model.run(x, deadline_ms=1e6)
    for _ in range(300):  # as if the last stage took a minute
        model._engines._times.add(2, samples, 60.0)
    result = model.run(x, deadline_ms=30_000.0)
    assert result.deadline_met and (result.exit == 1).all()
    for name, array in model.run_stages(x)[1].items():
        if name in result.outputs:
            np.testing.assert_allclose(result.outputs[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("deadline", [0, -1.0, math.nan, math.inf, True, "5", 10**400])
def test_deadlines_that_are_none(model: AdaptiveModel, deadline):
    with pytest.raises(BudgetError, match="deadline_ms"):
        model.run(inputs_of(model, 1), deadline_ms=deadline)


def test_a_deadline_needs_exits():
    single = load(TINY, threads=1)
    with pytest.raises(BudgetError, match="no exits"):
        single.run(inputs_of(single, 1), deadline_ms=5.0)
