"""What the calls of one model came to, counted for a Prometheus endpoint."""

from __future__ import annotations

import threading

from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.result import Result
from adaptrt.runtime.telemetry.latency_histogram import LatencyHistogram
from adaptrt.runtime.telemetry.prometheus import ModelCounters

_MEMORY = 0.95


class CallMetrics:
    """Counts calls; for any number of threads, some microseconds each.

    Attributes:
        latency: Of the calls.
        met, missed: Calls under a budget of latency or energy, or with a deadline, that kept it, and that did not.
    """

    def __init__(self) -> None:
        self.latency = LatencyHistogram()
        self.met = self.missed = 0
        self._fraction: float | None = None
        self._budget: Budget | None = None
        self._lock = threading.Lock()

    def observe(self, result: Result) -> None:
        """Count one call."""
        self.latency.observe(result.latency_ms / 1e3)
        fraction = float(result.macs_fraction.mean()) if len(result.macs_fraction) else None
        kept = result.target_met
        with self._lock:
            self._budget = result.budget
            if fraction is not None:
                known = fraction if self._fraction is None else self._fraction
                self._fraction = _MEMORY * known + (1 - _MEMORY) * fraction
            if kept is not None:
                self.met += kept
                self.missed += not kept

    def counters(self, name: str) -> ModelCounters:
        """For the endpoint, under the model's name."""
        return ModelCounters(
            name,
            self.latency,
            macs_fraction=lambda: self._fraction,
            budget=lambda: None if self._budget is None else (self._budget.kind, self._budget.value),
            targets_met=lambda: self.met,
            targets_missed=lambda: self.missed,
        )
