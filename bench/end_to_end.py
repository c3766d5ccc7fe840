"""How closely the time of a whole vision transformer follows its work.

``python -m adaptrt.bench.end_to_end``: Network-S and Network-B shapes with random weights in ONNX Runtime, their
FFNs as ACMs, and their projections too, against the dense model. Decisions are fed, binomial(4, share),
so that the shares are exact; the gates still run, since their choice is an output, and their cost counts
in the time and in the work.

``--precision int8`` measures the same with weights and activations in int8, as ``adaptrt build`` makes them with fixed
scales, against what one line of a user's code makes of the dense model: ``quantize_dynamic`` by channel.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.progress import Progress, TaskID
from rich.table import Table

from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.rivals.static_models import in_int8, quantized
from adaptrt.bench.timing.interleave import Case, Spread, interleave
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.bench.timing.session_process import Array, SessionProcess
from adaptrt.export.graph.bodies import attach_bodies
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.graph.trace import trace_dense, trace_stage
from adaptrt.export.parity.teacher_forcing import force_decisions
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.network import Network

DENSE = "dense"
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
_IMAGE = {"image_size": 224, "patch_size": 16, "channels": 3, "classes": 1000, "class_token": True}
SHAPES = {
    "vit-s": ViTConfig(**_IMAGE, width=384, depth=12, heads=6, ffn_width=1536),  # type: ignore[arg-type]
    "vit-b": ViTConfig(**_IMAGE, width=768, depth=12, heads=12, ffn_width=3072),  # type: ignore[arg-type]
}
QUICK = ViTConfig(image_size=32, patch_size=8, channels=3, width=32, depth=2, heads=2, ffn_width=128, class_token=True)
ADAPTED = {"ffn": ACMConfig(), "ffn+projections": ACMConfig(projections=True)}
FLOAT32, INT8 = "float32", "int8"
IN_PRECISION = {FLOAT32: tuple(ADAPTED), INT8: ("ffn",)}
"""What is adapted, by precision: projections cost more than they save."""
_BATCHES = (1, 16)
_SCALING_IMAGES = 4
_ROUNDS = {1: 25, 16: 7}  # of the default batches
_ROUNDS_OTHERWISE = 9
_LONG_SECONDS = 0.6  # a run this long does not notice that another process had the caches


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        model: Name of the shape.
        batch: Images.
        adapted: Which layers are ACMs: "dense", "ffn" or "ffn+projections".
        precision: Of both, float32 or int8.
        share: Share of learners asked for; projections run at least one of theirs.
        ideal: Multiply-accumulates over the dense model's, of the decisions drawn, gates included.
        milliseconds: Time of one run of the batch.
        ratio: Time over the dense model's.
        efficiency: ``ideal / ratio``.
    """

    model: str
    batch: int
    adapted: str
    precision: str
    share: float
    ideal: float
    milliseconds: Spread
    ratio: Spread
    efficiency: Spread


@dataclass(frozen=True)
class Result:
    """All that one run of the benchmark measured."""

    benchmark: str
    threads: int
    rounds: dict[int, int]
    rows: tuple[Row, ...]
    machine: dict[str, Any]
    source: dict[str, Any]


@dataclass(frozen=True)
class TimedNetwork:
    """One graph in its process.

    Attributes:
        adapted: Key of ``ADAPTED``, or "dense".
        model: The torch model, for its gates and layers.
        process: Runs its graph.
    """

    adapted: str
    model: Network
    process: SessionProcess


def write_graphs(
    config: ViTConfig, folder: Path, tell: Callable[[str], None], precision: str = FLOAT32
) -> dict[str, tuple[Path, Network]]:
    """Trace the dense model and each adapted one, decisions as inputs; file and model by name."""
    graphs = {}
    for adapted in (DENSE, *IN_PRECISION[precision]):
        tell(f"tracing {adapted}")
        torch.manual_seed(0)
        model = Network.from_config(dataclasses.replace(config, acm=ADAPTED.get(adapted))).eval()
        if model.adaptive:
            stage = trace_stage(model, 0)
            attach_bodies(stage.graph)
            graph = force_decisions(stage.graph, stage.decisions)
        else:
            graph = trace_dense(model)
        file = folder / f"{adapted}.onnx"
        save_graph(graph, file)
        if precision == INT8:
            tell(f"{adapted} in int8")
            small = folder / f"{adapted}_int8.onnx"
            file = in_int8(graph, [_scaling_feeds(model)], small) if model.adaptive else quantized(file, small)
        graphs[adapted] = (file, model)
    return graphs


