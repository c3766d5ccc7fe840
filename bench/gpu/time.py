"""Times of ConditionalMLP on a CUDA device beside the dense MLP of cuBLAS, and the floor under both.

How it is timed. Every call is captured in a CUDA graph, so that what Python costs to launch it does not count.
Calls take turns, so that clocks that fall as the device heats up fall for all. Before every replay a buffer
larger than L2 is overwritten: in a network other layers run in between, and weights come from memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adaptrt.ops import CONDITIONAL_MLP, OpRecord
from adaptrt.plugins_trt import launch

Call = Callable[[], Any]
Timer = Callable[[Mapping[str, Call]], Mapping[str, Sequence[float]]]
"""Gives the milliseconds of several runs of each call."""

SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)
TOKENS = (64, 197, 1576, 8192)
_FLUSH_BYTES = 256 * 2**20  # more than the L2 of any device so far
_WARM_UP = 3


@dataclass(frozen=True)
class MLPShape:
    """``width -> learners * hidden -> width``; the dense MLP has the same total hidden width."""

    width: int = 768
    learners: int = 4
    hidden: int = 768

    @property
    def sizes(self) -> dict[str, int]:
        """By the axes of the ops' records."""
        return {"N": self.learners, "D": self.width, "h": self.hidden, "E": self.width}


@dataclass(frozen=True)
class Milliseconds:
    """Median and quartiles of a call's runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, runs: Sequence[float]) -> Milliseconds:
        """Sum up at least one run."""
        if len(runs) < 2:
            return cls(runs[0], runs[0], runs[0])
        low, median, high = statistics.quantiles(runs, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Rates:
    """What the device does at best: bytes per second of a large copy, FLOPs per second of a large cuBLAS product."""

    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True)
class Row:
    """One number of tokens at one share of the work.

    Attributes:
        tokens: T.
        share: Learners run over all of them, as drawn.
        dense: The dense MLP, the faster of two layouts of its weights.
        adaptive: The three kernels.
        floor_ms: What bytes and FLOPs of the work done take at the device's measured rates.
        efficiency: ``share / (adaptive / dense)``: 1 means that time falls as work does.
    """

    tokens: int
    share: float
    dense: Milliseconds
    adaptive: Milliseconds
    floor_ms: float
    efficiency: float


def cuda_timer(rounds: int) -> Timer:
    """The timer for a CUDA device."""

    def measure(calls: Mapping[str, Call]) -> dict[str, list[float]]:
        graphs = {name: _captured(call) for name, call in calls.items()}
        flush = torch.empty(_FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")
        events: dict[str, list[tuple[Any, Any]]] = {name: [] for name in calls}
        for turn in range(_WARM_UP + rounds):
            for name, graph in graphs.items():
                begin, end = event_pair()
                flush.zero_()
                begin.record()
                graph.replay()
                end.record()
                if turn >= _WARM_UP:
                    events[name].append((begin, end))
        torch.cuda.synchronize()
        return {name: [begin.elapsed_time(end) for begin, end in pairs] for name, pairs in events.items()}

    return measure


def event_pair() -> tuple[Any, Any]:
    """Two events that take the device's time."""
    event: Any = torch.cuda.Event
    return event(enable_timing=True), event(enable_timing=True)


def _captured(call: Call) -> torch.cuda.CUDAGraph:
    new_stream: Any = torch.cuda.Stream
    stream = new_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def measure_rates(timer: Timer, device: str, size: int = 8192) -> Rates:
    """Measure what the device does at best, with square float16 matrices of ``size``."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.float16) for _ in range(2))
    source = torch.empty(8 * size * size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    runs = timer({"product": lambda: a @ b, "copy": lambda: target.copy_(source)})
    seconds = {name: statistics.median(times) / 1e3 for name, times in runs.items()}
    return Rates(2 * source.numel() / seconds["copy"], 2 * size**3 / seconds["product"])


def floor_ms(shape: MLPShape, running: Sequence[int], tokens: int, rates: Rates, bytes_per_number: int = 2) -> float:
    """The least time for the work of ``running[n]`` tokens per learner: each half's slower of bytes and FLOPs."""
    pairs = sum(running)
    learners = sum(1 for number in running if number)
    flops = 2 * pairs * shape.width * shape.hidden
    weights = learners * shape.width * shape.hidden
    up = max(running, default=0) * shape.width + weights + pairs * shape.hidden
    down = pairs * shape.hidden + weights + tokens * shape.width
    order_ms = 1e3 * 8 * tokens / rates.bytes_per_second
    return order_ms + sum(
        1e3 * max(numbers * bytes_per_number / rates.bytes_per_second, flops / rates.flops_per_second)
        for numbers in (up, down)
    )


