"""Whether time follows work in networks of the user's own: at half of the work, batch 16, beside the dense network.

``python -m adaptrt.bench.own_networks``: four networks as strangers would write them, with random weights, are exported
in a few minutes. Each is then timed under a budget of 50% and its dense form beside it, one thread, in turns. The time
as a share of the dense network's, divided by the share of the work done, is to be at most 1.10.

Time is not the count of multiply-accumulates, not even in the dense network: a convolution of three channels takes
several times as long for each as a later one. So networks whose only choice is where to leave are measured against
their *parts*, too: for every exit a static network that ends there, run on exactly the samples that leave there. That
is what a split that costs nothing takes.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import onnxruntime
import torch
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.example_networks import NETWORKS
from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.timing.interleave import Spread
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.export.exporter import export_bundle
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.graph.trace import trace_dense
from adaptrt.export.own.dense_form import DenseForm
from adaptrt.export.own.user_module import derived_model
from adaptrt.models import StagedNetwork
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.runtime import Budget, load
from adaptrt.runtime.bundle.schema import THRESHOLDS_KNOB

LIMIT = 1.10
_SAMPLES = 64
_POINTS = 9
_SEED = 0


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        network: What it is.
        dense_macs: Multiply-accumulates of its dense form for the example.
        work: Share of the dense work that was done, a mean over the samples.
        dense_ms: Time of a batch in the dense form.
        milliseconds: Under the budget.
        time: That as a share of the dense form's, in the same round.
        over_work: Time over work.
        parts: The same of static networks that end where the samples leave; None where other things are left out, too.
        limit: What ``over_work`` should be at most.
    """

    network: str
    dense_macs: int
    work: float
    dense_ms: Spread
    milliseconds: Spread
    time: Spread
    over_work: Spread
    parts: Spread | None = None
    limit: float = LIMIT


@dataclass(frozen=True)
class Result:
    """All networks, and where they were measured."""

    budget: float
    batch: int
    rounds: int
    rows: list[Row]
    machine: dict[str, Any]
    source: dict[str, Any]


def answers(network: StagedNetwork, seed: int) -> Split:
    """Samples with the answers of the network where everything runs as labels."""
    torch.manual_seed(seed)
    inputs = network.example_inputs(_SAMPLES)
    with torch.no_grad():
        outputs = network.run_stages(inputs, {})[-1].outputs
    (output,) = outputs.values()
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    first, *others = arrays
    labels = output.argmax(1).numpy() if "logits" in outputs else output.numpy()
    return Split(arrays[first], labels, {name: arrays[name] for name in others}, first)


def measure(name: str, budget: float, batch: int, rounds: int, folder: Path) -> Row:
    """Export one network and time it.

    Raises:
        BenchError: Nothing of it can be timed.
        AdaptrtError: It cannot be exported.
    """
    torch.manual_seed(_SEED)
    source = derived_model(NETWORKS[name]().eval(), name.replace(" ", "_"))
    data = DataSplits("answers", answers(source.model, 1), answers(source.model, 2))
    output = folder / source.name
    export_bundle(source, output, calibration=data, points=_POINTS)
    model = load(output, threads=1)
    model.budget = Budget.fraction(budget)
    dense = _dense(output / (model.bundle.dense.file or ""))
    feeds = data.calibration.named("")
    batches = [
        {key: array[start : start + batch] for key, array in feeds.items()} for start in range(0, _SAMPLES, batch)
    ]
    results = [model.run(each) for each in batches]
    share = float(np.concatenate([result.macs_fraction for result in results]).mean())
    runs: dict[str, Callable[[int], Any]] = {
        "ours": lambda number: model.run(batches[number]),
        "dense": lambda number: dense(batches[number]),
    }
    if {knob.name for knob in model.bundle.knobs} <= {THRESHOLDS_KNOB}:
        runs["parts"] = _parts(name, batches, [result.exit for result in results], folder)
    times: dict[str, list[float]] = {which: [] for which in runs}
    for turn in range(rounds):
        for which in list(runs) if turn % 2 == 0 else reversed(runs):
            times[which].append(_seconds(runs[which], len(batches)))
    if not share > 0:
        raise BenchError(f"got no work in {name} at a budget of {budget:g}, expected some; choose a larger one")
    shares = {
        which: Spread.of([one / other for one, other in zip(own, times["dense"], strict=True)])
        for which, own in times.items()
    }
    return Row(
        name,
        model.bundle.dense.macs,
        share,
        Spread.of(times["dense"]).scaled(1e3),
        Spread.of(times["ours"]).scaled(1e3),
        shares["ours"],
        shares["ours"].scaled(1 / share),
        shares["parts"].scaled(1 / share) if "parts" in shares else None,
    )


