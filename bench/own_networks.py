"""Whether time follows work in networks of the user's own: at half of the work, batch 16, beside the dense network.

``python -m adaptrt.bench.own_networks``: four networks as strangers would write them, with random weights, are exported
in a few minutes. Each is then timed under a budget of 50% and its dense form beside it, one thread, in turns. The time
as a share of the dense network's, divided by the share of the work done, is to be at most 1.10.
"""

from __future__ import annotations

import itertools
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
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.timing.interleave import Spread
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.export.exporter import export_bundle
from adaptrt.export.own.user_module import derived_model
from adaptrt.models import Adaptive, Knob, Leave, StagedNetwork, take
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.runtime import Budget, load

LIMIT = 1.10
_SAMPLES = 64
_POINTS = 9
_SEED = 0

Named = dict[str, Tensor]


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
        limit: What that should be at most.
    """

    network: str
    dense_macs: int
    work: float
    dense_ms: Spread
    milliseconds: Spread
    time: Spread
    over_work: Spread
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


class ExitCNN(Adaptive):
    """A plain convolutional network with a classifier after each of three stages."""

    axes = {"pixels": ("batch", 3, 64, 64)}  # noqa: RUF012
    stages = 3

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()),
                *(nn.Conv2d(after, after, 3, 1, 1), nn.ReLU(), nn.Conv2d(after, after, 3, 1, 1), nn.ReLU()),
            )
            for before, after in itertools.pairwise(widths)
        )
        self.heads = nn.ModuleList(nn.Linear(width, 10) for width in widths[1:])

    def example(self, batch: int) -> Named:
        """Noise with structure, so that samples differ in what the heads say."""
        return {"pixels": torch.randn(batch, 3, 64, 64) * torch.rand(batch, 1, 1, 1) * 3}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        """Three convolutions, the first of which halves the resolution."""
        del knobs
        return {"x": self.blocks[number](state["pixels" if number == 0 else "x"])}

    def leave(self, number: int, state: Named) -> Leave:
        """The classifier over the mean of all places."""
        logits = self.heads[number](state["x"].mean((2, 3)))
        return Leave({"logits": logits}, logits.softmax(1).amax(1))


class DepthMap(Adaptive):
    """A map per pixel at every exit: convolutions of one resolution, heads of one convolution."""

    axes = {"pixels": ("batch", 3, 48, 64)}  # noqa: RUF012
    stages = 3

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1))
            for _ in range(3)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 3, 1, 1) for _ in range(3))

    def example(self, batch: int) -> Named:
        """Noise of different strength."""
        return {"pixels": torch.randn(batch, 3, 48, 64) * torch.rand(batch, 1, 1, 1) * 3}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        """Two convolutions beside what came in."""
        del knobs
        x = self.first(state["pixels"]) if number == 0 else state["x"]
        return {"x": x + self.blocks[number](x)}

    def leave(self, number: int, state: Named) -> Leave:
        """One convolution to the map; its strength is the measure."""
        depth = self.heads[number](state["x"])[:, 0]
        return Leave({"depth": depth}, depth.abs().mean((1, 2)))

    def judge(self, outputs: Any, targets: Any) -> Any:
        """Nearness to the map of the dense network."""
        error = np.abs(outputs["depth"] - targets["labels"]).mean((1, 2))
        return 1 / (1 + error), error


class MixtureOfDepths(Adaptive):
    """Tokens that skip blocks (arXiv 2404.02258)."""

    axes = {"x": ("batch", "n", 192)}  # noqa: RUF012
    knobs = (Knob("routed", full=0.0, least=1.0, size=4),)

    def __init__(self, width: int = 192, heads: int = 3) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.routers = nn.ModuleList(nn.Linear(width, 1) for _ in range(4))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(4))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.ffn = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(4)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def example(self, batch: int) -> Named:
        """128 tokens each."""
        return {"x": torch.randn(batch, 128, self.width)}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        """Four blocks, each over the tokens that its router picks."""
        del number
        x = state["x"]
        for block in range(4):
            score = torch.sigmoid(self.routers[block](x))[:, :, 0]
            some = take(x, score, above=knobs["routed"][block])
            qkv = self.qkv[block](self.norm(some.rows)).unflatten(2, (3, self.heads, self.width // self.heads))
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            mask = torch.where(some.valid[:, None, None, :], 0.0, -1e9)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
            h = some.rows + self.out[block](mixed)
            h = h + self.ffn[block](h)
            x = some.back(x, score.gather(1, some.index)[:, :, None] * (h - some.rows))
        return {"x": x}

    def leave(self, number: int, state: Named) -> Leave:
        """A classifier over the mean token."""
        del number
        return Leave({"logits": self.head(state["x"].mean(1))})


class Matcher(Adaptive):
    """Two sets of points, self- and cross-attention, exits and pruning between layers (arXiv 2306.13643)."""

    axes = {  # noqa: RUF012
        **{f"desc{side}": ("batch", axis, 64) for side, axis in enumerate("mn")},
        **{f"valid{side}": ("batch", axis) for side, axis in enumerate("mn")},
    }
    padding = {"m": "valid0", "n": "valid1"}  # noqa: RUF012
    stages = 4
    knobs = (Knob("prune", full=0.0, least=0.6),)

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Linear(64, width)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(4))
        self.cross = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(4))
        self.mix = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(8)
        )
        self.score = nn.ModuleList(nn.Linear(width, 1) for _ in range(4))
        self.final = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def example(self, batch: int) -> Named:
        """Up to 192 points a side."""
        given: Named = {}
        for side in "01":
            given[f"desc{side}"] = torch.randn(batch, 192, 64) * (0.3 + 2 * torch.rand(batch, 1, 1))
            given[f"valid{side}"] = torch.arange(192)[None] < torch.randint(150, 193, (batch, 1))
        return {name: given[name] for name in self.axes}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        """One layer, over the points that the one before calls worth it."""
        x, real, place = [], [], []
        for which in "01":
            if number == 0:
                valid = state[f"valid{which}"]
                x.append(self.project(state[f"desc{which}"]))
                real.append(valid)
                place.append(torch.arange(valid.shape[1]).expand(valid.shape))
                continue
            rows = state[f"x{which}"]
            first = torch.arange(rows.shape[1])[None] < 1
            score = torch.sigmoid(self.score[number - 1](rows))[:, :, 0]
            kept = take(rows, score, above=knobs["prune"], always=first, valid=state[f"real{which}"])
            x.append(kept.rows)
            real.append(kept.valid)
            place.append(state[f"place{which}"].gather(1, kept.index))
        for side in (0, 1):
            q, k, v = self.qkv[number](x[side]).chunk(3, -1)
            x[side] = x[side] + self.mix[2 * number](torch.cat([x[side], _attend(q, k, v, real[side])], -1))
        k, v = zip(*(self.cross[number](each).chunk(2, -1) for each in x), strict=True)
        attended = [_attend(k[side], k[1 - side], v[1 - side], real[1 - side]) for side in (0, 1)]
        after = {name: state[name] for name in ("valid0", "valid1")}
        for side in (0, 1):
            rows = x[side] + self.mix[2 * number + 1](torch.cat([x[side], attended[side]], -1))
            after |= {f"x{side}": rows, f"real{side}": real[side], f"place{side}": place[side]}
        return after

    def leave(self, number: int, state: Named) -> Leave:
        """The best partner of each point of the first set, by a product of both sets."""
        one, other = (self.final[number](state[f"x{side}"]) for side in "01")
        similar = one @ other.transpose(1, 2) / self.width**0.5
        similar = torch.where(state["real1"][:, None, :], similar, -1e4)
        best = state["place1"].gather(1, similar.argmax(2))
        size = state["valid0"].shape[1]
        where = torch.where(state["real0"], state["place0"], size)
        matches = torch.full((best.shape[0], size + 1), -1, dtype=torch.int64).scatter(1, where, best)[:, :-1]
        weight = state["real0"].to(torch.float32)
        return Leave({"matches": matches}, (similar.softmax(2).amax(2) * weight).sum(1) / weight.sum(1).clamp(min=1.0))

    def judge(self, outputs: Any, targets: Any) -> Any:
        """Share of the dense network's matches."""
        same = (outputs["matches"] == targets["labels"]).mean(1)
        return same, 1 - same


