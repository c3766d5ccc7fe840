"""Torch network to ONNX graphs with ``adaptrt`` nodes, one per stage; bodies are attached in ``bodies.py``."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.attention_transposes import merge_attention_transposes
from adaptrt.export.graph.kept_tokens import resolve_kept
from adaptrt.export.graph.narrow_convolutions import transpose_narrow_convolutions
from adaptrt.export.graph.repeated_blocks import BlockGraphs
from adaptrt.export.graph.scale_metadata import scale_metadata
from adaptrt.export.graph.spatial_means import pool_spatial_means
from adaptrt.export.parity.stage_graphs import StageFile
from adaptrt.models.families.gate import Decision
from adaptrt.models.staged_network import NamedTensor, StagedNetwork, StageOutput
from adaptrt.models.symbolic.dynamic_sizes import dynamic_sizes
from adaptrt.models.tokens import Selection
from adaptrt.ops.record import IR_VERSION, ONNX_OPSET
from adaptrt.runtime.bundle.schema import MACS_OUTPUT, STAGE_METADATA, Carry, DecisionSpec, TensorSpec


@dataclass(frozen=True)
class TracedStage(StageFile):
    """One stage as a graph; bodies are in it once ``attach_bodies`` has run.

    Attributes:
        name: Of the head at its end.
        outputs: The task's outputs as the bundle describes them, ``macs_fraction`` not among them.
    """

    name: str
    outputs: list[TensorSpec]


class _Stage(nn.Module):
    """One stage with a graph's flat inputs and outputs."""

    def __init__(
        self, model: StagedNetwork, stage: int, inputs: Sequence[str], knobs: Sequence[str], debug: bool
    ) -> None:
        super().__init__()
        self.model, self.stage, self.debug = model, stage, debug
        self.input_names, self.knob_names = list(inputs), list(knobs)
        self.last = stage == len(model.stage_names) - 1

    def named(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
        """The stage's inputs and its knobs by name, and what stands for sizes that depend on the data."""
        first, second = len(self.input_names), len(self.input_names) + len(self.knob_names)
        inputs = dict(zip(self.input_names, tensors[:first], strict=True))
        return inputs, dict(zip(self.knob_names, tensors[first:second], strict=True)), list(tensors[second:])

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs, knobs, stand_ins = self.named(tensors)
        with dynamic_sizes(stand_ins):
            out = self.model.run_stage(self.stage, inputs, knobs)
        results = [*out.outputs.values(), out.macs_fraction]
        if out.confidence is not None and not self.last:
            results.append(out.confidence)
        results += out.carried.values()
        for decision in out.decisions:
            if isinstance(decision, Decision):
                results.append(decision.k)
            elif decision.disclosed:
                results += [decision.index, decision.count]
        if self.debug:
            runs = torch.stack([decision.k for decision in out.decisions if isinstance(decision, Decision)])
            results.append(runs.reshape(len(runs), out.macs_fraction.shape[0], -1).transpose(0, 1))
        return tuple(results)


class _Dense(nn.Module):
    """A whole network with the task's outputs, and the share of work where a runtime answers with this graph."""

    def __init__(self, model: StagedNetwork) -> None:
        super().__init__()
        self.model = model
        self.input_names = [spec.name for spec in model.input_specs()]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        last = self.model.run_stages(dict(zip(self.input_names, tensors, strict=True)), {})[-1]
        return (*last.outputs.values(), *([last.macs_fraction] if self.model.made_from_dense else []))


def trace(model: StagedNetwork, *, debug: bool = False) -> onnx.ModelProto:
    """Trace a network of one stage; see ``trace_stage``.

    Raises:
        ExportError: It has several stages.
    """
    if len(model.stage_names) != 1:
        raise ExportError(f"got a network of {len(model.stage_names)} stages, expected 1; trace them one by one")
    return trace_stage(model, 0, debug=debug).graph


def trace_stage(
    model: StagedNetwork, stage: int, *, debug: bool = False, blocks: BlockGraphs | None = None
) -> TracedStage:
    """Trace one stage in evaluation mode to ONNX opset 20 with dynamic axes.

    Args:
        model: The network.
        stage: Number of the stage.
        debug: Adds the output ``learners``, int32 ``[B, L, T]``: learners run per gate and token. Only
            where the network has one stage and prunes no tokens; the outputs ``learners_<gate>`` are
            there always.
        blocks: Where given, blocks that are alike are traced once, for all calls with it.

    Returns:
        A graph with the inputs and knobs that the stage reads; the task's outputs, ``macs_fraction``
        float32 ``[batch]``, ``confidence`` where another stage follows, what it hands on, and its decisions.
        Nodes of adaptive modules are in the domain ``adaptrt`` and have no bodies yet.

    Raises:
        ExportError: ``debug`` for a network that has no such output, or outputs that are not the task's.

    The example's price is the highest one: nothing runs in it. What a graph can do must not depend on
    what its example did, and an export that lost unused learners would show at once.
    """
    stages, decided = len(model.stage_names), model.eval().stage_decisions()
    if debug and (stages > 1 or any(isinstance(decision, Selection) for decision in decided[0])):
        raise ExportError(
            "got --debug for a network with exits or token selections, expected one without; read its outputs "
            "learners_<gate> and kept_<selection>, or pass decisions=True to the runtime"
        )
    carried = model.carried_specs(stage)
    specs = [*model.stage_inputs(stage), *(output.tensor for output in carried)]
    knobs = [spec for spec in model.knob_specs() if spec.name in model.stage_knobs(stage)]
    example = {c.tensor.name: _example(c.tensor, model.example_sizes()) for c in carried} | model.traced_inputs()
    dimensions = _limited(model)
    shapes = [_dynamic(spec, dimensions) for spec in specs] + [None] * len(knobs)
    example_knobs = [torch.full(s.shape, model.traced_knob(s), dtype=getattr(torch, s.dtype)) for s in knobs]
    traced = model if blocks is None else blocks.with_nodes(model)
    module = _Stage(traced, stage, [spec.name for spec in specs], [spec.name for spec in knobs], debug)
    tensors = (*(example[spec.name] for spec in specs), *example_knobs)
    module.eval()
    with torch.no_grad(), dynamic_sizes() as sizes:
        inputs, knob_values, _ = module.named(tensors)
        output = model.run_stage(stage, inputs, knob_values)
    _require_outputs(model, stage, output)
    kept_names = [f"kept_size_{number}" for number in range(sizes.calls)]
    tensors += tuple(torch.zeros(size) for size in itertools.islice(_primes(model), sizes.calls))
    shapes += [{0: torch.export.Dim(name)} for name in kept_names]
    decisions = _decision_specs([decision for earlier in decided[:stage] for decision in earlier], output)
    outputs = [*output.outputs, "macs_fraction"] + ["confidence"] * (not module.last)
    outputs += [*output.carried, *(name for decision in decisions for name in decision.outputs.values())]
    outputs += ["learners"] * debug
    names = [*(spec.name for spec in specs), *(spec.name for spec in knobs), *kept_names]
    graph = export_module(module, tensors, {"tensors": tuple(shapes)}, names, outputs)
    if blocks is not None:
        blocks.put_in(graph, export_module)
    resolve_kept(graph, kept_names)
    stage_entry = {STAGE_METADATA: f"{stage}/{stages}"} if stages > 1 else {}
    onnx.helper.set_model_props(graph, stage_entry | scale_metadata(model))
    read = _without_unread(graph, {each.tensor.name for each in carried})
    carry = [
        Carry(c.tensor.name, c.source, c.tensor.dtype, list(c.tensor.shape)) for c in carried if c.tensor.name in read
    ]
    return TracedStage(graph, carry, decisions, model.stage_names[stage], _described(graph, list(output.outputs)))


def _without_unread(graph: onnx.ModelProto, names: set[str]) -> set[str]:
    """Remove those inputs of these names that no node reads, which engines drop as they like; the names of the others.

    The last head has nobody to hand a streak on to, and reads none.
    """
    used = {name for node in graph.graph.node for name in node.input} | {value.name for value in graph.graph.output}
    kept = [value for value in graph.graph.input if value.name not in names or value.name in used]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    return names & used


def trace_dense(model: StagedNetwork, *, blocks: BlockGraphs | None = None) -> onnx.ModelProto:
    """Trace a dense network: its inputs, the task's outputs, and ``macs_fraction`` where others are made from it.

    Args:
        model: The network.
        blocks: As for ``trace_stage``.
    """
    specs, example = model.input_specs(), model.traced_inputs()
    dimensions = _limited(model)
    shapes = tuple(_dynamic(spec, dimensions) for spec in specs)
    names = [spec.name for spec in specs]
    tensors = tuple(example[name] for name in names)
    outputs = [*model.task.outputs, *([MACS_OUTPUT] if model.made_from_dense else [])]
    module = _Dense(model if blocks is None else blocks.with_nodes(model))
    graph = export_module(module, tensors, {"tensors": shapes}, names, outputs)
    if blocks is not None:
        blocks.put_in(graph, export_module)
    return graph


def _require_outputs(model: StagedNetwork, stage: int, given: StageOutput) -> None:
    """Check that a stage gives what the task says.

    Raises:
        ExportError: It does not.
    """
    if tuple(given.outputs) != model.task.outputs:
        raise ExportError(
            f"got the outputs {', '.join(given.outputs) or 'none'} in stage {stage}, expected "
            f"{', '.join(model.task.outputs)} for the task {model.task.name!r}; give each stage's head these"
        )
    ranks = dict(zip(model.task.outputs, model.task.ranks, strict=False))
    for name, tensor in given.outputs.items():
        rank = ranks.get(name)
        if tensor.ndim == 0 or (rank is not None and tensor.ndim != rank):
            expected = "the samples as the first axis" if rank is None else f"{rank} dimensions, the batch first"
            raise ExportError(
                f"got {name} of shape {list(tensor.shape)} in stage {stage}, expected {expected}: the task "
                f"{model.task.name!r} judges that; give the head that shape, or the network another task"
            )


def _described(graph: onnx.ModelProto, names: Sequence[str]) -> list[TensorSpec]:
    """A traced graph's outputs as a bundle describes them."""
    values = {value.name: value.type.tensor_type for value in graph.graph.output}
    specs = []
    for name in names:
        shape: list[int | str] = [dim.dim_param or int(dim.dim_value) for dim in values[name].shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(values[name].elem_type).name
        specs.append(TensorSpec(name=name, dtype=dtype, shape=["batch", *shape[1:]]))
    return specs


def _primes(model: StagedNetwork) -> Iterator[int]:
    """Example sizes of what depends on the data, from 5 on: no two alike, none a multiple of another."""
    primes: list[int] = [2, 3]
    for number in itertools.count(5, 2):
        if all(number % prime for prime in primes):
            primes.append(number)
            if number not in model.example_sizes().values():
                yield number


def _limited(model: StagedNetwork) -> dict[str, Any]:
    """Dimensions of axes that the network's code takes within limits only."""
    limits = model.traced_limits().items()
    return {axis: torch.export.Dim(axis, min=low, max=high) for axis, (low, high) in limits}


def _example(spec: NamedTensor, sizes: Mapping[str, int]) -> Tensor:
    """An example of a tensor."""
    shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
    if spec.dtype == "bool":
        return torch.ones(shape, dtype=torch.bool)
    if spec.dtype == "float32":
        return torch.rand(shape)
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))


