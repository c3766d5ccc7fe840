"""From the comparisons of the seeds to one: every method's best within the same measured time, mean and spread."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence

from adaptrt.bench.errors import BenchError
from adaptrt.bench.rivals.result import CLEARLY, Entry, RivalComparison
from adaptrt.bench.rivals.series import ADAPTIVE, DENSE, UNIFORM
from adaptrt.bench.rivals.static_models import FLOAT32, FLOAT32_FORM, INT8, INT8_FORM, OUR_INT8
from adaptrt.bench.study.networks import LONGER, NARROWER, NETWORKS, SHALLOWER
from adaptrt.bench.study.result import Over, SeedEntry, SeedResult, StudyResult, TimeRow
from adaptrt.bench.study.seeds import BATCH
from adaptrt.bench.timing.machine import describe_source

TIMES = (0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2)
"""Shares of the dense network's time in float32 at which methods are compared."""
_FOLDERS = re.compile(r"(?<![\w.])/\S*/")
"""Of a path: where a machine keeps its files is nobody's business."""
LIMIT = 1.15
"""What everything running may take over the dense network."""
ADAPTIVE_INT8 = f"{ADAPTIVE} {INT8_FORM}"
ADAPTIVE_METHODS = (ADAPTIVE_INT8, f"{ADAPTIVE} {FLOAT32_FORM}")


def merge_seeds(
    comparisons: Mapping[int, RivalComparison], effort: float, epochs: Mapping[str, dict[str, int]]
) -> StudyResult:
    """One result of several seeds.

    Args:
        comparisons: By seed, at batch 1.
        effort: Share of the samples that every epoch saw.
        epochs: Of every network, by phase.

    Raises:
        BenchError: There are none, or not of the same samples.
    """
    first = next(iter(comparisons.values()), None)
    if first is None:
        raise BenchError("got no seeds, expected at least one")
    kinds = {(c.metric, c.samples, c.data, c.threads) for c in comparisons.values()}
    if len(kinds) > 1:
        raise BenchError("got seeds that were compared on different samples or threads, expected the same; remove one")
    seeds = [_seed(number, comparison) for number, comparison in comparisons.items()]
    dense = statistics.fmean(_only(comparison, FLOAT32) for comparison in comparisons.values())
    usual = [*ADAPTIVE_METHODS, DENSE, LONGER, UNIFORM, NARROWER, SHALLOWER]
    measured = [entry.method for seed in seeds for entry in seed.entries]
    methods = [method for method in dict.fromkeys([*usual, *measured]) if method in measured]
    rows = [row for share in TIMES if (row := _row(share, share * dense, methods, seeds)) is not None]
    return StudyResult(
        benchmark="study",
        data=first.data,
        metric=first.metric,
        samples=first.samples,
        effort=effort,
        epochs=dict(epochs),
        batch=BATCH,
        threads=first.threads,
        methods=[method for method in methods if any(method in row.quality for row in rows)],
        rows=rows,
        everything={
            name: over([seed.everything[name] for seed in seeds])
            for name in seeds[0].everything
            if all(name in seed.everything for seed in seeds)
        },
        verdict=verdict(rows, len(seeds)),
        seeds=seeds,
        source=describe_source(),
    )


def over(values: Sequence[float]) -> Over:
    """Mean and deviation of at least one value."""
    return Over(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, list(values))


def _seed(number: int, comparison: RivalComparison) -> SeedResult:
    entries = [
        SeedEntry(
            entry.name,
            _method(entry),
            entry.form,
            entry.work,
            entry.quality,
            entry.latency_ms[BATCH].median,
            entry.over_dense[BATCH].median,
        )
        for entry in comparison.entries
    ]
    return SeedResult(
        number,
        comparison.verdicts[BATCH],
        _everything(comparison),
        entries,
        [_FOLDERS.sub("", reason) for reason in comparison.left_out],
        comparison.machine,
        comparison.source,
    )


def _method(entry: Entry) -> str:
    """What an entry is an example of; the adaptive network's precisions are two methods."""
    if entry.adaptive:
        return f"{ADAPTIVE} {entry.form}"
    return next((each.method for each in NETWORKS if each.title == entry.network), entry.network)


