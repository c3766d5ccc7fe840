"""What leaving early saves: the latency of a bundle with exits, one image at a time.

``python -m adaptrt.bench.early_exit MODEL BUNDLE``, in two parts. *Never exiting*: the stages one after
the other against the same network in one file, to see what the division costs. *Exiting*: the mean
latency per image over real images against the expected cost, as a share of the dense model's latency.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
import onnx
from rich.console import Group
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.timing.exit_latency import BATCHES, BUDGETS, Result, measure, require_exits
from adaptrt.bench.timing.interleave import Spread
from adaptrt.export.graph.scale_metadata import read_price_scales
from adaptrt.export.graph.stage_files import save_unsplit
from adaptrt.models.data.split import Split, load_data
from adaptrt.models.registry import load_model
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.runtime.bundle.bundle_file import read_bundle


def tabulate(result: Result) -> Group:
    """The result for a terminal: never exiting, then exiting."""
    threads = f"{result.threads} thread" + "s" * (result.threads > 1)
    first = Table(title=f"{result.bundle}: nobody leaves early, {threads}")
    for heading in ("runs", "batch", "one file, ms", "stages, ms", "ratio", "quartiles", "limit"):
        first.add_column(heading, justify="left" if heading == "runs" else "right", no_wrap=True)
    for split_row in result.split_rows:
        first.add_row(
            split_row.setting,
            str(split_row.batch),
            f"{split_row.unsplit.median:.3f}",
            f"{split_row.stages.median:.3f}",
            *_with_quartiles(split_row.ratio),
            f"{split_row.limit:g}",
        )
    dense = f"dense {result.dense.median:.3f} ms"
    second = Table(title=f"{result.images} images one by one, {result.exit_criterion}, {threads}, {dense}")
    headings = ("families", "expected", "timed", "left at each exit", "accuracy", "ms", "x dense", "/ expected")
    for heading in (*headings, "quartiles", "/ timed", "limit"):
        second.add_column(heading, justify="left" if heading == "families" else "right", no_wrap=True)
    for row in result.exit_rows:
        second.add_row(
            row.families,
            f"{row.expected_cost:.1%}",
            f"{row.timed_cost:.1%}",
            "/".join(f"{share:.0%}" for share in row.exits),
            f"{row.accuracy:.1%}",
            f"{row.milliseconds.median:.3f}",
            f"{row.over_dense.median:.3f}",
            *_with_quartiles(row.over_expected),
            f"{row.over_timed.median:.3f}",
            f"{row.limit:g}",
        )
    return Group(first, "", second)


def _with_quartiles(spread: Spread) -> tuple[str, str]:
    return f"{spread.median:.3f}", f"{spread.low:.3f}-{spread.high:.3f}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--data", metavar="NAME|FILE.npz", help="Images of its test part; default: what it was trained on.")
@click.option("--images", type=click.IntRange(1), default=512, show_default=True, help="Images to time.")
@click.option("--budget", "budgets", type=click.FloatRange(0), multiple=True, default=BUDGETS, show_default=True)
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=BATCHES, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), help="Default: 15 of never exiting, 5 over all images.")
@json_option
def main(
    model: str,
    bundle: Path | None,
    data: str | None,
    images: int,
    budgets: tuple[float, ...],
    batches: tuple[int, ...],
    threads: int,
    rounds: int | None,
    json_file: Path | None,
) -> None:
    """Measure what leaving early saves, and what its possibility costs.

    MODEL is a ready model or a model folder, BUNDLE what was exported from it (default: build/NAME).

    \b
    Examples:
      python -m adaptrt.bench.early_exit fashion
      python -m adaptrt.bench.early_exit my_model build/my_model --images 200 --json early_exit.json
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    source = load_model(model)
    name = data or source.data_name
    if name is None:
        raise BenchError(f"model {model!r} names no data set, expected --data; give one")
    folder = bundle or Path("build") / source.name
    require_exits(read_bundle(folder, verify_hashes=False))  # before the network is traced again
    test = load_data(name).test
    picked = np.arange(min(images, len(test))) * len(test) // min(images, len(test))
    with tempfile.TemporaryDirectory(prefix="adaptrt-bench-") as scratch, show_progress() as progress:
        tasks = {"": progress.add_task("one file of all stages", total=None)}
        file = Path(scratch) / "unsplit.onnx"
        _take_price_scales(source.model, folder)
        save_unsplit(source.model, file)
        progress.update(tasks[""], total=1, completed=1)

        def on_turn(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        result = measure(
            folder,
            file,
            Split(test.inputs[picked], test.labels[picked]),
            budgets=budgets,
            batches=batches,
            threads=threads,
            rounds=rounds,
            on_turn=on_turn,
        )
    show(tabulate(result), result, json_file)


def _take_price_scales(model: StagedNetwork, folder: Path) -> None:
    """Let one price mean in the network what it means in the bundle exported from it."""
    first = read_bundle(folder, verify_hashes=False).stages[0].file
    model.set_price_scales(read_price_scales(onnx.load(str(folder / first), load_external_data=False)))


if __name__ == "__main__":
    run_command(main)
