"""What takes part in a comparison: graphs and bundles in processes of their own, each at some settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptrt.bench.timing.session_process import SessionProcess
from adaptrt.runtime.bundle.bundle_file import Bundle, KnobValue

ADAPTIVE, DENSE, UNIFORM = "adaptive", "dense", "uniform width"
"""Networks that every comparison has; further ones have names of their own."""
NETWORKS = (ADAPTIVE, DENSE, UNIFORM)


@dataclass(frozen=True)
class Setting:
    """Knobs to feed, and the share of the dense work that they were asked for; None: nobody asked."""

    knobs: Mapping[str, KnobValue]
    budget: float | None = None


@dataclass(frozen=True)
class BundleOf:
    """The bundle that a process runs.

    Attributes:
        folder: Where it is.
        bundle: As read from there.
        precision: To run it in; None: as it was exported.
        scale: Its own dense work over that of the bundle all are compared with.
    """

    folder: Path
    bundle: Bundle
    precision: str | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Series:
    """One graph or bundle at one setting or several.

    Attributes:
        name: What a table calls it.
        network: Whose weights it has; one of ``NETWORKS`` or a further network's name.
        form: What was made of them.
        process: That runs it.
        settings: What to feed, cheapest first.
        runs: The bundle, where it is one; None: a plain graph.
        work: Of a plain graph, its share of the dense work; None: it is not told.
    """

    name: str
    network: str
    form: str
    process: SessionProcess
    settings: Sequence[Setting] = (Setting({}),)
    runs: BundleOf | None = None
    work: float | None = None

    @property
    def adaptive(self) -> bool:
        """Whether it is the bundle that all are compared with."""
        return self.network == ADAPTIVE
