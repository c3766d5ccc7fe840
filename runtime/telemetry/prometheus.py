"""Readings and a model's counters for Prometheus, through its client library (``adaptrt[telemetry]``).

Names follow "Metric and label naming" of the Prometheus documentation: base units, the unit last, ``_total``
on what only grows. What is absent is not exported: no series, never 0.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from time import perf_counter
from typing import Any

from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS
from adaptrt.runtime.errors import TelemetryError, one_line
from adaptrt.runtime.telemetry.latency_histogram import LatencyHistogram
from adaptrt.runtime.telemetry.reading import Reading
from adaptrt.runtime.telemetry.telemetry import Telemetry


@dataclass(frozen=True)
class ModelCounters:
    """What a model counts, as callables that are asked at each scrape; one that is None is not exported.

    Attributes:
        name: the label ``model``.
        latency: of each call.
        macs_fraction: the share of the dense model's multiply-accumulates that calls took lately; None
            while there is none.
        budget: kind and value of the budget, in the kind's unit; None, or a kind without a metric, is not
            exported.
        targets_met, targets_missed: calls so far that kept the budget's target, and those that did not.
    """

    name: str
    latency: LatencyHistogram | None = None
    macs_fraction: Callable[[], float | None] | None = None
    budget: Callable[[], tuple[str, float] | None] | None = None
    targets_met: Callable[[], int] | None = None
    targets_missed: Callable[[], int] | None = None


class MetricsCollector:
    """A collector for ``prometheus_client``: register it with a ``CollectorRegistry``.

    A callable that raises costs its own series, not the scrape; ``adaptrt_telemetry_problems`` counts it.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        models: Sequence[ModelCounters] = (),
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """Collect from these.

        Args:
            telemetry: asked at each scrape. Energy without counters (a Jetson's) is only added up where
                readings lie close together: let ``Telemetry.start`` take them.
            models: told apart by their names.
            clock: the one that ``telemetry`` is read with.

        Raises:
            TelemetryError: ``prometheus_client`` is missing, or two models have one name.
        """
        self._families = _client("prometheus_client.core")
        names = [model.name for model in models]
        if len(set(names)) < len(names):
            raise TelemetryError(f"got models named {names}; expected a different name for each")
        self._telemetry = telemetry
        self._models = tuple(models)
        self._clock = clock
        self._exported: dict[str, float] = {}
        self._exporting = Lock()

    def collect(self) -> Iterator[Any]:
        """The metric families of this moment; called by the client library."""
        reading = self._telemetry.read(self._clock())
        problems = list(reading.problems)
        yield from self._device(reading)
        yield from self._energy()
        yield from self._calls(problems)
        yield self._gauge(
            "adaptrt_telemetry_problems", "Sensors and counters that could not be read", [((), len(problems))]
        )

    def _device(self, reading: Reading) -> Iterator[Any]:
        gauges = (
            ("adaptrt_rail_power_watts", "Power by rail", "rail", reading.power_w),
            ("adaptrt_temperature_celsius", "Temperature by zone", "zone", reading.temperature_c),
            ("adaptrt_clock_hertz", "Clock frequency", "clock", reading.clock_hz),
            ("adaptrt_fan_rpm", "Fan speed in revolutions per minute", "fan", reading.fan_rpm),
        )
        for name, text, label, values in gauges:
            if values:
                yield self._gauge(name, text, [((key,), value) for key, value in values.items()], (label,))
        if reading.total_power_w is not None:
            yield self._gauge("adaptrt_power_watts", "Power of the device", [((), reading.total_power_w)])
        if reading.power_mode is not None:
            mode = self._families.InfoMetricFamily("adaptrt_power_mode", "Power mode that is chosen")
            number = reading.power_mode.number
            known = {"name": reading.power_mode.name, "number": None if number is None else str(number)}
            mode.add_metric((), {key: value for key, value in known.items() if value is not None})
            yield mode

    def _energy(self) -> Iterator[Any]:
        device, rails = self._telemetry.energy_totals_j()
        # A current monitor at rest can show less than 0 W; a Prometheus counter that falls has been reset.
        with self._exporting:
            for rail, joules in rails.items():
                rails[rail] = self._exported[rail] = max(joules, self._exported.get(rail, 0.0))
            device = self._exported[""] = max(device, self._exported.get("", 0.0))
        if rails:
            yield self._counter(
                "adaptrt_rail_energy_joules",
                "Energy by rail since this process began to read",
                [((rail,), joules) for rail, joules in rails.items()],
                ("rail",),
            )
            yield self._counter(
                "adaptrt_energy_joules", "Energy of the device since this process began to read", [((), device)]
            )

    def _calls(self, problems: list[str]) -> Iterator[Any]:
        latencies = [(model.name, model.latency) for model in self._models if model.latency is not None]
        if latencies:
            histogram = self._families.HistogramMetricFamily(
                "adaptrt_latency_seconds", "Latency of calls", labels=("model",)
            )
            for name, latency in latencies:
                buckets, sum_s = latency.snapshot()
                shown = [("+Inf" if math.isinf(bound) else repr(bound), count) for bound, count in buckets]
                histogram.add_metric((name,), shown, sum_s)
            yield histogram
        shares = _asked(((model.name, model.macs_fraction) for model in self._models), problems)
        if shares:
            yield self._gauge(
                "adaptrt_macs_fraction_ratio",
                "Share of the dense model's multiply-accumulates that calls took",
                [((name,), share) for name, share in shares.items()],
                ("model",),
            )
        budgets = _asked(((model.name, model.budget) for model in self._models), problems)
        for kind in BUDGET_KINDS.values():
            gauge = kind.gauge
            if gauge is None:
                continue
            values = [((name,), value * gauge.factor) for name, (given, value) in budgets.items() if given == kind.name]
            if values:
                yield self._gauge(gauge.name, f"Budget: {gauge.help}", values, ("model",))
        outcomes = [
            ((name, outcome), count)
            for outcome, asked in (
                ("met", ((model.name, model.targets_met) for model in self._models)),
                ("missed", ((model.name, model.targets_missed) for model in self._models)),
            )
            for name, count in _asked(asked, problems).items()
        ]
        if outcomes:
            yield self._counter(
                "adaptrt_budget_calls", "Calls that met or missed the budget's target", outcomes, ("model", "outcome")
            )

    def _gauge(self, name: str, text: str, values: Iterable[tuple[Any, float]], labels: Sequence[str] = ()) -> Any:
        return _filled(self._families.GaugeMetricFamily(name, text, labels=labels), values)

    def _counter(self, name: str, text: str, values: Iterable[tuple[Any, float]], labels: Sequence[str] = ()) -> Any:
        return _filled(self._families.CounterMetricFamily(name, text, labels=labels), values)


