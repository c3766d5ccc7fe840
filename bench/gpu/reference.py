"""What the kernels must compute, in torch at float64, and how far they are from it.

Written apart from ``ops/``, whose records want onnx; a machine with a GPU may have torch and Triton alone.
Outputs, and all memory between kernels, are full of NaN or -1 before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from adaptrt.plugins_trt import launch
from adaptrt.plugins_trt.kernel_records import CONDITIONAL_MLP_ORDER

TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 3e-2}
"""Absolute and relative, as in the op's record."""


@dataclass(frozen=True)
class Sizes:
    """Tokens T, learners N, widths D -> h -> E of a ConditionalMLP, and how k is drawn."""

    T: int
    N: int
    D: int
    h: int
    E: int
    draw: str = "random"


CASES = (
    Sizes(0, 4, 64, 64, 64),
    Sizes(1, 4, 64, 64, 64),
    Sizes(37, 4, 24, 16, 20),
    Sizes(65, 9, 13, 7, 11),
    Sizes(70, 19, 32, 16, 32),
    Sizes(197, 4, 96, 80, 96, "beyond"),
    Sizes(130, 4, 64, 64, 64, "none"),
    Sizes(130, 4, 64, 64, 64, "all"),
    Sizes(4100, 3, 48, 32, 160),
    Sizes(8192, 4, 768, 768, 768),
)
TINY_CASES = CASES[:4]


@dataclass(frozen=True)
class Check:
    """One comparison: what ran, the largest distance from the reference over what is allowed, at most 1 if right."""

    kernel: str
    dtype: str
    weights: str
    case: str
    distance: float

    @property
    def passed(self) -> bool:
        """NaN is no distance that passes."""
        return self.distance <= 1


@dataclass(frozen=True)
class MLPInputs:
    """Inputs of ConditionalMLP by name, and the weights that they stand for."""

    tensors: dict[str, torch.Tensor]
    w1: torch.Tensor
    w2: torch.Tensor
    dtype: torch.dtype = field(default=torch.float32)