def _scaling_feeds(model: Network) -> dict[str, Array]:
    """Images that say the scales of int8, everything running."""
    generator = np.random.default_rng(0)
    decisions = draw_decisions(model, _SCALING_IMAGES, 1.0, generator)
    forced = {f"forced_learners_{index}": k for index, k in enumerate(decisions)}
    pixels = _draw_pixels(model.config, _SCALING_IMAGES, generator)
    return {"pixels": pixels, "price": np.zeros(1, np.float32), **forced}


def _draw_pixels(config: ViTConfig, images: int, generator: np.random.Generator) -> Array:
    return generator.random((images, config.channels, config.image_size, config.image_size), dtype=np.float32)


def draw_decisions(model: Network, batch: int, share: float, generator: np.random.Generator) -> list[Array]:
    """Draw ``k[batch * tokens]`` (int32) for each gate, in the order of ``model.gates()``."""
    assert model.config.acm is not None
    learners, tokens = model.config.acm.learners, model.config.tokens
    return [
        np.maximum(generator.binomial(learners, share, batch * tokens), gate.at_least).astype(np.int32)
        for gate in model.gates()
    ]


def ideal_share(model: Network, decisions: Sequence[Array], batch: int) -> float:
    """Multiply-accumulates under these decisions over the dense model's, gates included."""
    layers = model.layers()
    per_run = [layer.per_run for layer in layers if layer.per_run]
    spent = sum(layer.fixed for layer in layers) * batch
    spent += sum(each * int(k.sum()) for each, k in zip(per_run, decisions, strict=True))
    return spent / (model.dense_macs() * batch)


def measure(
    name: str,
    networks: Sequence[TimedNetwork],
    batch: int,
    rounds: int,
    on_turn: Callable[[], None] | None = None,
    precision: str = FLOAT32,
) -> list[Row]:
    """Measure every case of one shape at one batch size.

    Args:
        name: Of the shape.
        networks: The dense one and the adapted ones.
        batch: Images.
        rounds: Rounds of the interleaving.
        on_turn: Called after every turn, ``rounds * turns()`` times.
        precision: Of their graphs.
    """
    generator = np.random.default_rng(batch)
    pixels = {"pixels": _draw_pixels(networks[0].model.config, batch, generator)}
    cases, about = [], {}
    for network in networks:
        network.process.load(pixels)
        if not network.model.adaptive:
            cases.append(Case(DENSE, network.process, [{"pixels": "pixels"}]))
            about[DENSE] = (DENSE, precision, 1.0, 1.0)
            continue
        network.process.load({"price": np.zeros(1, np.float32)})
        for share in SHARES:
            decisions = draw_decisions(network.model, batch, share, generator)
            arrays = {f"forced_learners_{index} {share}": k for index, k in enumerate(decisions)}
            network.process.load(arrays)
            feed = {"pixels": "pixels", "price": "price", **{array.split()[0]: array for array in arrays}}
            case = Case(f"{network.adapted} {share}", network.process, [feed])
            cases.append(case)
            about[case.name] = (network.adapted, precision, share, ideal_share(network.model, decisions, batch))
    first = {id(case.process): case for case in reversed(cases)}  # of each process the dearest
    slowest = max(case.process.time(case.feeds, warm=1, runs=1)[0][0] for case in first.values())
    warm = int(slowest < _LONG_SECONDS)
    timings = interleave(cases, baseline=DENSE, rounds=rounds, warm=warm, runs=1, on_turn=on_turn)
    return [
        Row(
            name,
            batch,
            *about[case],
            timing.seconds.scaled(1e3),
            timing.ratio,
            timing.ratio.into(about[case][-1]),
        )
        for case, timing in timings.items()
    ]


def turns(precision: str = FLOAT32) -> int:
    """Cases of one shape and batch size."""
    return 1 + len(IN_PRECISION[precision]) * len(SHARES)