class MetricsServer:
    """Serves metrics over HTTP in a thread of its own until it is closed.

    Attributes:
        port: the one it listens on, also where 0 was asked for.
    """

    def __init__(self, collector: MetricsCollector, port: int = 9464, address: str = "127.0.0.1") -> None:
        """Serve at ``http://address:port/metrics``.

        Args:
            collector: what is served.
            port: 0 takes any that is free.
            address: this machine alone unless told otherwise: there is no password.

        Raises:
            TelemetryError: ``prometheus_client`` is missing, or the port cannot be had.
        """
        client = _client("prometheus_client")
        registry = client.CollectorRegistry()
        registry.register(collector)
        try:
            self._server, self._thread = client.start_http_server(port, addr=address, registry=registry)
        except (OSError, OverflowError) as error:
            raise TelemetryError(
                f"got {address}:{port} for the metrics, which cannot be had ({one_line(error)}); choose another port, "
                "0 for any"
            ) from error
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _client(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise TelemetryError(
            "got no package prometheus_client, expected it for metrics; install adaptrt[telemetry]"
        ) from None


def _asked(callables: Iterable[tuple[str, Callable[[], Any] | None]], problems: list[str]) -> Mapping[str, Any]:
    answers = {}
    for name, ask in callables:
        if ask is None:
            continue
        try:
            answer = ask()
        except Exception as error:
            problems.append(f"{name}: {one_line(error)}")
            continue
        if answer is not None:
            answers[name] = answer
    return answers


def _filled(family: Any, values: Iterable[tuple[Any, float]]) -> Any:
    for labels, value in values:
        family.add_metric(labels, value)
    return family
