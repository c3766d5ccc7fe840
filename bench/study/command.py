"""``python -m adaptrt.bench.study``: train with several seeds, compare each, merge them into one result."""

from __future__ import annotations

from pathlib import Path

import click
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.table import Table

from adaptrt.bench.families.comparison import Shown
from adaptrt.bench.families.networks import FamilyNetwork, data_name, require_recipe
from adaptrt.bench.reports.console import existing_folder, json_option, show, show_progress
from adaptrt.bench.reports.pictures import check_picture
from adaptrt.bench.study.merging import LIMIT, merge_seeds, winner
from adaptrt.bench.study.networks import BASE, NETWORKS, seed_networks
from adaptrt.bench.study.plan import plan_study, plan_table
from adaptrt.bench.study.plot import plot_study
from adaptrt.bench.study.result import Over, StudyResult, read_result
from adaptrt.bench.study.seeds import StudySettings, is_compared, run_seed
from adaptrt.models.data.split import load_data

ROOT = Path("build/study")
_USUAL = StudySettings()


def tabulate(result: StudyResult) -> Group:
    """The result for a terminal: all methods within the same times, then what everything running takes."""
    seeds = f"{len(result.seeds)} seed{'s' * (len(result.seeds) > 1)}"
    title = f"{result.data}: {result.metric} within the same measured time, batch {result.batch}, {seeds}"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("ms", "over", *result.methods, "ahead", "best"):
        table.add_column(heading, justify="left" if heading == "best" else "right")
    for row in result.rows:
        cells = [f"{row.milliseconds:.2f}", f"{row.over_dense:.2f}"]
        cells += [_cell(row.quality.get(method)) for method in result.methods]
        cells.append("" if row.ahead is None else f"{100 * row.ahead.mean:+.2f}")
        table.add_row(*cells, f"{winner(row)} {row.wins.get(winner(row), 0)}/{len(result.seeds)}")
    table.caption = (
        "over: the dense network's time in float32; percent, mean ± deviation; ahead: the best adaptive one less the "
        "best rival, points; best: in the mean, and in how many seeds"
    )
    full = Table(title=f"everything running, time over dense, batch {result.batch} (limit {LIMIT:.2f})")
    full.add_column("what")
    full.add_column("mean", justify="right")
    full.add_column("by seed", justify="right")
    for name, measured in result.everything.items():
        full.add_row(name, f"{measured.mean:.3f}", " ".join(f"{value:.3f}" for value in measured.seeds))
    verdicts = [f"seed {seed.seed}: {seed.verdict}" for seed in result.seeds]
    left_out = [f"seed {seed.seed}, left out: {reason}" for seed in result.seeds for reason in seed.left_out]
    return Group(table, full, *verdicts, *left_out, result.verdict)


def _cell(measured: Over | None) -> str:
    if measured is None:
        return ""
    spread = "" if measured.deviation is None else f"±{100 * measured.deviation:.1f}"
    return f"{100 * measured.mean:.2f}{spread}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, show_default=True, help="Folder of everything.")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="How many.")
@click.option(
    "--effort",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the training samples that every epoch of every network sees.",
)
@click.option(
    "--without",
    type=click.Choice([network.name for network in NETWORKS if network is not BASE]),
    multiple=True,
    help="Leave this network out; may be repeated.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Say how long it will take, and nothing else.")
@click.option("--redraw", type=click.Path(path_type=Path), help="Show and draw this earlier result, and nothing else.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True)
@click.option(
    "--evaluations",
    type=click.IntRange(1),
    default=_USUAL.evaluations,
    show_default=True,
    help="Passes of each calibration at most.",
)
@click.option(
    "--calibration-samples",
    "calibration",
    type=click.IntRange(16),
    default=_USUAL.calibration,
    show_default=True,
    help="Samples of a pass.",
)
@click.option("--points", type=click.IntRange(2), default=_USUAL.points, show_default=True, help="Of every curve.")
@click.option(
    "--samples", type=click.IntRange(1), default=_USUAL.samples, show_default=True, help="Test samples to judge by."
)
@click.option("--threads", type=click.IntRange(1), default=_USUAL.threads, show_default=True, help="To measure with.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=existing_folder,
    help="Draw the result here: .png, .svg or .pdf.",
)
@json_option
def main(
    root: Path,
    seeds: int,
    effort: float,
    without: tuple[str, ...],
    only_plan: bool,
    redraw: Path | None,
    precision: str,
    evaluations: int,
    calibration: int,
    points: int,
    samples: int,
    threads: int,
    plot: Path | None,
    json_file: Path | None,
) -> None:
    """Train adaptive and static networks on Fashion-MNIST with several seeds and compare them at equal latency.

    First it says how long it will take. Ctrl-C keeps every finished epoch, export and comparison; the same command
    goes on from there.

    \b
    Examples:
      python -m adaptrt.bench.study --effort 0.1 --plan
      python -m adaptrt.bench.study --effort 0.1 --seeds 3 --json study.json --plot study.png
      python -m adaptrt.bench.study --redraw study.json --plot study.svg
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    if plot is not None:
        check_picture(plot)
    if redraw is not None:
        result: StudyResult | None = read_result(redraw)
    else:
        settings = StudySettings(precision, evaluations, calibration, points, samples, threads)
        chosen = [network for network in NETWORKS if network.name not in without]
        every = {seed: seed_networks(root, seed, effort, chosen) for seed in range(seeds)}
        result = _run(root, every, effort, settings, only_plan=only_plan)
    if result is not None:
        show(tabulate(result), result, json_file)
        if plot is not None:
            plot_study(result, plot)


def _run(
    root: Path,
    every: dict[int, list[FamilyNetwork]],
    effort: float,
    settings: StudySettings,
    *,
    only_plan: bool,
) -> StudyResult | None:
    """Say how long it will take and do it."""
    for networks in every.values():
        for network in networks:
            require_recipe(network)
    data = load_data(data_name())
    compared = [is_compared(root, seed, networks, settings) for seed, networks in every.items()]
    with show_progress() as progress:
        shown = Shown(progress)
        if only_plan or not all(compared):
            plan = plan_study(
                list(every.values()),
                compared,
                data,
                precision=settings.precision,
                passes_samples=settings.passes_samples,
                tell=shown.tell,
            )
            (Console() if only_plan else progress.console).print(plan_table(plan))
        if only_plan:
            return None
        comparisons = {
            seed: run_seed(root, seed, networks, data, settings, shown.tell) for seed, networks in every.items()
        }
    epochs = {network.name: network.epochs for network in every[0]}
    return merge_seeds(comparisons, effort, epochs)
