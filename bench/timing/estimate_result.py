"""What an estimate says, and the sentences that follow from its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adaptrt.bench.timing.interleave import Spread

FLOAT32, INT8 = "dense float32", "dense int8"

_WORTH = 0.95
"""Time over a rival's from which on saving it is not worth a training."""
_CLEARLY = 0.1  # by how much less a batch's time has to be for the batch to be recommended


@dataclass(frozen=True)
class Rival:
    """A static model that needs no training.

    Attributes:
        name: ``dense`` and its precision, or its engine.
        engine: What ran it, with its version.
        latency_ms: Per batch size, milliseconds of one call.
        over_dense: Per batch size, that time over the dense model's in float32.
        target: Of ``adaptrt build``, where that lets an adapted network run on this engine, too; else None.
    """

    name: str
    engine: str
    latency_ms: dict[int, Spread]
    over_dense: dict[int, Spread]
    target: str | None = None


@dataclass(frozen=True)
class EstimateRow:
    """One family, or all of them together, at one budget.

    Attributes:
        families: Their names.
        wanted: The budget, as a share of the dense work.
        share: Of the dense work that the inputs took.
        reachable: False where that is not the wanted share: the family cannot do less, or no more.
        latency_ms: Per batch size, milliseconds of one call; empty where a row before has the same knobs.
        over_dense: Per batch size, that time over the dense model's in float32.
        over_int8: Over the dense model's in int8; empty where that could not be made.
        precision: In which the large products are computed.
        by_dense: Whether it is the dense model's graph that a finished bundle runs there.
    """

    families: tuple[str, ...]
    wanted: float
    share: float
    reachable: bool
    latency_ms: dict[int, Spread]
    over_dense: dict[int, Spread]
    over_int8: dict[int, float]
    precision: str = "float32"
    by_dense: bool = False

    @property
    def name(self) -> str:
        """Its families in one word, and the precision where it is not float32."""
        families = "+".join(self.families)
        return families if self.precision == "float32" else f"{families} in {self.precision}"


@dataclass(frozen=True)
class Estimate:
    """What ``estimate_model`` measured.

    Attributes:
        model: Its name.
        task: What it is for.
        tokens: Of a sample; all are real. None: samples have no tokens.
        length: Whether that is a length of texts, which may be another one.
        dense_macs: Multiply-accumulates of one sample in the dense model.
        batches: Batch sizes.
        threads: Threads that one operator may use.
        rounds: Per batch size, how often each was measured.
        rivals: The dense model in float32 first.
        rows: Family by family, from the largest budget to the smallest.
        left_out: Rivals that could not be made, and why.
        advice: What follows, in sentences.
        seconds: That all of it took.
        machine: What it was measured on.
        source: Command and commit.
    """

    model: str
    task: str
    tokens: int | None
    length: bool
    dense_macs: int
    batches: tuple[int, ...]
    threads: int
    rounds: dict[int, int]
    rivals: tuple[Rival, ...]
    rows: tuple[EstimateRow, ...]
    left_out: tuple[str, ...]
    advice: tuple[str, ...]
    seconds: float
    machine: dict[str, Any]
    source: dict[str, Any]


def advise(rivals: Sequence[Rival], rows: Sequence[EstimateRow], batches: Sequence[int]) -> tuple[str, ...]:
    """Say where adapting would pay and where it would not, and what would.

    Args:
        rivals: The dense model in float32 first.
        rows: Measured at these batch sizes.
        batches: Batch sizes, ascending.
    """
    sentences: list[str] = []
    for batch in batches:
        best = min(rivals, key=lambda rival: rival.over_dense[batch].median)
        ratio = best.over_dense[batch].median
        measured = [row for row in rows if batch in row.over_dense]
        names = list(dict.fromkeys(row.name for row in measured))
        if ratio < _WORTH:
            sentences += _against(best, ratio, batch, {n: [r for r in measured if r.name == n] for n in names})
        for name in names:
            sentences += _of_family(name, [row for row in measured if row.name == name], batch, batches)
    return tuple(sentences)


def _against(best: Rival, ratio: float, batch: int, families: dict[str, list[EstimateRow]]) -> list[str]:
    """What the fastest static model beats, in one sentence for all families."""
    wins = {name: share_at(rows, batch, ratio) for name, rows in families.items()}
    beaten = [name for name, share in wins.items() if share is None]
    begin = f"At batch {batch} {_worded(best)} ({ratio:.2f} of the time of float32)"
    there = ""
    if best.target is not None:
        there = f" Adapted networks run there, too: adaptrt build BUNDLE --target {best.target}."
    if len(beaten) == len(families):
        instead = "compare there" if there else "use it, adapting would not pay"
        return [f"{begin} is faster than every budget of every family here: {instead}.{there}"]
    parts: list[str] = []
    slower: list[str] = []
    for name, share in wins.items():
        if share is None:
            parts.append(f"of {name}")
        elif share < max(row.share for row in families[name]):
            parts.append(f"of {name} above {share:.0%}")
        else:
            slower.append(name)
    faster = f"{begin} is faster than every budget {_listed(parts)}" if parts else begin
    if not slower:
        return [f"{faster}.{there}"]
    return [f"{faster}{', and' if parts else ' is'} slower than every budget of {_listed(slower)}.{there}"]


def _of_family(name: str, rows: Sequence[EstimateRow], batch: int, batches: Sequence[int]) -> list[str]:
    """Whether a family saves time at all, and where it saves clearly more."""
    cheapest = min(rows, key=lambda row: row.share)
    time = cheapest.over_dense[batch].median
    if time >= _WORTH:
        said = (
            f"At batch {batch} {name} would not pay: at {cheapest.share:.0%} of the work a call takes {time:.2f} of "
            "the dense time"
        )
    elif time > cheapest.share + 2 * _CLEARLY:
        said = (
            f"At batch {batch} the time of {name} falls by less than the work: at {cheapest.share:.0%} of it a call "
            f"takes {time:.2f} of the dense time"
        )
    else:
        return []
    others = {other: cheapest.over_dense[other].median for other in batches if other > batch}
    better = min(others, key=lambda other: others[other], default=None)
    if better is not None and others[better] < time - _CLEARLY:
        return [f"{said}; at batch {better} it takes {others[better]:.2f}."]
    return [f"{said}."]


def share_at(rows: Sequence[EstimateRow], batch: int, ratio: float) -> float | None:
    """Largest share of the work whose time over the dense model's is at most a ratio, between measured ones.

    Returns:
        None where every measured share takes longer.
    """
    points = sorted((row.share, row.over_dense[batch].median) for row in rows)
    largest = None
    for number, (share, time) in enumerate(points):
        if time <= ratio:
            largest = share
        elif number and points[number - 1][1] <= ratio:
            before, time_before = points[number - 1]
            largest = before + (share - before) * (ratio - time_before) / (time - time_before)
    return largest


def _worded(rival: Rival) -> str:
    return (
        "int8 of the dense model" if rival.name == INT8 else f"the {rival.name.replace('dense', 'dense model on', 1)}"
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