def _parts(
    name: str, batches: Sequence[dict[str, Any]], exits: Sequence[Any], folder: Path
) -> Callable[[int], list[Any]]:
    """What runs, of a batch, the samples of each exit through a static network that ends there."""
    torch.manual_seed(_SEED)
    whole = derived_model(NETWORKS[name]().eval(), name).dense
    assert isinstance(whole, DenseForm)
    declaration, sessions = whole.derived.declaration, []
    for last in range(declaration.stages):
        whole.derived.declaration = dataclasses.replace(declaration, stages=last + 1)
        file = folder / f"part{last}.onnx"
        save_graph(trace_dense(whole), file)
        sessions.append(_dense(file))
    by_exit = [
        [
            (sessions[last], {key: array[left == last] for key, array in batch.items()})
            for last in range(len(sessions))
            if (left == last).any()
        ]
        for batch, left in zip(batches, exits, strict=True)
    ]
    return lambda number: [session(feeds) for session, feeds in by_exit[number]]


def _dense(file: Path) -> Callable[[dict[str, Any]], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    known = {node.name for node in session.get_inputs()}
    return lambda feeds: session.run(None, {name: array for name, array in feeds.items() if name in known})


def _seconds(run: Callable[[int], Any], batches: int) -> float:
    """Mean time of a batch, after one that does not count."""
    run(0)
    begun = perf_counter()
    for number in range(batches):
        run(number)
    return (perf_counter() - begun) / batches


def tabulate(result: Result) -> Table:
    """The result for a terminal."""
    table = Table(title=f"Own networks at {result.budget:.0%} of the work, batch {result.batch}, 1 thread")
    for heading in (
        "network",
        "dense MACs",
        "work",
        "dense, ms",
        "ms",
        "time",
        "time / work",
        "quartiles",
        "parts",
        "limit",
    ):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    for row in result.rows:
        over = row.over_work
        table.add_row(
            *(row.network, f"{row.dense_macs / 1e6:.1f}M", f"{row.work:.3f}"),
            *(f"{row.dense_ms.median:.2f}", f"{row.milliseconds.median:.2f}", f"{row.time.median:.3f}"),
            *(f"{over.median:.3f}", f"{over.low:.3f}-{over.high:.3f}"),
            *("-" if row.parts is None else f"{row.parts.median:.3f}", f"{row.limit:g}"),
        )
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", "chosen", type=click.Choice(list(NETWORKS)), multiple=True, help="Default: all four.")
@click.option("--budget", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True)
@click.option("--batch", type=click.IntRange(1, _SAMPLES), default=16, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True)
@json_option
def main(chosen: tuple[str, ...], budget: float, batch: int, rounds: int, json_file: Path | None) -> None:
    """Measure whether time follows work in networks of the user's own.

    \b
    Examples:
      python -m adaptrt.bench.own_networks
      python -m adaptrt.bench.own_networks --network "two-set matcher" --rounds 31 --json own_networks.json
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    rows = []
    with tempfile.TemporaryDirectory(prefix="adaptrt-bench-") as scratch, show_progress() as progress:
        names = chosen or tuple(NETWORKS)
        task = progress.add_task("networks", total=len(names))
        for name in names:
            rows.append(measure(name, budget, batch, rounds, Path(scratch)))
            progress.advance(task)
    result = Result(budget, batch, rounds, rows, describe_machine(), describe_source())
    show(tabulate(result), result, json_file)


if __name__ == "__main__":
    run_command(main)
