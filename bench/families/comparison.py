"""Which way of making one network adaptive gives what: accuracy over work and over measured latency.

``python -m adaptrt.bench.families`` trains, exports and measures the networks of ``family_recipes``: ACMs
alone, early exit alone, token pruning alone and all three in one bundle, beside static EViT and ToMe and
narrower dense networks. What is there already is not made again, and an interrupted training goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
from rich.console import Group
from rich.progress import Progress, TaskID
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.families.budgets import BUDGETS, accuracy_at
from adaptrt.bench.families.latency import Contender, Times, measure_times
from adaptrt.bench.families.networks import (
    FamilyNetwork,
    data_name,
    export_network,
    find_networks,
    require_recipe,
    train_network,
)
from adaptrt.bench.families.plot import plot_families
from adaptrt.bench.families.points import NetworkPoint, dense_macs, network_points
from adaptrt.bench.families.recipes import BASE
from adaptrt.bench.families.result import BudgetRow, DenseNetwork, FamilyNetworkRows, FamilyRow, Result, read_result
from adaptrt.bench.reports.console import existing_folder, json_option, show, show_progress
from adaptrt.bench.reports.pictures import check_picture
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.models.data.split import DataSplits, load_data
from adaptrt.models.training.phase import Progress as TrainingProgress
from adaptrt.models.training.precision import choose_precision
from adaptrt.runtime.bundle.bundle_file import read_bundle

ROOT = Path("build/families")
_BATCHES = (1, 64)
_EVALUATIONS = 40
_POINTS = 6
_SAMPLES = 256
_ROUNDS = 5


class Shown:
    """Progress of all steps: a bar for each, and a line when it begins, which a log keeps."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def tell(self, what: str, share: float) -> None:
        """Say what is being done and how much of it is done, 0..1."""
        if what not in self._tasks:
            self._progress.console.print(f"{what} ...", highlight=False)
            self._tasks[what] = self._progress.add_task(what, total=1.0)
        self._progress.update(self._tasks[what], completed=share)

    def training(self, name: str) -> Callable[[TrainingProgress], None]:
        """What a training of that network reports to."""
        return lambda step: self.tell(f"{name}: training, {step.phase}", step.step / step.steps)

    def turns(self, what: str, done: int, total: int) -> None:
        """Turns of the measurement."""
        self.tell(f"measuring {what}", done / total)


