"""The live view of ``adaptrt run --watch``: a bundle called again and again under its budget."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptrt.cli.batches import count_samples, repeated
from adaptrt.cli.interrupts import stop_if_interrupted
from adaptrt.runtime import Budget
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, TIME

if TYPE_CHECKING:
    from rich.table import Table

    from adaptrt.runtime import AdaptiveModel, Result

_KEPT = 500  # calls that the numbers shown are about
_FRAME_S = 0.1
_LOG_S = 5.0
_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60
_SENSORS = 4


@dataclass
class Watched:
    """What is known of the calls so far.

    Attributes:
        budget: That they are to obey.
        batch: Samples of a call.
        calls: Their number.
        missed: How many did not keep a budget that each call keeps or misses.
        latest: The last call.
        milliseconds: Of the latest calls.
        fractions: Their shares of the dense work.
    """

    budget: Budget
    batch: int = 1
    calls: int = 0
    missed: int = 0
    latest: Result | None = None
    milliseconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    fractions: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def add(self, result: Result) -> None:
        """Take in a call."""
        self.calls += 1
        self.latest = result
        self.milliseconds.append(result.latency_ms)
        self.fractions.append(float(result.macs_fraction.mean()))
        self.missed += result.target_met is False

    def describe(self) -> dict[str, Any]:
        """The numbers as they stand, for JSON and for the table."""
        latest, times = self.latest, np.array(self.milliseconds)
        counted = BUDGET_KINDS[self.budget.kind].meter.per_call and self.calls
        return {
            "budget": str(self.budget),
            "batch": self.batch,
            "calls": self.calls,
            "latency_ms": None if latest is None else latest.latency_ms,
            "median_ms": float(np.median(times)) if len(times) else None,
            "p95_ms": float(np.quantile(times, 0.95)) if len(times) else None,
            "macs_fraction": float(np.mean(self.fractions)) if self.fractions else None,
            "met": 1 - self.missed / self.calls if counted else None,
            "reachable": None if latest is None else latest.reachable,
            "energy_mj": None if latest is None else latest.energy_mj,
        }


def calls(
    model: AdaptiveModel, inputs: Mapping[str, Any], budget: Budget, *, batch: int, seconds: float | None
) -> Iterator[Watched]:
    """Call a model with batches of its inputs, in turn, until the time is over or the caller stops."""
    model.budget = budget
    watched = Watched(budget, batch)
    count = count_samples(model.bundle, inputs)
    end: float | None = None
    start = 0
    while end is None or time.monotonic() < end:
        stop_if_interrupted()
        watched.add(model.run(repeated(model.bundle, inputs, start, batch)))
        start = (start + batch) % count
        if end is None and seconds is not None:
            end = time.monotonic() + seconds  # the first call may have profiled
        yield watched


def watch(
    model: AdaptiveModel, inputs: Mapping[str, Any], budget: Budget, *, batch: int, seconds: float | None
) -> Watched:
    """Show calls as they go, in a log a line every five seconds, until the time is over or Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    shown, watched = 0.0, Watched(budget, batch)
    model.telemetry()  # results carry it from now on
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
    with contextlib.suppress(KeyboardInterrupt), live or contextlib.nullcontext():
        for watched in calls(model, inputs, budget, batch=batch, seconds=seconds):
            if time.monotonic() - shown < (_FRAME_S if live else _LOG_S):
                continue
            shown = time.monotonic()
            if live is None:
                console.print(summary(watched), soft_wrap=True)
            else:
                live.update(view(model, watched), refresh=True)
    return watched


def summary(watched: Watched) -> str:
    """How it went, in one line."""
    known = watched.describe()
    if not known["calls"]:
        return "no calls"
    met = "" if known["met"] is None else f", target met by {known['met']:.1%} of them"
    batch = f"{watched.batch} sample{'s' * (watched.batch > 1)} each"
    return f"{known['calls']} calls, {batch}, median {known['median_ms']:.3f} ms, 95% {known['p95_ms']:.3f} ms{met}"


def view(model: AdaptiveModel, watched: Watched) -> Table:
    """One frame."""
    from adaptrt.cli import tables

    known, latest = watched.describe(), watched.latest
    rows = tables.table("", "<", "<<")
    rows.show_header = False
    rows.add_row("budget", known["budget"])
    rows.add_row("batch", f"{watched.batch} sample{'s' * (watched.batch > 1)} a call")
    if latest is None:
        return rows
    rows.add_row("latency", f"{known['latency_ms']:.3f} ms; median {known['median_ms']:.3f}, 95% {known['p95_ms']:.3f}")
    kind = BUDGET_KINDS[watched.budget.kind]
    highest = watched.budget.value * kind.factor * 1.5 if kind.meter is TIME else max(watched.milliseconds)
    rows.add_row("", sparkline(list(watched.milliseconds)[-_WIDTH:], highest))
    rows.add_row("of dense MACs", tables.percent(known["macs_fraction"]))
    rows.add_row("", sparkline(list(watched.fractions)[-_WIDTH:], 1.1))
    if latest.budget is not None:
        quality = model.operating_point(Budget.fraction(known["macs_fraction"])).quality
        rows.add_row("quality expected", tables.NONE if quality is None else f"{quality:.4f}")
    if known["met"] is not None:
        rows.add_row("target met", f"{known['met']:.1%} of {known['calls']} calls")
    if latest.energy_mj is not None:
        rows.add_row("energy", f"{latest.energy_mj:.2f} mJ")
    reading = latest.telemetry
    if reading is not None:
        if reading.total_power_w is not None:
            rows.add_row("power", f"{reading.total_power_w:.2f} W")
        hottest = sorted(reading.temperature_c.items(), key=lambda item: -item[1])[:_SENSORS]
        if hottest:
            rows.add_row("temperature", ", ".join(f"{zone} {degrees:.1f} °C" for zone, degrees in hottest))
        clocks = list(reading.clock_hz.items())[:_SENSORS]
        if clocks:
            rows.add_row("clocks", ", ".join(f"{name} {hertz / 1e9:.2f} GHz" for name, hertz in clocks))
        if reading.power_mode is not None:
            rows.add_row("power mode", reading.power_mode.name or str(reading.power_mode.number))
    if latest.message is not None:
        rows.add_row("note", latest.message)
    rows.add_row("", "Ctrl-C ends it")
    return rows


def sparkline(values: list[float], highest: float) -> str:
    """Values from 0 to ``highest`` as a row of bars; larger ones are as high as the highest."""
    last = len(_BARS) - 1
    return "".join(_BARS[min(max(round(value / max(highest, 1e-12) * last), 0), last)] for value in values)