def _dynamic(spec: NamedTensor, dimensions: dict[str, Any]) -> dict[int, Any]:
    """The dynamic axes of a tensor, one dimension per axis name."""
    return {
        axis: dimensions.setdefault(size, torch.export.Dim(size))
        for axis, size in enumerate(spec.shape)
        if isinstance(size, str)
    }


def _decision_specs(earlier: Sequence[Decision | Selection], output: StageOutput) -> list[DecisionSpec]:
    """The outputs that tell a stage's decisions, in order, numbered on from those of the stages before."""
    gates = sum(isinstance(decision, Decision) for decision in earlier)
    selections = len(earlier) - gates
    number = sum(isinstance(decision, Selection) and decision.disclosed for decision in earlier)
    specs = []
    for decision in output.decisions:
        if isinstance(decision, Decision):
            specs.append(DecisionSpec("learners", gates, {"runs": f"learners_{gates}"}))
            gates += 1
        else:
            if decision.disclosed:
                outputs = {"index": f"kept_{selections}", "count": f"count_{selections}"}
                spec = DecisionSpec("selection", number, outputs, of=decision.of, nested=decision.nested)
                specs.append(spec)
                number += 1
            selections += 1
    return specs


def _root(error: BaseException) -> str:
    """What it was in the end that torch could not do, and with which operator, in one line."""
    operator = next((line for line in str(error).splitlines() if "call_function[target=" in line), "")
    operator = operator.partition("call_function[target=")[2].partition("]")[0].removeprefix("torch.ops.")
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()
    cause = text[0] if text else type(error).__name__
    return f"{cause}{f' ({operator})' if operator else ''}; write it with operators that torch.onnx.export takes"


def export_module(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: dict[str, Any],
    inputs: list[str],
    outputs: list[str],
) -> onnx.ModelProto:
    """A module as a graph that says nothing of the machine it was made on.

    Args:
        module: What takes the example and gives a tuple of tensors.
        example: Its inputs.
        shapes: Dynamic sizes, as ``torch.export`` takes them.
        inputs: Names.
        outputs: Likewise.

    Raises:
        ExportError: torch cannot write it.
    """
    module.eval()
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it lists every torchvision op that it could not register
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)  # axes of one size get one name
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=ONNX_OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"torch cannot write the network as ONNX: {_root(error)}") from error
    finally:
        quiet.setLevel(level)
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    merge_attention_transposes(graph)
    transpose_narrow_convolutions(graph)
    pool_spatial_means(graph)
    graph.ir_version = IR_VERSION
    for node in [*graph.graph.node, *graph.graph.initializer, *graph.graph.value_info]:
        del node.metadata_props[:]  # traces of the source files, machine paths among them
        node.doc_string = ""
    for value in [*graph.graph.input, *graph.graph.output]:
        del value.metadata_props[:]
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    graph.graph.doc_string = ""
    return graph
