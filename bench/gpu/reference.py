"""What the kernels must compute, in torch at float64, and how far they are from it.

Written apart from the references in ``ops/``, of whose records names and activations are read; those need no
onnx, as a machine with a GPU may have torch and Triton alone. Outputs, and all memory between kernels, are full of
NaN or -1 before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from adaptrt.ops import ACTIVATIONS, CONDITIONAL_MLP, RECORDS, OpRecord
from adaptrt.plugins_trt import launch
from adaptrt.plugins_trt.kernel_records import CONDITIONAL_MLP_ORDER

TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 3e-2}
"""Absolute and relative, as in the ops' records."""
ACTIVATION_TOLERANCE = 1e-2
"""Likewise at least, with int8 activations: where one lies in the middle of two steps, it may become the other."""

LEARNER_OPS = [record for record in RECORDS.values() if record.parts and record.parts[0].name == "ConditionalMLPOrder"]
"""Ops with kernels in which a token runs the first k learners."""


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
    activations: str = ""

    @property
    def passed(self) -> bool:
        """NaN is no distance that passes."""
        return self.distance <= 1


@dataclass(frozen=True)
class MLPInputs:
    """Inputs of an op by name, and the weights that they stand for, in float64."""

    tensors: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    op: OpRecord = CONDITIONAL_MLP


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


def draw_mlp(
    sizes: Sizes,
    dtype: str,
    weights: str,
    device: str,
    generator: torch.Generator,
    op: OpRecord = CONDITIONAL_MLP,
    activations: str = "",
) -> MLPInputs:
    """Inputs whose results have a standard deviation of about one; scales of int8 ``activations``, which few exceed."""
    kind: torch.dtype = getattr(torch, dtype)
    axes = {name: getattr(sizes, name) for name in "TNDhE"}
    tensors = {"x": torch.randn(sizes.T, sizes.D, generator=generator).to(kind)}
    wide = {}
    for field in op.inputs[2:]:
        shape = [axes[axis] for axis in field.axes]
        drawn = torch.randn(shape, generator=generator)
        if len(shape) < 3:
            tensors[field.name] = (drawn / 2).to(kind)
            continue
        drawn = drawn / (shape[1] * (sizes.N if field.axes[1] == "h" else 1)) ** 0.5
        if weights == "int8":
            scale = drawn.abs().amax(1) / 127
            tensors[field.name] = (drawn / scale[:, None]).round().to(torch.int8)
            tensors[f"{field.name}_scale"] = scale
            wide[field.name] = tensors[field.name].double() * scale.double()[:, None]
        else:
            tensors[field.name] = drawn.to(kind)
            wide[field.name] = tensors[field.name].double()
    if activations == "int8":
        tensors["x_scale"] = torch.tensor(3 / 127)
        tensors["hidden_scale"] = (2 + torch.rand(sizes.N, generator=generator)) / 127
    tensors["k"] = draw_k(sizes, "cpu", generator)
    on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
    return MLPInputs(on_device, {name: weight.to(device) for name, weight in wide.items()}, op)


def mlp_reference(inputs: MLPInputs) -> torch.Tensor:
    """The op in float64, ``[T, E]``."""
    wide = {**{name: tensor.double() for name, tensor in inputs.tensors.items()}, **inputs.weights}
    (activation,) = (part.constants["ACTIVATION"] for part in inputs.op.parts if part.constants)
    x, k = _in_steps(wide["x"], wide.get("x_scale")), inputs.tensors["k"]
    y = wide["b2"].repeat(len(x), 1)
    for n in range(len(wide["w1"])):
        rows = k > n
        hidden = ACTIVATIONS[activation].torch(torch, x[rows] @ wide["w1"][n] + wide["b1"][n])
        if "v1" in wide:
            hidden = hidden * (x[rows] @ wide["v1"][n] + wide["c1"][n])
        y[rows] += _in_steps(hidden, wide["hidden_scale"][n] if "hidden_scale" in wide else None) @ wide["w2"][n]
    return y


def _in_steps(numbers: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """The numbers that int8 by a fixed scale stands for; themselves without one."""
    return numbers if scale is None else (numbers / scale).round().clamp(-128, 127) * scale


def check_mlp(
    sizes: Sizes,
    dtype: str,
    weights: str,
    device: str,
    choose: launch.Choose,
    op: OpRecord = CONDITIONAL_MLP,
    activations: str = "",
) -> Check:
    """Compare one run of an op's kernels with the reference."""
    generator = torch.Generator().manual_seed(sizes.T + sizes.D)
    inputs = draw_mlp(sizes, dtype, weights, device, generator, op, activations)
    got = launch.compute(op, inputs.tensors, allocate=poisoned, choose=choose)["y"].double()
    wanted = mlp_reference(inputs)
    distance = _distance(got, wanted, tolerance_of(dtype, activations))
    return Check(op.name, dtype, weights, str(sizes), distance, activations)


def tolerance_of(dtype: str, activations: str = "") -> float:
    """Absolute and relative, of an op's kernels with numbers of ``dtype``."""
    return max(TOLERANCES[dtype], ACTIVATION_TOLERANCE) if activations == "int8" else TOLERANCES[dtype]


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
    """Every kernel file in every dtype at every case; ops that differ from others in a constant, at one of them."""
    files: set[tuple[str, ...]] = set()
    for op in LEARNER_OPS:
        kernels = tuple(part.kernel for part in op.parts)
        for sizes in cases if kernels not in files else (cases[len(cases) // 2],):
            for dtype in TOLERANCES:
                kinds = ((dtype, ""), ("int8", ""), ("int8", "int8")) if kernels not in files else ((dtype, ""),)
                for weights, activations in kinds:
                    yield check_mlp(sizes, dtype, weights, device, choose, op, activations)
        files.add(kernels)
    for sizes in cases:
        yield check_order(sizes, device, choose)
    most = max(sizes.T for sizes in cases)
    selection: Callable[..., Check] = check_selection
    for dtype in TOLERANCES:
        for shape in ((5, 23, 12), (3, min(700, 10 * most), 80), (2, 0, 8)):
            for limits in ((0, 2**40), (9, 9)):
                yield selection(shape, limits, dtype, device, choose)
