"""The kinds of budgets: one row each, from which everything that lists, names, reads or prints them is derived.

To add one add a row: what it counts by one of the four meters, how it is written, what it promises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from adaptrt.runtime.table import Table


@dataclass(frozen=True, eq=False)
class Meter:
    """What is measured to hold a budget; one of those below.

    Attributes:
        name: in a word.
        unit: of what a call takes, ``ms`` or ``mJ``; empty for work, which is a share of the dense model's.
        physical: whether it depends on the device, so that it is held by feedback from a profile; above 0 then.
        sensor: whether it takes a sensor of power or energy.
        per_call: whether each call keeps such a budget or misses it.
    """

    name: str
    unit: str
    physical: bool
    sensor: bool
    per_call: bool


NOTHING = Meter("nothing", "", physical=False, sensor=False, per_call=False)
"""Of what has no value: everything runs."""
WORK = Meter("work", "", physical=False, sensor=False, per_call=False)
TIME = Meter("time", "ms", physical=True, sensor=False, per_call=True)
ENERGY = Meter("energy", "mJ", physical=True, sensor=True, per_call=True)
POWER = Meter("power", "mJ", physical=True, sensor=True, per_call=False)
"""Watts over calls and the pauses between them, held by the energy that a call may take."""


class TextForm(NamedTuple):
    """One way to write an amount: a number and a suffix.

    Attributes:
        suffix: behind the number, case-sensitive; empty for a plain number.
        multiplier, divisor: from the number to the kind's unit. Two, as 57 / 100 is not 57 * 0.01.
        largest: amount above which it is not meant so; None: any is.
    """

    suffix: str
    multiplier: float = 1.0
    divisor: float = 1.0
    largest: float | None = None


class Gauge(NamedTuple):
    """A metric by which a budget is exported: Prometheus wants base units, and the unit in the name.

    Attributes:
        name: of the metric.
        help: what it is.
        factor: from the kind's unit to the base unit.
    """

    name: str
    help: str
    factor: float = 1.0


class BudgetKind(NamedTuple):
    """One kind of budget.

    Attributes:
        name: as ``Budget.kind`` has it.
        counts: what its value counts, with the unit.
        meter: what is measured to hold it.
        call: how to make one in Python.
        forms: how it is written on the command line; where it has no value the word is ``name``.
        short: what it is called in a list of what a command takes.
        written: the same with examples.
        metavar: in the usage of a command.
        shown: for messages, a template over ``value`` and ``percentile``.
        shown_hard: likewise, of one that holds for each sample; empty where there is none.
        of_dense: whether the value is divided by the dense model's multiply-accumulates to be a share of work.
        factor: from the kind's unit to the meter's: a share of work, milliseconds, millijoules, watts.
        percentile: share of the calls that are to stay under it unless told otherwise; 0.0 where it has none.
        gauge: its metric; None where it has no value.
        holds_for, guaranteed, needs: what is promised, for the documentation.
    """

    name: str
    counts: str
    meter: Meter
    call: str
    forms: tuple[TextForm, ...]
    short: str
    written: str
    metavar: str
    shown: str
    holds_for: str
    guaranteed: str
    needs: str
    shown_hard: str = ""
    of_dense: bool = False
    factor: float = 1.0
    percentile: float = 0.0
    gauge: Gauge | None = None

    @property
    def hard(self) -> bool:
        """Whether there are hard ones, which hold for each sample."""
        return self.meter is WORK

    def share(self, value: float, dense_macs: float) -> float:
        """The share of the dense work that a budget of work is."""
        return value * self.factor / dense_macs if self.of_dense else value * self.factor


BUDGET_KINDS = Table(
    "kind of budget",
    (
        BudgetKind(
            name="fraction",
            counts="a share of the dense model's work",
            meter=WORK,
            call="Budget.fraction(0.5)",
            # A larger plain number is meant as multiply-accumulates whose suffix was forgotten.
            forms=(TextForm("", largest=10.0), TextForm("%", divisor=100.0)),
            short="a share",
            written="a share of the dense work such as 0.5 or 50%",
            metavar="SHARE",
            shown="{value:.4g} of the dense work",
            shown_hard="{value:.4g} of the dense work for each sample",
            gauge=Gauge("adaptrt_budget_fraction_ratio", "share of the dense model's work"),
            holds_for="the mean over inputs like the calibration data",
            guaranteed="no: other inputs may take more, which is said",
            needs="a calibrated bundle",
        ),
        BudgetKind(
            name="macs",
            counts="multiply-accumulates per sample",
            meter=WORK,
            call="Budget.macs(2e9)",
            forms=(
                *(TextForm(*form) for form in (("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))),
                TextForm("MACs"),
            ),
            short="MACs",
            written="MACs such as 90M (k, M, G or T) or 2e9MACs",
            metavar="MACS",
            shown="{value:.4g} MACs per sample",
            shown_hard="{value:.4g} MACs for each sample",
            of_dense=True,
            gauge=Gauge("adaptrt_budget_macs", "multiply-accumulates per sample"),
            holds_for="the mean over inputs like the calibration data",
            guaranteed="no: other inputs may take more, which is said",
            needs="a calibrated bundle",
        ),
        BudgetKind(
            name="latency",
            counts="milliseconds per call",
            meter=TIME,
            call="Budget.latency(8)",
            forms=(TextForm("ms"),),
            short="a latency",
            written="a latency such as 8ms",
            metavar="MS",
            shown="{value:.4g} ms for {percentile:.4g} of the calls",
            percentile=0.95,
            gauge=Gauge("adaptrt_budget_latency_seconds", "latency per call", 1e-3),
            holds_for="a share of the calls, 95% unless `percentile` says otherwise",
            guaranteed="no: held by feedback, see below",
            needs="a calibrated bundle",
        ),
        BudgetKind(
            name="energy",
            counts="millijoules per call",
            meter=ENERGY,
            call="Budget.energy(40)",
            forms=(TextForm("mJ"),),
            short="an energy",
            written="an energy such as 40mJ",
            metavar="MJ",
            shown="{value:.4g} mJ for {percentile:.4g} of the calls",
            percentile=0.5,  # sensors are slow
            gauge=Gauge("adaptrt_budget_energy_joules", "energy per call", 1e-3),
            holds_for="half of the calls, unless `percentile` says otherwise",
            guaranteed="no: held by feedback",
            needs="a calibrated bundle, a sensor of power or energy",
        ),
        BudgetKind(
            name="power",
            counts="watts on average",
            meter=POWER,
            call="Budget.power(10)",
            forms=(TextForm("W"),),
            short="a power",
            written="a power such as 10W",
            metavar="W",
            shown="{value:.4g} W on average",
            gauge=Gauge("adaptrt_budget_power_watts", "mean power"),
            holds_for="the average over calls and the pauses between them",
            guaranteed="no: held by feedback",
            needs="a calibrated bundle, a sensor of power or energy",
        ),
        BudgetKind(
            name="full",
            counts="nothing",
            meter=NOTHING,
            call="Budget.full()",
            forms=(),
            short="full",
            written="full",
            metavar="full",
            shown="full",
            holds_for="every input",
            guaranteed="everything runs",
            needs="nothing",
        ),
    ),
)