def rounds_of(batch: int, chosen: int | None) -> int:
    """Rounds at a batch size: as chosen, or what fits the time that a whole run may take."""
    return chosen or _ROUNDS.get(batch, _ROUNDS_OTHERWISE)


def measure_shape(
    name: str, config: ViTConfig, rounds: dict[int, int], threads: int, progress: Progress, precision: str = FLOAT32
) -> list[Row]:
    """Build one shape's graphs and measure them at every batch size."""
    task = progress.add_task(name, total=turns(precision) * sum(batch * count for batch, count in rounds.items()))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="adaptrt-bench-") as folder, ExitStack() as stack:
        told = partial(_told, progress, task, name)
        graphs = write_graphs(config, Path(folder), told, precision)
        progress.update(task, description=f"{name}: loading")
        networks = [
            TimedNetwork(adapted, model, stack.enter_context(SessionProcess(file, threads=threads)))
            for adapted, (file, model) in graphs.items()
        ]
        for batch, count in rounds.items():
            progress.update(task, description=f"{name}: batch {batch}")
            rows += measure(name, networks, batch, count, partial(progress.advance, task, batch), precision)
    return rows


def _told(progress: Progress, task: TaskID, name: str, what: str) -> None:
    progress.update(task, description=f"{name}: {what}")


def tabulate(result: Result) -> Table:
    """The result for a terminal."""
    dense = {FLOAT32: "the dense model", INT8: "the dense model by quantize_dynamic"}
    about = " and ".join(dense[each] for each in dict.fromkeys(row.precision for row in result.rows))
    table = Table(title=f"Vision transformers end to end against {about}, ONNX Runtime, threads: {result.threads}")
    headings = ("model", "batch", "ACMs", "precision", "share", "MACs", "ms", "time / dense", "quartiles", "efficiency")
    for heading in (*headings, "quartiles"):
        table.add_column(
            heading, justify="left" if heading in ("model", "ACMs", "precision") else "right", no_wrap=True
        )
    for row in result.rows:
        if row.adapted == DENSE:
            table.add_section()
        table.add_row(
            row.model,
            str(row.batch),
            row.adapted,
            row.precision,
            f"{row.share:.0%}",
            f"{row.ideal:.3f}",
            f"{row.milliseconds.median:.1f}",
            f"{row.ratio.median:.3f}",
            f"{row.ratio.low:.3f}-{row.ratio.high:.3f}",
            f"{row.efficiency.median:.3f}",
            f"{row.efficiency.low:.3f}-{row.efficiency.high:.3f}",
        )
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "models", type=click.Choice(list(SHAPES)), multiple=True, default=tuple(SHAPES))
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=_BATCHES, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), help="Rounds of the interleaving; default 25 at batch 1, 7 at 16.")
@click.option("--precision", type=click.Choice(list(IN_PRECISION)), default=FLOAT32, show_default=True)
@click.option("--quick", is_flag=True, help="A tiny model, few rounds: shows that it runs, measures nothing.")
@json_option
def main(
    models: tuple[str, ...],
    batches: tuple[int, ...],
    threads: int,
    rounds: int | None,
    precision: str,
    quick: bool,
    json_file: Path | None,
) -> None:
    """Measure how closely the time of whole vision transformers follows their work.

    Network-S and Network-B shapes with random weights, FFNs as ACMs with four learners, and projections too,
    against the dense model in ONNX Runtime. Decisions are binomial(4, share). Efficiency = share of the
    multiply-accumulates (gates included) / share of the dense time. In int8 the dense model is what quantize_dynamic
    makes of it, one line of code.

    \b
    Examples:
      python -m adaptrt.bench.end_to_end
      python -m adaptrt.bench.end_to_end --model vit-b --batch 1 --json vit-b.json
      python -m adaptrt.bench.end_to_end --precision int8 --json int8.json
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    machine = describe_machine()
    counts = {batch: 2 if quick else rounds_of(batch, rounds) for batch in batches}
    shapes = {"quick": QUICK} if quick else {name: SHAPES[name] for name in models}
    rows: list[Row] = []
    with show_progress() as progress:
        for name, config in shapes.items():
            rows += measure_shape(name, config, counts, threads, progress, precision)
    result = Result("end_to_end", threads, counts, tuple(rows), machine, describe_source())
    show(tabulate(result), result, json_file)


if __name__ == "__main__":
    run_command(main)