def _only(comparison: RivalComparison, name: str) -> float:
    """Milliseconds of a static model that always does the same."""
    return next(entry.latency_ms[BATCH].median for entry in comparison.entries if entry.name == name)


def _everything(comparison: RivalComparison) -> dict[str, float]:
    """The time of everything running over the dense network's, in float32, and in int8 over both int8 forms."""
    found = {}
    for form, names in ((FLOAT32_FORM, (FLOAT32,)), (INT8_FORM, (OUR_INT8, INT8))):
        points = [entry for entry in comparison.entries if entry.adaptive and entry.form == form]
        if not points:
            continue
        full = max(points, key=lambda entry: entry.budget or 0.0)
        for name in names:
            dense = [entry for entry in comparison.entries if entry.name == name]
            if dense:
                found[f"{full.name} over {name}"] = full.over_dense[BATCH].median / dense[0].over_dense[BATCH].median
    return found


def _best(seed: SeedResult, method: str, share: float) -> float | None:
    """The best quality that a method gives within a share of the dense network's time."""
    return max((e.quality for e in seed.entries if e.method == method and e.over_dense <= share), default=None)


def _row(share: float, milliseconds: float, methods: Sequence[str], seeds: Sequence[SeedResult]) -> TimeRow | None:
    best = {method: [_best(seed, method, share) for seed in seeds] for method in methods}
    quality = {m: over([q for q in found if q is not None]) for m, found in best.items() if None not in found}
    if not quality:
        return None
    wins = dict.fromkeys(quality, 0)
    for number in range(len(seeds)):
        top = max(each.seeds[number] for each in quality.values())
        for method, each in quality.items():
            wins[method] += each.seeds[number] >= top - CLEARLY
    ours = [quality[m] for m in ADAPTIVE_METHODS if m in quality]
    theirs = [each for method, each in quality.items() if method not in ADAPTIVE_METHODS]
    ahead = None
    if ours and theirs:
        ahead = over([max(o.seeds[n] for o in ours) - max(t.seeds[n] for t in theirs) for n in range(len(seeds))])
    return TimeRow(share, milliseconds, quality, {m: n for m, n in wins.items() if n}, ahead)


def winner(row: TimeRow) -> str:
    """The method with the best mean; the earlier one of the table where there is no telling."""
    top = max(each.mean for each in row.quality.values())
    return next(method for method, each in row.quality.items() if each.mean >= top - CLEARLY / 2)


def pays(row: TimeRow) -> bool:
    """Whether adaptive is clearly ahead of every rival within this time, in the mean; alone it is."""
    if row.ahead is None:
        return any(method in row.quality for method in ADAPTIVE_METHODS)
    return row.ahead.mean > CLEARLY


def verdict(rows: Sequence[TimeRow], seeds: int) -> str:
    """Where adaptive pays, in one sentence."""
    of = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    won = [row for row in rows if pays(row)]
    if not won:
        rivals = [{m: q for m, q in row.quality.items() if m not in ADAPTIVE_METHODS} for row in rows]
        top = max(each.mean for row in rivals for each in row.values())
        for row, some in zip(rows, rivals, strict=True):
            near = [method for method, each in some.items() if each.mean >= top - 0.01]
            if near:
                take = max(near, key=lambda method: some[method].mean)
                return (
                    f"At batch {BATCH} it does not pay here ({of}): take {take} ({row.milliseconds:.2f} ms, "
                    f"{some[take].mean:.4f})."
                )
    low, high = won[0], won[-1]
    said = f"At batch {BATCH} adaptive pays here between {low.milliseconds:.2f} and {high.milliseconds:.2f} ms ({of})"
    sure = [row for row in won if row.ahead is None or min(row.ahead.seeds) > CLEARLY]
    if seeds > 1:
        said += f", in every seed at {len(sure)} of {len(won)} times"
    lost = [row for row in rows if low.milliseconds < row.milliseconds < high.milliseconds and not pays(row)]
    if lost:
        said += f"; between them it is not ahead at {len(lost)}"
    above = [row for row in rows if row.milliseconds > high.milliseconds]
    if above:
        said += f"; above that take {winner(above[0])}"
    below = [row for row in rows if row.milliseconds < low.milliseconds]
    if below:
        said += f"; below that {winner(below[-1])}"
    return f"{said}."
