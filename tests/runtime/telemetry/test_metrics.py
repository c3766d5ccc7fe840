"""What a model's calls come to, scraped over HTTP."""

from __future__ import annotations

import gc
import urllib.request
import weakref
from pathlib import Path

import numpy as np
import pytest

from adaptrt.runtime import Budget, TelemetryError, load
from tests.runtime.conftest import FIXTURES

pytest.importorskip("prometheus_client", reason="adaptrt[telemetry] is not installed")

X = {"x": np.zeros((2, 6), np.float32), "hint": np.zeros((2, 2), np.float32), "scale": np.ones(1, np.float32)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("adaptrt.runtime.device.profiling.SECONDS", 0.05)


def test_calls_are_counted():
    model = load(FIXTURES / "exits", threads=1)
    model.run(X)
    with model.serve_metrics(port=0) as server:
        model.budget = Budget.latency(1e4)
        for _ in range(3):
            model.run(X)
        model.run(X, budget=Budget.latency(1e-6))
        model.run(X, budget=Budget.full(), deadline_ms=1e-3)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
            text = answer.read().decode()
        with pytest.raises(TelemetryError, match="cannot be had"):
            model.serve_metrics(port=server.port)
    name = model.bundle.name
    counted = {
        outcome: next(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("adaptrt_budget_calls_total") and f'model="{name}"' in line and f'"{outcome}"' in line
        )
        for outcome in ("met", "missed")
    }
    assert counted == {"met": 3, "missed": 2}
    assert any("_count{" in line and float(line.rsplit(" ", 1)[1]) >= 5 for line in text.splitlines())


def test_a_model_that_serves_metrics_is_freed_all_the_same():
    model = load(FIXTURES / "exits", threads=1)
    with model.serve_metrics(port=0):
        gone = weakref.ref(model)
        gc.disable()
        try:
            del model
            assert gone() is None
        finally:
            gc.enable()