def _attend(q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
    similar = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
    return torch.where(real[:, None, :], similar, -1e4).softmax(-1) @ v


NETWORKS: dict[str, type[Adaptive]] = {
    "exit CNN": ExitCNN,
    "map per pixel": DepthMap,
    "mixture of depths": MixtureOfDepths,
    "two-set matcher": Matcher,
}


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
    work = [model.run(each).macs_fraction for each in batches]
    ours: list[float] = []
    against: list[float] = []
    for turn in range(rounds):
        turns: list[tuple[Callable[[dict[str, Any]], Any], list[float]]] = [(model.run, ours), (dense, against)]
        for run, times in turns if turn % 2 == 0 else reversed(turns):
            times.append(_seconds(run, batches))
    share = float(np.concatenate(work).mean())
    if not share > 0:
        raise BenchError(f"got no work in {name} at a budget of {budget:g}, expected some; choose a larger one")
    time = Spread.of([one / other for one, other in zip(ours, against, strict=True)])
    return Row(
        name,
        model.bundle.dense.macs,
        share,
        Spread.of(against).scaled(1e3),
        Spread.of(ours).scaled(1e3),
        time,
        time.scaled(1 / share),
    )


def _dense(file: Path) -> Callable[[dict[str, Any]], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    known = {node.name for node in session.get_inputs()}
    return lambda feeds: session.run(None, {name: array for name, array in feeds.items() if name in known})


def _seconds(run: Callable[[dict[str, Any]], Any], batches: Sequence[dict[str, Any]]) -> float:
    """Mean time of a batch, after one that does not count."""
    run(batches[0])
    begun = perf_counter()
    for each in batches:
        run(each)
    return (perf_counter() - begun) / len(batches)


def tabulate(result: Result) -> Table:
    """The result for a terminal."""
    table = Table(title=f"Own networks at {result.budget:.0%} of the work, batch {result.batch}, 1 thread")
    for heading in ("network", "dense MACs", "work", "dense, ms", "ms", "time", "time / work", "quartiles", "limit"):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    for row in result.rows:
        over = row.over_work
        table.add_row(
            *(row.network, f"{row.dense_macs / 1e6:.1f}M", f"{row.work:.3f}"),
            *(f"{row.dense_ms.median:.2f}", f"{row.milliseconds.median:.2f}", f"{row.time.median:.3f}"),
            *(f"{over.median:.3f}", f"{over.low:.3f}-{over.high:.3f}", f"{row.limit:g}"),
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
