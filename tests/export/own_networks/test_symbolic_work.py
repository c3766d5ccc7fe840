"""Work from symbolic shapes: what models count by hand, whatever the kind; what cannot be counted is refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.program import Program, trace_program
from adaptrt.export.graph.symbolic_work import SymbolicWork, count_work
from adaptrt.export.graph.work_formula import evaluate, evaluate_whole
from adaptrt.models import Network
from adaptrt.models.adapters.resnet import ResNet
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.gate import Decision
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.models.symbolic.call_record import CallRecord, calls_recorded
from adaptrt.models.symbolic.dynamic_sizes import dynamic_sizes
from tests.export.conftest import SHAPE
from tests.export.parity.test_families import ACM, family_model
from tests.export.parity.test_graph_macs import RESNET, SAMPLES, build, text_model

PRIMES = (5, 11, 13, 17, 19, 23)
KINDS = (
    *("all", "ToMe", "text", "EViT", "residual", "residual, certainty", "residual, patience"),
    *("projections", "digits", "dense vision", "dense text"),
)


def network(kind: str) -> StagedNetwork:
    if kind == "residual, patience":
        exits = ExitConfig((1,), "patience")
        return ResNet(dataclasses.replace(RESNET, widths=(4,), blocks=(2,), exits=exits)).eval()
    if kind == "projections":
        return family_model(image_size=6, depth=1, acm=dataclasses.replace(ACM, projections=True))
    if kind == "digits":
        return family_model(depth=2, acm=ACM)
    if kind.startswith("dense"):
        return text_model(1) if "text" in kind else Network.from_config(dataclasses.replace(SHAPE, depth=1)).eval()
    return build(kind)


class Stage(nn.Module):
    """A stage with flat tensors; its share of work is no output."""

    def __init__(self, model: StagedNetwork, stage: int, inputs: list[str], knobs: list[str]) -> None:
        super().__init__()
        self.model, self.stage, self.inputs, self.knobs = model, stage, inputs, knobs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        first, second = len(self.inputs), len(self.inputs) + len(self.knobs)
        inputs = dict(zip(self.inputs, tensors[:first], strict=True))
        knobs = dict(zip(self.knobs, tensors[first:second], strict=True))
        with dynamic_sizes(tensors[second:]), calls_recorded(CallRecord()) as calls:
            out = self.model.run_stage(self.stage, inputs, knobs)
        early = self.stage < len(self.model.stage_names) - 1
        sure = [out.confidence] if early and out.confidence is not None else []
        ks = [call.k for call in calls.learners]
        return (*out.outputs.values(), *sure, *out.carried.values(), *ks)


def counted(model: StagedNetwork, stage: int) -> tuple[SymbolicWork, int]:
    """The work of a stage, and how many calls of learners it has; several may share what a gate decided."""
    carried = [spec.tensor for spec in model.carried_specs(stage)]
    specs = [*model.stage_inputs(stage), *carried]
    knobs = [spec for spec in model.knob_specs() if spec.name in model.stage_knobs(stage)]
    tensors = list(model.example_inputs(3).values()) if not stage else []
    for spec in carried:
        shape = [model.example_sizes().get(size, 3) if isinstance(size, str) else size for size in spec.shape]
        tensors.append(torch.ones(shape).to(getattr(torch, spec.dtype)))
    tensors += [torch.full(spec.shape, spec.maximum).to(getattr(torch, spec.dtype)) for spec in knobs]
    module = Stage(model, stage, [spec.name for spec in specs], [spec.name for spec in knobs]).eval()
    given = dict(zip([*module.inputs, *module.knobs], tensors, strict=True))
    with torch.no_grad(), dynamic_sizes() as sizes, calls_recorded(CallRecord()) as calls:
        model.run_stage(stage, given, {name: given[name] for name in module.knobs})
    names = [(f"size_{number}",) for number in range(sizes.calls)]
    stand_ins = [torch.zeros(size) for size in PRIMES[: sizes.calls]]
    shapes = [*(spec.shape for spec in specs), *(spec.shape for spec in knobs), *names]
    program = trace_program(module, [*tensors, *stand_ins], shapes, "a stage")
    ks = program.outputs[len(program.outputs) - len(calls.learners) :]
    variable = {node.name for node in program.inputs[: len(specs)]}
    return count_work(program.graph, variable, program.names, program.outputs, ks), len(calls.learners)


def sizes_of(inputs: dict[str, Tensor], out: Any, fuses: bool) -> dict[str, Tensor]:
    """What the sizes stand for in each sample: tokens that are real.

    EViT's fused token has no members where nothing was dropped; it comes on top of those selected, so that one less of
    these is what is there.
    """
    batch = len(out.macs_fraction)
    sizes: dict[str, Tensor] = {}
    mask = inputs.get("mask", inputs.get("valid"))
    if mask is not None:
        real = mask.sum(1).clamp(min=1)
        sizes |= {"length": real, "tokens": real}
    numbers = []
    for decision in out.decisions:
        if isinstance(decision, Decision):
            continue
        dropped = decision.count < sizes["length"] if fuses else torch.ones_like(decision.count)
        numbers.append(decision.count - 1 + dropped.to(torch.int32))
    sizes |= {f"size_{number}": value for number, value in enumerate(numbers)}
    return {name: value.to(torch.float32).expand(batch) for name, value in sizes.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_models_count_by_hand(kind: str) -> None:
    model = network(kind)
    torch.manual_seed(0)
    inputs = model.example_inputs(SAMPLES)
    work = [counted(model, stage) for stage in range(len(model.stage_names))]
    specs = model.knob_specs()
    for way in (0.0, 0.3, 0.6, 1.0) if specs else (0.0,):
        knobs = {}
        for spec in specs:
            value = spec.minimum + way * (spec.maximum - spec.minimum)
            value = round((1 - way) * spec.maximum) if spec.name in ("keep", "capacity") else value
            value = spec.default if way == 0 or spec.name in ("token_price", "capacity") else value
            knobs[spec.name] = torch.full(spec.shape, value).to(getattr(torch, spec.dtype))
        before, fed = torch.zeros(SAMPLES), inputs
        with torch.no_grad(), calls_recorded(CallRecord()) as calls:
            outputs = model.run_stages(inputs, knobs)
        first = 0
        for stage, (out, (symbolic, learners)) in enumerate(zip(outputs, work, strict=True)):
            if stage:
                given = {**outputs[stage - 1].carried, "macs_fraction": outputs[stage - 1].macs_fraction}
                fed = {spec.tensor.name: given[spec.source] for spec in model.carried_specs(stage)}
            macs = evaluate(symbolic.products, sizes_of(fed, out, kind == "EViT"))
            for number, per_run in symbolic.per_run.items():
                macs = macs + calls.learners[first + number].k.reshape(SAMPLES, -1).sum(1) * per_run
            first += learners
            share = torch.as_tensor(macs) / model.dense_macs() + before
            assert np.allclose(share.expand(SAMPLES).numpy(), out.macs_fraction.numpy(), rtol=1e-6, atol=0), way
            before = out.macs_fraction


def test_the_dense_polynomial_is_exact() -> None:
    model = network("dense text")
    symbolic, _ = counted(model, 0)
    assert symbolic.axes == {"length"} and not symbolic.per_run
    assert evaluate_whole(symbolic.products, {"length": model.axis_limits()["length"][1] or 0}) == model.dense_macs()


# ---- single operators ----


class Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(torch.rand(shape) for shape in shapes)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return (self.function(*tensors, *self.weights),)


def program_of(
    function: Callable[..., Tensor], *shape: int | str, weights: tuple[tuple[int, ...], ...] = ()
) -> Program:
    size = {"batch": 3, "n": 7}
    example = torch.rand([size[each] if isinstance(each, str) else each for each in shape])
    return trace_program(Function(function, *weights).eval(), [example], [shape], "it")


def work_of(program: Program) -> sympy.Expr:
    variable = {node.name for node in program.inputs}
    return count_work(program.graph, variable, program.names, program.outputs, []).products


N = sympy.Symbol("n")


@pytest.mark.parametrize(
    ("function", "shape", "weights", "expected"),
    [
        (functional.linear, ("batch", "n", 4), ((3, 4),), N * 12),
        (torch.matmul, ("batch", "n", 4), ((4, 3),), N * 12),
        (torch.matmul, ("batch", 4), ((4,),), 4),
        (lambda x: x @ x.transpose(1, 2), ("batch", "n", 4), (), 4 * N**2),
        (lambda x: torch.einsum("bik,bjk->bij", x, x), ("batch", "n", 4), (), 4 * N**2),
        (lambda x: functional.scaled_dot_product_attention(x, x, x), ("batch", 2, "n", 4), (), 2 * N * N * 8),
        (lambda x, w: functional.conv2d(x, w, padding=1), ("batch", 4, 6, 6), ((8, 4, 3, 3),), 6 * 6 * 8 * 4 * 9),
        (lambda x, w: functional.conv2d(x, w, stride=2, groups=2), ("batch", 4, 6, 6), ((8, 2, 2, 2),), 9 * 8 * 2 * 4),
        (lambda x, w: functional.conv_transpose2d(x, w, stride=2), ("batch", 4, 3, 3), ((4, 5, 2, 2),), 9 * 4 * 5 * 4),
        (lambda x, w: functional.conv1d(x, w, padding=1), ("batch", 4, "n"), ((5, 4, 3),), N * 60),
        (lambda x, w: torch.tensordot(x, w, 1), ("batch", "n", 4), ((4, 3),), N * 12),
        (lambda x, w: torch.cat([x, x], 1) @ w, ("batch", "n", 4), ((4, 3),), N * 24),
        (lambda x, w: x * w, ("batch", 4), ((4,),), 0),
        (lambda x, w, v: x + (w @ v).sum(), ("batch", 4), ((4, 4), (4, 4)), 0),
    ],
)
def test_products_by_hand(function: Any, shape: tuple[Any, ...], weights: Any, expected: Any) -> None:
    assert sympy.expand(work_of(program_of(function, *shape, weights=weights)) - expected) == 0


def test_attention_of_torch_is_counted_by_its_products() -> None:
    """Its fused form, which evaluation takes in torch, hides them."""
    module = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    program = program_of(lambda x: module(x, x, x, need_weights=False)[0], "batch", "n", 8)
    assert sympy.expand(work_of(program) - (4 * 64 * N + 16 * N**2)) == 0


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (
            lambda x: torch.cdist(x, x),
            r"got aten\._cdist_forward at \S*test_symbolic_work.py:\d+, whose work cannot be",
        ),
        (lambda x: torch.einsum("bij,bjk,bkl->bil", x, x, x), r"got aten\.einsum .* expected einsum of two operands"),
        (lambda x: torch.linalg.solve(x, x), r"whose work cannot be counted, expected matmul, linear, convolution"),
    ],
)
def test_what_cannot_be_counted_is_refused_with_its_line(function: Any, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        work_of(program_of(function, "batch", 4, 4))


def test_a_product_over_the_batch_is_refused() -> None:
    says = r"got aten\.matmul at \S*test_symbolic_work.py:\d+ whose work is not that of one sample times their number"
    with pytest.raises(ExportError, match=says):
        work_of(program_of(lambda x: (x @ x.T) @ x, "batch", 4))


def test_what_no_output_needs_counts_nothing() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        x @ w
        return x

    assert work_of(program_of(function, "batch", 4, weights=((4, 4),))) == 0


def test_sizes_that_are_rounded_quotients_are_evaluated() -> None:
    program = program_of(lambda x, w: functional.conv1d(x, w, stride=2), "batch", 4, "n", weights=((5, 4, 3),))
    for size in (7, 8, 12):
        places = (size - 3) // 2 + 1
        given = {"n": torch.tensor([float(size)])}
        assert float(torch.as_tensor(evaluate(work_of(program), given))) == places * 60
