"""A row in a table is all that the runtime needs to select a backend, or to obey a kind of budget."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

from adaptrt.runtime import BackendError, Budget, BudgetError, BundleError, load
from adaptrt.runtime.backends.backend_table import BACKENDS
from adaptrt.runtime.bundle.engine_files import engine_folder, read_engines
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS
from adaptrt.runtime.device.device_budgets import DeviceBudgets
from adaptrt.runtime.plan import Planner
from adaptrt.runtime.result import Result
from tests.added_rows import LOADED, PERMILLE, SECONDS, TARGET, added, backend
from tests.prepared_engines import prepare
from tests.runtime.device.test_device_budgets import profile_of
from tests.runtime.test_imports import SOURCE


@pytest.fixture
def bundle(tiny):
    from adaptrt.runtime.bundle.bundle_file import read_bundle

    return read_bundle(tiny)


def test_a_backend_is_named_selected_and_run(tiny, x):
    expected = load(tiny, threads=1).run({"x": x}).outputs["logits"]
    with added(backend(target="")):
        for name, reason in (("dummy", "it was asked for"), ("auto", "it is the dummy")):
            model = load(tiny, backend=name, threads=1)
            assert (model.backend_name, model.backend_reason) == ("dummy", reason)
            np.testing.assert_array_equal(model.run({"x": x}).outputs["logits"], expected)
        assert [("dummy", tiny)] * 2 == LOADED
        with pytest.raises(BackendError, match=r"expected one of 'onnxruntime', .*, 'dummy', 'auto'"):
            load(tiny, backend="dumy")
    assert "dummy" not in BACKENDS
    with pytest.raises(BackendError, match="got backend 'dummy', expected one of"):
        load(tiny, backend="dummy")


def test_a_backend_that_runs_a_target_of_its_own(tiny, x):
    with added(backend(), TARGET):
        assert "dummy: nothing built for it" in load(tiny, backend="auto").backend_reason
        with pytest.raises(BundleError, match=r"no engines/dummy-fp32 in .*run `adaptrt build .* --target dummy`"):
            load(tiny, backend="dummy")
        prepare(tiny, "dummy", convert=lambda model: model)
        assert read_engines(engine_folder(tiny, "dummy", "fp32")).target == "dummy"
        model = load(tiny, backend="auto")
        assert model.backend_name == "dummy"
        np.testing.assert_array_equal(model.run({"x": x}).outputs["logits"], load(tiny).run({"x": x}).outputs["logits"])
        with pytest.raises(BundleError, match="expected one of openvino, tensorrt, tensorrt-rtx, onnxruntime, dummy"):
            engine_folder(tiny, "onnx", "fp32")
    with pytest.raises(BundleError, match="got target 'dummy'"):
        engine_folder(tiny, "dummy", "fp32")


def test_a_backend_s_file_is_imported_when_it_is_used(tiny):
    code = f"""
import sys
from tests.added_rows import added, backend
import adaptrt.runtime as runtime
from adaptrt.runtime.backends.backend_table import BACKENDS
BACKENDS.add(backend(target="", loader="tests.runtime.added_loader:load"))
assert "tests.runtime.added_loader" not in sys.modules and "onnxruntime" not in sys.modules
try:
    runtime.load({str(tiny)!r}, backend="dummy")
except ModuleNotFoundError as error:
    assert error.name == "tests.runtime.added_loader", error
else:
    raise AssertionError("a loader that is not there was found")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=SOURCE.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_kind_of_budget_of_work_is_obeyed(tiny, x):
    with added(PERMILLE):
        model = load(tiny, threads=1)
        budget, same = Budget("permille", 512), Budget.fraction(0.5)
        assert model.operating_point(budget) == model.operating_point(same)
        shares = [model.run({"x": x}, budget=each).macs_fraction for each in (budget, same)]
        np.testing.assert_array_equal(*shares)
        with pytest.raises(BudgetError, match="256 thousandths of the dense work for each sample, but bundle"):
            model.operating_point(Budget("permille", 256, hard=True))
        assert "got a budget of 0 thousandths" in (model.run({"x": x}, budget=Budget("permille", 0)).message or "")
        assert pickle.loads(pickle.dumps(budget)) == budget and {budget: 1}[Budget("permille", 512)]
        with pytest.raises(BudgetError, match=r"such as Budget\('permille', 500\)"):
            Budget("permille", "many")  # type: ignore[arg-type]
        with pytest.raises(BudgetError, match=r"pass Budget\.fraction\(0\.5\), .* or Budget\('permille', 500\)"):
            model.budget = 0.5  # type: ignore[assignment]
    with pytest.raises(BudgetError, match="got a budget of kind 'permille'; expected fraction, macs"):
        Budget("permille", 1)


def test_a_kind_of_budget_of_time_is_held_like_a_latency(bundle):
    with added(SECONDS):
        planner = Planner(bundle)
        for own in (True, False):
            tickets = []
            for value in (Budget("seconds", 0.012, percentile=0.9), Budget.latency(12.0, percentile=0.9)):
                budgets = DeviceBudgets(planner)
                budgets.use(profile_of(planner))
                ticket = budgets.begin(value, 1, 0.0, for_call=own, profiler=None)  # type: ignore[arg-type]
                budgets.end(ticket, ticket.plan.point.macs_fraction, ticket.expected, 0.1)
                tickets.append((ticket.plan.point, ticket.expected))
            assert tickets[0] == tickets[1]
        with pytest.raises(BudgetError, match="got a hard budget of kind 'seconds'; expected hard=False"):
            Budget("seconds", 1.0, hard=True, percentile=0.9)
        with pytest.raises(BudgetError, match="expected seconds per call, a finite number above 0"):
            Budget("seconds", 0.0, percentile=0.9)


def test_calls_under_an_added_kind_are_counted(tiny, x, monkeypatch, tmp_path):
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path))
    monkeypatch.setattr("adaptrt.runtime.device.profiling.SECONDS", 0.05)
    with added(SECONDS):
        model = load(tiny, threads=1)
        model.budget = Budget("seconds", 5.0, percentile=0.9)
        results: list[Result] = []
        threads = [threading.Thread(target=lambda: results.append(model.run({"x": x}))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 4 and all(result.target_met and result.expected > 0 for result in results)
        assert str(results[0].budget) == "5 s for 0.9 of the calls"
        late = model.run({"x": x}, budget=Budget("seconds", 1e-9, percentile=0.9))
        assert late.target_met is False and "1e-09 s for 0.9 of the calls" in late.message


def test_an_added_kind_has_its_metric():
    client = pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
    from adaptrt.runtime.telemetry import Telemetry
    from adaptrt.runtime.telemetry.prometheus import MetricsCollector, ModelCounters

    with added(SECONDS):
        counters = ModelCounters("digits", budget=lambda: ("seconds", 0.25))
        registry = client.CollectorRegistry()
        registry.register(MetricsCollector(Telemetry([]), [counters]))
        assert 'adaptrt_budget_seconds{model="digits"} 0.25' in client.generate_latest(registry).decode()


def test_budgets_are_the_values_that_they_were():
    assert repr(Budget.latency(8)) == "Budget(kind='latency', value=8.0, hard=False, percentile=0.95)"
    assert Budget.energy(40) == Budget("energy", 40, percentile=0.5) and Budget.power(10).percentile == 0.0
    for kind in BUDGET_KINDS.values():
        budget = eval(kind.call, {"Budget": Budget})
        assert budget.kind == kind.name and pickle.loads(pickle.dumps(budget)) == budget
