"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adaptrt.runtime.serving.requests import Answer

_SECONDS = (*(factor * 10.0**decade for decade in range(-4, 1) for factor in (1, 2, 5)), 10.0)
_SHARES = tuple(step / 10 for step in range(1, 12))
_SAMPLES = tuple(2.0**power for power in range(11))


class ServingMetrics:
    """Counters and histograms of one server, by model and protocol.

    Args:
        waiting: tells how many requests wait.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self._requests = Counter(
            "adaptrt_serving_requests",
            "Requests by how they ended",
            ("model", "protocol", "outcome"),
            registry=self.registry,
        )
        self._latency = Histogram(
            "adaptrt_serving_request_seconds",
            "From a request's arrival to its answer",
            ("model", "protocol"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._queued = Histogram(
            "adaptrt_serving_queue_seconds",
            "That requests waited until their call began",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._work = Histogram(
            "adaptrt_serving_work_ratio",
            "Share of the dense model's multiply-accumulates, by request",
            ("model",),
            buckets=_SHARES,
            registry=self.registry,
        )
        self._batches = Histogram(
            "adaptrt_serving_batch_samples",
            "Samples of a call",
            ("model",),
            buckets=_SAMPLES,
            registry=self.registry,
        )
        gauge = Gauge("adaptrt_serving_waiting_requests", "Requests that wait", registry=self.registry)
        gauge.set_function(waiting)

    def ended(self, model: str, protocol: str, outcome: str, seconds: float) -> None:
        """A request ended.

        Args:
            model: a served one; empty for any other, whose name is the client's.
            protocol: that it came by.
            outcome: a name of ``OUTCOMES``.
            seconds: since its arrival.
        """
        self._requests.labels(model, protocol, outcome).inc()
        if outcome == "answered":
            self._latency.labels(model, protocol).observe(seconds)

    def ran(self, model: str, queued_s: float, answer: Answer) -> None:
        """A request's call ended."""
        self._queued.labels(model).observe(queued_s)
        work: Any = answer.parameters.get("macs_fraction")
        if work is not None:
            self._work.labels(model).observe(work)

    def called(self, model: str, samples: int) -> None:
        """A call ended."""
        self._batches.labels(model).observe(samples)

    def text(self) -> tuple[bytes, str]:
        """All of it as Prometheus reads it, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
