"""How far a trained router is from the best routes there are, found by trying all of them in a small network.

``python -m adaptrt.bench.routing_oracle MODEL``: MODEL is a folder with routed feed-forward networks (family
``routes``). With L of them every token has 3^L routes. Tried are all routes that a sample's tokens can take together,
and, from the router's own choice, all that each token can take alone (arXiv 2410.10846, section 4). Beside the router
stand the best single route and random routes of the same shares.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table
from torch import Tensor

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.models.data.split import Split, load_data
from adaptrt.models.families.gate import Decision
from adaptrt.models.families.routed_ffn import RoutedFFN
from adaptrt.models.network import Network
from adaptrt.models.registry import load_model
from adaptrt.models.tasks.following import following
from adaptrt.models.tasks.task import Task

ROUTES = 3
PRICES = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
_MOST = 6_561
"""Routes through a whole network that are tried: eight layers of three."""
_ROWS = 512
_DRAWS = 8
"""Random routes for each price."""

Array = npt.NDArray[np.float64]
Routes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class OracleRow:
    """One price.

    Attributes:
        price: Of the router.
        work: Its mean share of the dense work.
        router: Its mean loss.
        sample_oracle: Least mean loss at that work where each sample has the best route for all its tokens.
        single: Where all samples have one route; between two of them, the mixture.
        random: With routes drawn with the shares that the router gives each layer, a mean over draws.
        token_oracle: Mean loss where each token has taken the route best for it alone; None: too many to try.
        token_oracle_work: Its mean share of the dense work.
    """

    price: float
    work: float
    router: float
    sample_oracle: float
    single: float
    random: float
    token_oracle: float | None
    token_oracle_work: float | None

    @property
    def gap(self) -> float:
        """What the router loses against the sample oracle at the same work."""
        return self.router - self.sample_oracle


@dataclass(frozen=True)
class OracleResult:
    """What was found.

    Attributes:
        model: Name.
        samples: That all routes were tried for.
        token_samples: That every token's routes were tried for.
        routes: Through the whole network.
        loss: What losses are.
        dense: The mean loss where everything goes through the big networks.
        rows: By price.
    """

    model: str
    samples: int
    token_samples: int
    routes: int
    loss: str
    dense: float
    rows: list[OracleRow]
    machine: dict[str, Any] = field(default_factory=describe_machine)
    source: dict[str, Any] = field(default_factory=describe_source)


class RouteTrials:
    """Runs a network with routes that are told.

    Args:
        network: With a router in every block; evaluated.
        split: Samples and what they are judged by.
        task: What judges.

    Raises:
        BenchError: It has no routed networks, or gates of another kind, or too many.
    """

    def __init__(self, network: Network, split: Split, task: Task) -> None:
        ffns = [block.ffn for block in network.blocks if isinstance(block.ffn, RoutedFFN)]
        self.gates = [ffn.gate for ffn in ffns]
        if not ffns or len(ffns) != len(network.gates()):
            raise BenchError("got a network without routed FFNs, expected some; adapt one with --families routes")
        if ROUTES ** len(ffns) > _MOST:
            raise BenchError(f"got {len(ffns)} routed layers, expected at most 8: all their routes are tried")
        self.network, self.split, self.task = network.eval(), split, task
        first = network.input_specs()[0].name
        self.inputs = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in split.named(first).items()}
        self.patterns = [np.array(p, np.int32) for p in itertools.product(range(ROUTES), repeat=len(self.gates))]

    @torch.no_grad()
    def at_price(self, price: float, rows: Sequence[int]) -> tuple[Array, Array, Routes]:
        """Loss and work of each sample, and the routes taken, ``[L, samples, tokens]``."""
        given = {name: tensor[list(rows)] for name, tensor in self.inputs.items()}
        out = self.network.run(given, {"price": torch.tensor([price])})
        routes = np.stack([decision.k.reshape(len(rows), -1).numpy() for decision in out.decisions])
        return *self._judged(out, rows), routes

    @torch.no_grad()
    def along(self, routes: Routes, rows: Sequence[int]) -> tuple[Array, Array]:
        """Loss and work of samples whose tokens take routes ``[L, samples, tokens or 1]``; padding takes none."""
        losses, works = [], []
        for start in range(0, len(rows), _ROWS):
            part = list(rows[start : start + _ROWS])
            given = {name: tensor[part] for name, tensor in self.inputs.items()}
            with self._forced(torch.from_numpy(routes[:, start : start + _ROWS].copy())):
                loss, work = self._judged(self.network.run(given, {"price": torch.tensor([0.5])}), part)
            losses.append(loss)
            works.append(work)
        return np.concatenate(losses), np.concatenate(works)

    def _judged(self, out: Any, rows: Sequence[int]) -> tuple[Array, Array]:
        outputs = {name: value.numpy() for name, value in out.outputs.items()}
        loss = self.task.judge(outputs, self.split.labels[list(rows)]).loss
        return loss.astype(np.float64), out.macs_fraction.double().numpy()

    @contextlib.contextmanager
    def _forced(self, routes: Tensor) -> Iterator[None]:
        def force(layer: int) -> Callable[..., Decision]:
            def forced(_gate: object, given: tuple[Any, ...], decision: Decision) -> Decision:
                tokens = len(decision.k) // routes.shape[1]
                k = routes[layer].expand(-1, tokens).reshape(-1)
                valid = given[2] if len(given) > 2 else None
                return decision._replace(k=k if valid is None else k * valid.reshape(-1).to(torch.int32))

            return forced

        hooks = [gate.register_forward_hook(force(layer)) for layer, gate in enumerate(self.gates)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def search(
    trials: RouteTrials,
    name: str,
    prices: Sequence[float] = PRICES,
    *,
    token_samples: int = 8,
    seed: int = 0,
    on_done: Callable[[float], None] = lambda _: None,
) -> OracleResult:
    """Try all routes, and compare the router with the best of them.

    Args:
        trials: The network on its samples.
        name: Of the network.
        prices: Of the router.
        token_samples: Samples each of whose tokens tries every route; 0: none.
        seed: Of the random routes.
        on_done: Told the share that is done.
    """
    samples = list(range(len(trials.split)))
    tried = []
    for number, pattern in enumerate(trials.patterns):
        tried.append(trials.along(np.broadcast_to(pattern[:, None, None], (len(pattern), len(samples), 1)), samples))
        on_done(0.5 * (number + 1) / len(trials.patterns))
    loss, work = (np.stack([each[part] for each in tried]) for part in (0, 1))  # [routes, samples]
    generator = np.random.default_rng(seed)
    rows = []
    for number, price in enumerate(prices):
        own_loss, own_work, routes = trials.at_price(price, samples)
        spent = float(own_work.mean())
        few = samples[:token_samples]
        by_token = _token_oracle(trials, routes[:, : len(few)], few, _slope(loss, work, spent)) if few else None
        drawn = [trials.along(_shuffled(routes, generator), samples)[0].mean() for _ in range(_DRAWS)]
        row = OracleRow(
            price,
            spent,
            float(own_loss.mean()),
            least_loss(loss, work, spent),
            least_loss(loss.mean(1, keepdims=True), work.mean(1, keepdims=True), spent),
            float(np.mean(drawn)),
            None if by_token is None else by_token[0],
            None if by_token is None else by_token[1],
        )
        rows.append(row)
        on_done(0.5 + 0.5 * (number + 1) / len(prices))
    everything = float(loss[-1].mean())
    count = len(trials.patterns)
    return OracleResult(name, len(samples), token_samples, count, trials.task.metric, everything, rows)


def least_loss(loss: Array, work: Array, spent: float) -> float:
    """Least mean loss at a mean work, where every sample may take one of several routes, or a mixture of two.

    Along prices of work each sample takes what is best for it; between two prices samples are divided.

    Args:
        loss: ``[routes, samples]``.
        work: Likewise.
        spent: The mean work; below the least there is, that of the least.
    """
    points = _frontier(loss, work)
    return float(np.interp(spent, [point[0] for point in points], [point[1] for point in points]))


def _frontier(loss: Array, work: Array) -> list[tuple[float, float, float]]:
    """Mean work, mean loss and price of work along the lower hull, work ascending."""
    samples = np.arange(loss.shape[1])
    points: dict[float, tuple[float, float, float]] = {}

    def at(price: float) -> tuple[float, float, float]:
        best = (loss + price * work).argmin(0)
        point = (float(work[best, samples].mean()), float(loss[best, samples].mean()), price)
        points.setdefault(point[0], point)
        return point

    cheapest = work.min(0)
    tie = np.where(work <= cheapest + 1e-12, loss, np.inf).argmin(0)
    points[float(cheapest.mean())] = (float(cheapest.mean()), float(loss[tie, samples].mean()), np.inf)
    for price in np.concatenate([[0.0], np.geomspace(1e-6, 1e6, 400)]):
        at(float(price))
    return sorted(points.values())


def _slope(loss: Array, work: Array, spent: float) -> float:
    """The price of work at which samples, each on its best route, spend about so much."""
    finite = [point for point in _frontier(loss, work) if np.isfinite(point[2])]
    return min(finite, key=lambda point: abs(point[0] - spent))[2]


def _token_oracle(trials: RouteTrials, routes: Routes, rows: Sequence[int], price: float) -> tuple[float, float]:
    """Let each token take the route best for it, the others being where the router sent them; then all at once."""
    chosen = routes.copy()
    count = len(trials.patterns)
    for place, sample in enumerate(rows):
        for token in range(routes.shape[2]):
            each = np.repeat(routes[:, place : place + 1], count, 1)
            each[:, :, token] = np.stack(trials.patterns, 1)
            loss, work = trials.along(each, [sample] * count)
            chosen[:, place, token] = trials.patterns[int((loss + price * work).argmin())]
    loss, work = trials.along(chosen, rows)
    return float(loss.mean()), float(work.mean())


def _shuffled(routes: Routes, generator: np.random.Generator) -> Routes:
    """The same routes in each layer, given to other tokens of any sample."""
    flat = routes.reshape(len(routes), -1)
    return np.stack([generator.permutation(layer) for layer in flat]).reshape(routes.shape)


def tabulate(result: OracleResult) -> Table:
    """The result for a terminal."""
    title = f"{result.model}: {result.routes:,} routes, {result.samples} samples; loss, all big {result.dense:.4f}"
    table = Table(title=title)
    headings = ("price", "work", "router", "sample oracle", "gap", "one route", "random")
    for heading in (*headings, "token oracle", "its work"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows:
        token = "-" if row.token_oracle is None else f"{row.token_oracle:.4f}"
        its = "-" if row.token_oracle_work is None else f"{row.token_oracle_work:.3f}"
        losses = (row.router, row.sample_oracle, row.gap, row.single, row.random)
        table.add_row(f"{row.price:g}", f"{row.work:.3f}", *(f"{loss:.4f}" for loss in losses), token, its)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option("--data", metavar="NAME|FILE.npz", help="Samples of its test part; default: what it was adapted on.")
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True, help="That try all routes.")
@click.option("--token-samples", type=click.IntRange(0), default=8, show_default=True, help="Whose tokens try all.")
@click.option("--price", "prices", type=click.FloatRange(0, 1), multiple=True, default=PRICES, show_default=True)
@json_option
def main(
    model: str, data: str | None, samples: int, token_samples: int, prices: tuple[float, ...], json_file: Path | None
) -> None:
    """Compare a router with the best routes there are.

    MODEL is a folder of a network with routed feed-forward networks, eight layers at most.

    \b
    Examples:
      python -m adaptrt.bench.routing_oracle models/routed
      python -m adaptrt.bench.routing_oracle models/routed --samples 32 --token-samples 0 --json oracle.json
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    source = load_model(model)
    name = data or source.data_name
    if name is None:
        raise BenchError(f"model {model!r} names no data, expected --data; give some")
    if not isinstance(source.model, Network):
        raise BenchError(f"got model {model!r}, expected a transformer with routed FFNs")
    splits = load_data(name)
    test = splits.test.part(slice(samples))
    task = following(source.model.task) if splits.follows_dense else source.model.task
    trials = RouteTrials(source.model, test, task)
    with show_progress() as progress:
        bar = progress.add_task(f"{len(trials.patterns):,} routes of {len(test)} samples", total=1)
        result = search(
            trials,
            source.name,
            prices,
            token_samples=token_samples,
            on_done=lambda share: progress.update(bar, completed=share),
        )
    show(tabulate(result), result, json_file)


if __name__ == "__main__":
    run_command(main)