def draw_weights(
    shape: MLPShape, dtype: torch.dtype, device: str, op: OpRecord = CONDITIONAL_MLP
) -> dict[str, torch.Tensor]:
    """Random weights of an op of learners, by the op's names; results have a standard deviation of about one."""
    generator = torch.Generator().manual_seed(0)
    sizes = shape.sizes
    summed = {"D": shape.width, "h": shape.learners * shape.hidden}
    weights = {}
    for field in op.inputs[2:]:
        drawn = torch.randn([sizes[axis] for axis in field.axes], generator=generator)
        drawn = drawn / (summed[field.axes[1]] ** 0.5 if len(field.axes) == 3 else 2)
        weights[field.name] = drawn.to(dtype).to(device)
    return weights


def dense_calls(x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> dict[str, Call]:
    """The dense MLP on cuBLAS with bias and exact GELU, its weights in each of the two layouts."""
    n, d, h = weights["w1"].shape
    up = weights["w1"].permute(1, 0, 2).reshape(d, n * h).contiguous()
    down = weights["w2"].reshape(n * h, -1).contiguous()
    up_t, down_t = up.t().contiguous(), down.t().contiguous()
    b1, b2 = weights["b1"].reshape(-1), weights["b2"]
    gelu, linear = torch.nn.functional.gelu, torch.nn.functional.linear
    return {
        "dense, [in, out]": lambda: torch.addmm(b2, gelu(torch.addmm(b1, x, up)), down),
        "dense, [out, in]": lambda: linear(gelu(linear(x, up_t, b1)), down_t, b2),
    }


def draw_decisions(shape: MLPShape, tokens: int, share: float, device: str) -> torch.Tensor:
    """Decisions int32 ``[tokens]``, binomial(learners, share)."""
    generator = torch.Generator().manual_seed(tokens)
    runs = torch.rand(tokens, shape.learners, generator=generator) < share
    return runs.sum(1).to(torch.int32).to(device)


def _adaptive_call(tensors: Mapping[str, Any], choose: launch.Choose) -> Call:
    return lambda: launch.conditional_mlp(**tensors, choose=choose)


def measure_tokens(
    tokens: int,
    shape: MLPShape,
    shares: Sequence[float],
    timer: Timer,
    rates: Rates,
    device: str,
    choose: launch.Choose = launch.choose_configuration,
) -> list[Row]:
    """Measure one number of tokens at every share, float16."""
    x = torch.randn(tokens, shape.width, device=device, dtype=torch.float16)
    weights = draw_weights(shape, torch.float16, device)
    calls = dense_calls(x, weights)
    forms = list(calls)
    decisions = {share: draw_decisions(shape, tokens, share, device) for share in shares}
    for share, k in decisions.items():
        calls[f"share {share}"] = _adaptive_call({"x": x, "k": k, **weights}, choose)
    times = {name: Milliseconds.of(runs) for name, runs in timer(calls).items()}
    dense = min((times[form] for form in forms), key=lambda time: time.median)
    rows = []
    for share, k in decisions.items():
        running = [int((k > n).sum()) for n in range(shape.learners)]
        drawn = sum(running) / (tokens * shape.learners)
        adaptive = times[f"share {share}"]
        efficiency = drawn / (adaptive.median / dense.median)
        rows.append(Row(tokens, drawn, dense, adaptive, floor_ms(shape, running, tokens, rates), efficiency))
    return rows


def determination(rows: Sequence[Row]) -> float:
    """R squared of the straight line through time over share; 1 is exactly linear."""
    shares, times = [row.share for row in rows], [row.adaptive.median for row in rows]
    if len(set(shares)) < 2 or len(set(times)) < 2:
        return float("nan")
    return statistics.correlation(shares, times) ** 2