def poisoned(like: torch.Tensor, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """Memory full of NaN, or of a number that no token and no count has."""
    kind: torch.dtype = getattr(torch, dtype)
    return like.new_full(shape, float("nan") if kind.is_floating_point else -1, dtype=kind)


def draw_k(sizes: Sizes, device: str, generator: torch.Generator) -> torch.Tensor:
    """Decisions int32 ``[T]``: "random", "beyond" (outside 0..N as well), "none" or "all"."""
    margin = 3 if sizes.draw == "beyond" else 0
    k = torch.randint(-margin, sizes.N + margin + 1, (sizes.T,), generator=generator, dtype=torch.int32)
    fixed = {"none": 0, "all": sizes.N}.get(sizes.draw)
    return (k if fixed is None else torch.full_like(k, fixed)).to(device)


def draw_mlp(sizes: Sizes, dtype: str, weights: str, device: str, generator: torch.Generator) -> MLPInputs:
    """Inputs whose results have a standard deviation of about one."""
    kind: torch.dtype = getattr(torch, dtype)
    x = torch.randn(sizes.T, sizes.D, generator=generator)
    w1 = torch.randn(sizes.N, sizes.D, sizes.h, generator=generator) / sizes.D**0.5
    w2 = torch.randn(sizes.N, sizes.h, sizes.E, generator=generator) / (sizes.N * sizes.h) ** 0.5
    b1 = torch.randn(sizes.N, sizes.h, generator=generator) / 2
    b2 = torch.randn(sizes.E, generator=generator) / 2
    tensors = {"x": x.to(kind), "b1": b1.to(kind), "b2": b2.to(kind)}
    if weights == "int8":
        for name, weight in (("w1", w1), ("w2", w2)):
            scale = weight.abs().amax(1) / 127
            tensors[name] = (weight / scale[:, None]).round().to(torch.int8)
            tensors[f"{name}_scale"] = scale
        w1 = tensors["w1"].double() * tensors["w1_scale"].double()[:, None]
        w2 = tensors["w2"].double() * tensors["w2_scale"].double()[:, None]
    else:
        tensors["w1"], tensors["w2"] = w1.to(kind), w2.to(kind)
        w1, w2 = tensors["w1"].double(), tensors["w2"].double()
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    k = draw_k(sizes, device, generator)
    return MLPInputs({**tensors, "k": k}, w1.to(device), w2.to(device), kind)


def mlp_reference(inputs: MLPInputs) -> torch.Tensor:
    """ConditionalMLP in float64, ``[T, E]``."""
    x, k, b1, b2 = (inputs.tensors[name].double() for name in ("x", "k", "b1", "b2"))
    y = b2.repeat(len(x), 1)
    for n in range(len(inputs.w1)):
        rows = k > n
        hidden = torch.nn.functional.gelu(x[rows] @ inputs.w1[n] + b1[n])
        y[rows] += hidden @ inputs.w2[n]
    return y


def check_mlp(sizes: Sizes, dtype: str, weights: str, device: str, choose: launch.Choose) -> Check:
    """Compare one run of the three kernels with the reference."""
    generator = torch.Generator().manual_seed(sizes.T + sizes.D)
    inputs = draw_mlp(sizes, dtype, weights, device, generator)
    got = launch.conditional_mlp(**inputs.tensors, allocate=poisoned, choose=choose).double()
    wanted = mlp_reference(inputs)
    tolerance = TOLERANCES[dtype]
    return Check("ConditionalMLP", dtype, weights, str(sizes), _distance(got, wanted, tolerance))


def _distance(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> float:
    """The largest error over what is allowed; infinite where a result is no number."""
    if got.numel() == 0:
        return 0.0
    error = (got - wanted).abs() / (tolerance * (1 + wanted.abs()))
    return float(torch.where(torch.isnan(error), torch.inf, error).max())


def check_order(sizes: Sizes, device: str, choose: launch.Choose) -> Check:
    """Compare the ordering alone, which must be exact."""
    k = draw_k(sizes, device, torch.Generator().manual_seed(sizes.T))
    order, running = (poisoned(k, (size,), "int32") for size in (sizes.T, sizes.N))
    launch.launch(CONDITIONAL_MLP_ORDER, {"k": k, "order": order, "running": running}, choose=choose)
    level = k.clamp(0, sizes.N)
    wanted = torch.sort(level, descending=True, stable=True).indices
    counts = torch.stack([(level > n).sum() for n in range(sizes.N)])
    right = torch.equal(order.long(), wanted) and torch.equal(running.long(), counts)
    return Check("ConditionalMLPOrder", "int32", "int32", str(sizes), 0.0 if right else torch.inf)


def check_selection(
    shape: tuple[int, int, int], limits: tuple[int, int], dtype: str, device: str, choose: launch.Choose
) -> Check:
    """Compare SelectTokens, which must be exact, on scores with ties, NaN and infinities."""
    generator = torch.Generator().manual_seed(sum(shape))
    batch, tokens, _ = shape
    x = torch.randn(shape, generator=generator).to(getattr(torch, dtype))
    score = (torch.rand(batch, tokens, generator=generator) * 8).floor() / 8
    odd = torch.rand(batch, tokens, generator=generator)
    for bound, number in ((0.05, torch.nan), (0.1, torch.inf), (0.15, -torch.inf)):
        score[(odd > bound - 0.05) & (odd < bound)] = number
    valid = torch.rand(batch, tokens, generator=generator) < 0.8
    forced = torch.rand(batch, tokens, generator=generator) < 0.1
    threshold = torch.rand(batch, generator=generator)
    low, high = (torch.tensor(limit) for limit in limits)
    inputs = [tensor.to(device) for tensor in (x, score, valid, forced, threshold, low, high)]
    y, index, count = (tensor.cpu() for tensor in launch.select_tokens(*inputs, allocate=poisoned, choose=choose))
    right = True
    for b in range(batch):
        chosen = _selection(score[b], valid[b], forced[b], float(threshold[b]), limits)
        places = torch.tensor(chosen, dtype=torch.long)
        right = right and int(count[b]) == len(chosen)
        right = right and index[b].tolist() == chosen + [0] * (tokens - len(chosen))
        right = right and torch.equal(y[b, : len(chosen)], x[b, places]) and not y[b, len(chosen) :].any()
    case = f"B, T, D = {shape}, limits {limits}"
    return Check("SelectTokens", dtype, dtype, case, 0.0 if right else torch.inf)


def _selection(
    score: torch.Tensor, valid: torch.Tensor, forced: torch.Tensor, threshold: float, limits: tuple[int, int]
) -> list[int]:
    scores, first = score.tolist(), forced.tolist()
    tokens = [t for t, is_valid in enumerate(valid.tolist()) if is_valid]
    wanted = sum(first[t] or scores[t] > threshold for t in tokens)
    count = max(0, min(max(wanted, limits[0]), limits[1], len(tokens)))

    def rank(t: int) -> tuple[bool, bool, float, int]:
        odd = scores[t] != scores[t]
        return not first[t], odd, 0.0 if odd else -scores[t], t

    return sorted(sorted(tokens, key=rank)[:count])


def checks(
    cases: tuple[Sizes, ...], device: str, choose: launch.Choose = launch.choose_configuration
) -> Iterator[Check]:
    """Every kernel in every dtype at every case."""
    for sizes in cases:
        yield check_order(sizes, device, choose)
        for dtype in TOLERANCES:
            for weights in (dtype, "int8"):
                yield check_mlp(sizes, dtype, weights, device, choose)
    most = max(sizes.T for sizes in cases)
    selection: Callable[..., Check] = check_selection
    for dtype in TOLERANCES:
        for shape in ((5, 23, 12), (3, min(700, 10 * most), 80), (2, 0, 8)):
            for limits in ((0, 2**40), (9, 9)):
                yield selection(shape, limits, dtype, device, choose)