def measure(
    networks: Sequence[FamilyNetwork],
    data: DataSplits,
    *,
    batches: Sequence[int],
    points: int,
    samples: int,
    rounds: int,
    threads: int,
    shown: Shown,
) -> Result:
    """Measure accuracy, work and latency of exported networks.

    Raises:
        BenchError: One is not exported, none of them has the dense network, or a process failed.
    """
    missing = [network.name for network in networks if not network.exported]
    if missing:
        raise BenchError(f"networks {', '.join(missing)} are not exported; run with --train --export first")
    calibrated = [network.file for network in networks if network.calibrated]
    dense = read_bundle(calibrated[0], verify_hashes=False).dense if calibrated else None
    if dense is None or dense.file is None or dense.quality is None:
        raise BenchError("got no network with a calibrated bundle and its dense model, expected one; add combined")
    machine = describe_machine()
    points_of = {
        n.name: network_points(n, data.test, count=points, base=BASE.vit, progress=shown.tell) for n in networks
    }
    count = min(samples, len(data.test))
    images = data.test.inputs[np.arange(count) * len(data.test) // count]
    times = measure_times(
        [Contender(n.name, n.file, points_of[n.name]) for n in networks],
        calibrated[0] / dense.file,
        images,
        batches=batches,
        rounds=rounds,
        threads=threads,
        on_turn=shown.turns,
    )
    rows = []
    for network in networks:
        scale = dense_macs(network.recipe.vit) / dense.macs
        rows_of = [
            _row(point, times, batches, network.name, index, scale)
            for index, point in enumerate(points_of[network.name])
        ]
        rows.append(FamilyNetworkRows(network.name, network.epochs, sorted(rows_of, key=lambda row: row.macs_fraction)))
    return Result(
        benchmark="families",
        data=data.name,
        test_images=len(data.test),
        timed_images=count,
        batches=list(batches),
        threads=threads,
        rounds=rounds,
        dense=DenseNetwork(dense.quality, dense.macs, times.dense),
        networks=rows,
        budgets=_at_budgets(networks, points_of),
        machine=machine,
        source=describe_source(),
    )


def _at_budgets(networks: Sequence[FamilyNetwork], points_of: Mapping[str, Sequence[NetworkPoint]]) -> list[BudgetRow]:
    """Every network at every budget."""
    base = dense_macs(BASE.vit)
    return [
        BudgetRow(share, {n.name: accuracy_at(n, points_of[n.name], share, base) for n in networks})
        for share in BUDGETS
    ]


def _row(point: NetworkPoint, times: Times, batches: Sequence[int], name: str, index: int, scale: float) -> FamilyRow:
    """One row; ``scale`` is the network's own dense work over that of all, which a dense network always does."""
    measured = {batch: times.points[batch][name][index] for batch in batches}
    shares = {batch: 1.0 if one.timed_share is None else one.timed_share for batch, one in measured.items()}
    return FamilyRow(
        knobs=point.knobs,
        macs_fraction=point.macs_fraction,
        accuracy=point.accuracy,
        timed_macs_fraction={batch: scale * share for batch, share in shares.items()},
        latency_ms={batch: one.milliseconds for batch, one in measured.items()},
        ratio={batch: one.ratio for batch, one in measured.items()},
    )


def tabulate(result: Result) -> Group:
    """The result for a terminal: every point, then all networks at the same budgets."""
    table = Table(title="accuracy for at most so many of the dense network's MACs")
    table.add_column("budget", justify="right")
    for network in result.networks:
        table.add_column(network.name, justify="right")
    for row in result.budgets:
        cells = [row.accuracy.get(network.name) for network in result.networks]
        table.add_row(f"{row.fraction:.0%}", *("" if cell is None else f"{cell:.2%}" for cell in cells))
    return Group(_tabulate_points(result), table)


def _tabulate_points(result: Result) -> Table:
    threads = f"{result.threads} thread" + "s" * (result.threads > 1)
    table = Table(title=f"{result.data}: accuracy, work and latency, {threads}")
    per_batch = [heading for batch in result.batches for heading in (f"batch {batch}, ms", "x dense")]
    for heading in ("network", "epochs", "MACs", "accuracy", *per_batch):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    for network in result.networks:
        table.add_section()
        for row in network.points:
            cells = [f"{row.macs_fraction:.1%}", f"{row.accuracy:.2%}"]
            for batch in result.batches:
                cells += [f"{row.latency_ms[batch].median:.3f}", f"{row.ratio[batch].median:.3f}"]
            table.add_row(network.name, "+".join(str(count) for count in network.epochs.values()), *cells)
    table.add_section()
    cells = ["100.0%", f"{result.dense.accuracy:.2%}"]
    for batch in result.batches:
        cells += [f"{result.dense.latency_ms[batch].median:.3f}", "1.000"]
    table.add_row("dense", "", *cells)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--root", type=click.Path(path_type=Path), default=ROOT, show_default=True, help="Folder of all networks."
)
@click.option("--network", "names", multiple=True, help="Only this one; may be repeated. Default: all.")
@click.option("--train", "training", is_flag=True, help="Train what is not trained.")
@click.option("--export", "exporting", is_flag=True, help="Export what is not exported.")
@click.option("--measure", "measuring", is_flag=True, help="Measure. With none of the three: all of them.")
@click.option("--redraw", type=click.Path(path_type=Path), help="Show and draw this earlier result, and nothing else.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True)
@click.option(
    "--evaluations",
    type=click.IntRange(1),
    default=_EVALUATIONS,
    show_default=True,
    help="Passes of each calibration at most.",
)
@click.option("--points", type=click.IntRange(2), default=_POINTS, show_default=True, help="Points per network, about.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=_BATCHES, show_default=True)
@click.option("--samples", type=click.IntRange(1), default=_SAMPLES, show_default=True, help="Images to time.")
@click.option("--rounds", type=click.IntRange(1), default=_ROUNDS, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=existing_folder,
    help="Draw the result here: .png, .svg or .pdf.",
)
@json_option
def main(
    root: Path,
    names: tuple[str, ...],
    training: bool,
    exporting: bool,
    measuring: bool,
    redraw: Path | None,
    precision: str,
    evaluations: int,
    points: int,
    batches: tuple[int, ...],
    samples: int,
    rounds: int,
    threads: int,
    plot: Path | None,
    json_file: Path | None,
) -> None:
    """Compare ways of making one network adaptive on Fashion-MNIST; hours if all is still to be trained.

    Ctrl-C keeps every finished epoch and export; the same command goes on from there.

    \b
    Examples:
      python -m adaptrt.bench.families --json families.json --plot families.png
      python -m adaptrt.bench.families --train --network acm --network exits
      python -m adaptrt.bench.families --redraw families.json --plot families.svg
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    if plot is not None:
        check_picture(plot)
    if redraw is None:
        if not (training or exporting or measuring):
            training = exporting = measuring = True
        if (plot is not None or json_file is not None) and not measuring:
            raise click.UsageError("got --plot or --json without --measure, expected both; leave them out")
        result = _make(
            find_networks(root, names or None),
            root,
            training=training,
            exporting=exporting,
            precision=precision,
            evaluations=evaluations,
            measuring=partial(
                measure, batches=sorted(set(batches)), points=points, samples=samples, rounds=rounds, threads=threads
            )
            if measuring
            else None,
        )
    else:
        result = read_result(redraw)
    if result is not None:
        show(tabulate(result), result, json_file)
        if plot is not None:
            plot_families(result, plot)


def _make(
    networks: Sequence[FamilyNetwork],
    root: Path,
    *,
    training: bool,
    exporting: bool,
    precision: str,
    evaluations: int,
    measuring: Callable[..., Result] | None,
) -> Result | None:
    """Do what was asked for and is not done yet; the result if there was something to measure."""
    for network in networks:
        require_recipe(network)
    data = load_data(data_name())
    others = [network.checkpoints for network in find_networks(root)]
    with show_progress() as progress:
        shown = Shown(progress)
        for network in networks:
            if training and not network.trained:
                choice = choose_precision(precision, network.checkpoints, *others)  # all in that of the first
                said = f"{network.name}: training in {choice.precision}: {choice.reason}"
                progress.console.print(said, highlight=False, markup=False)
                report = shown.training(network.name)
                train_network(network, data, root, precision=choice.precision, report=report)
        for network in networks:
            if exporting and not network.exported:

                def tell(what: str, share: float, name: str = network.name) -> None:
                    shown.tell(f"{name}: {what}", share)

                export_network(network, data, evaluations=evaluations, progress=tell)
        return None if measuring is None else measuring(networks, data, shown=shown)
