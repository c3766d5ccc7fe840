"""Work counted from the graphs themselves: does ``macs_fraction`` say what was computed?

Parity compares the graphs' ``macs_fraction`` with torch's, so what a model counts wrongly it counts wrongly in both.
Here nothing of the model's own count is read: a graph is run on one sample, and the multiply-accumulates of its
products are added up from the shapes that flow through it.

What counts (``adaptrt.models.macs``): MatMul, Gemm, Einsum of two operands, Conv and ConvTranspose, zeros around an
image included; of ``adaptrt`` nodes the learners that run, each token's own ``k`` times what one learner costs.
SelectTokens and SegmentReduce order and gather tokens and count nothing, nor do products element by element. What
does not count though it is a product:

- One whose result reaches no output but ``macs_fraction``: it is bookkeeping, not the network.
- One of two operands that are the same for every sample, computed from constants, knobs and sizes only.

Padding costs a sample nothing. So samples run alone, where selections leave no padding, and places that the inputs
mark as padding (a boolean input, over the axis that they share) are cut out before. One padding is left: a segment
without members, as EViT's fused token is where nothing was dropped. It is followed from its SegmentReduce on, and
products are counted without it. That padding costs nothing in a batch either is checked by running all samples
together: each must have the share that it has alone, unless its decisions differ, as they may in a tie.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import AttributeProto, TensorProto, helper

from adaptrt.export.errors import ParityError
from adaptrt.export.graph.bodies import adaptive_nodes, attach_bodies
from adaptrt.export.parity.padding import without_padding
from adaptrt.export.parity.stage_graphs import StageFile
from adaptrt.ops import DOMAIN, RECORDS

WORK_TOLERANCE = 1e-6
"""Relative; counts are exact, shares are added up in float32."""

Array = npt.NDArray[Any]

_SHARE = "macs_fraction"
_PRODUCTS = ("MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose")
_OTHER_PRODUCTS = (
    *("Attention", "ConvInteger", "DFT", "DeformConv", "GRU", "LSTM", "MatMulInteger", "QLinearConv"),
    *("QLinearMatMul", "RNN", "STFT"),
)
_SELECT, _REDUCE = "SelectTokens", "SegmentReduce"
_SIZES = ("Shape", "Size")
_SHAPE, _VALUE = "shape of ", "value of "
_COUNTED = "as counted from the graph's own products; mend the model's count of its work"
_ALONE = "as for the sample alone; let the model count no padding"


@dataclass(frozen=True)
class WorkCheck:
    """What ``check_work`` compared.

    Attributes:
        compared: Shares compared with a count: one per setting, sample and stage.
        max_error: Largest relative difference.
        batched: Shares in a batch compared with the sample's own.
        differing: Those left out because the sample decided otherwise in the batch.
    """

    compared: int
    max_error: float
    batched: int
    differing: int


def count_macs(stages: Sequence[StageFile], inputs: Mapping[str, Array], knobs: Mapping[str, Any]) -> list[int]:
    """Multiply-accumulates of one sample up to and including each stage, counted from the graphs' products.

    Args:
        stages: With or without bodies.
        inputs: One sample, ``[1, ...]``; padding that they mark is cut out.
        knobs: A value for every knob of the graphs.

    Raises:
        ParityError: The inputs are not one sample, a graph does not run on them, or has products that cannot be
            counted.
        ExportError: No bodies can be attached to a graph that has none.
    """
    graphs = _Graphs(stages, knobs)
    return [work for work, _ in graphs.run(graphs.alone(_one(inputs), 0), knobs)]


def count_dense_macs(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> int:
    """Multiply-accumulates of a dense graph, which has no knobs, on one sample; padding counts as if it were real.

    Raises:
        ParityError: As for ``count_macs``.
    """
    ((work, _),) = _Graphs([StageFile(model, [], [])], ()).run(_one(inputs), {})
    return work


def check_dense_macs(model: onnx.ModelProto, inputs: Mapping[str, Array], dense_macs: int) -> None:
    """Check what a model says of its dense form, of which all shares are.

    Args:
        model: The dense graph.
        inputs: One sample, as long as samples may be.
        dense_macs: What the model says.

    Raises:
        ParityError: The graph's products cost anything else; or as for ``count_macs``.
    """
    counted = count_dense_macs(model, inputs)
    if counted != dense_macs:
        raise ParityError(
            f"the dense model has {dense_macs} multiply-accumulates by its own count, expected {counted} as counted "
            "from its graph's own products; mend the model's dense_macs"
        )


def check_work(
    stages: Sequence[StageFile],
    inputs: Mapping[str, Array],
    settings: Sequence[Mapping[str, Any]],
    dense_macs: int | Sequence[int],
    tolerance: float = WORK_TOLERANCE,
) -> WorkCheck:
    """Compare every stage's ``macs_fraction`` with a count of the graph's products, sample by sample.

    Args:
        stages: With or without bodies.
        inputs: A few samples; each runs alone at every setting, and all together.
        settings: Values of the knobs, all of them in each setting.
        dense_macs: Of the dense model, for all samples or for each; ``check_dense_macs`` says whether that is true.
        tolerance: Largest relative difference.

    Raises:
        ParityError: A share is not what was counted, or another in a batch than alone; nothing was compared; or as
            for ``count_macs``.
    """
    samples = min((len(array) for array in inputs.values()), default=0)
    if not settings or not samples:
        raise ParityError(f"got {len(settings)} settings and {samples} samples to count work at, expected one each")
    dense = [dense_macs] * samples if isinstance(dense_macs, int) else list(dense_macs)
    graphs = _Graphs(stages, {name for setting in settings for name in setting})
    alone = [graphs.alone(inputs, sample) for sample in range(samples)]
    batch = _together(alone, inputs)
    errors: list[float] = []
    alike: list[bool] = []
    for setting in settings:
        runs = [graphs.run(one, setting) for one in alone]
        together = graphs.run(batch, setting, count=False)
        for sample, run in enumerate(runs):
            same = True
            for number, ((work, outputs), (_, given)) in enumerate(zip(run, together, strict=True)):
                where = _where(setting, sample, number, len(stages))
                share, counted = float(outputs[_SHARE][0]), work / dense[sample]
                errors.append(_compare(share, counted, tolerance, where, _COUNTED))
                same = same and all(
                    _begins(given[key], outputs[key], sample, samples) for key in stages[number].disclosed
                )
                if same:
                    _compare(float(given[_SHARE][sample]), share, tolerance, f"{where} of a batch", _ALONE)
                alike.append(same)
    return WorkCheck(len(errors), max(errors), sum(alike), len(alike) - sum(alike))


def _compare(said: float, expected: float, tolerance: float, where: str, why: str) -> float:
    """Relative difference of two shares.

    Raises:
        ParityError: It is too large.
    """
    error = abs(said - expected) / max(expected, 1e-9)
    if not error <= tolerance:
        raise ParityError(f"{_SHARE} says {said:.7g} of the dense work at {where}, expected {expected:.7g} {why}")
    return error


def _begins(together: Array, alone: Array, sample: int, samples: int) -> bool:
    """Whether what a sample decided in a batch begins with what it decided alone; behind that is padding."""
    return np.array_equal(together.reshape(samples, -1)[sample, : alone.size], alone.reshape(-1))


def _where(setting: Mapping[str, Any], sample: int, stage: int, stages: int) -> str:
    """Where a share was found, in words."""
    words = [f"{name} {' '.join(f'{v:.4g}' for v in np.atleast_1d(value))}" for name, value in setting.items()]
    return ", ".join([*words, *([f"stage {stage + 1} of {stages}"] if stages > 1 else []), f"sample {sample}"])


def _one(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    for name, array in inputs.items():
        if len(array) != 1:
            raise ParityError(f"got {len(array)} samples in {name}, expected 1; count them one by one")
    return inputs


def _together(alone: Sequence[Mapping[str, Array]], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """A batch of samples, padded behind to the size of the inputs that they were cut out of."""
    batch = {name: np.zeros_like(array) for name, array in inputs.items()}
    for sample, one in enumerate(alone):
        for name, array in one.items():
            batch[name][sample][tuple(map(slice, array.shape[1:]))] = array[0]
    return batch


class _Rows(NamedTuple):
    """Tokens of a sample that a value is about, and how many places beside them are padding."""

    real: int
    padding: int


class _Graphs:
    """The graphs of all stages, run with a count of their products."""

    def __init__(self, stages: Sequence[StageFile], knobs: Collection[str]) -> None:
        self._stages = stages
        self._counted = [_CountedGraph(stage.graph, knobs) for stage in stages]

    def alone(self, inputs: Mapping[str, Array], sample: int) -> dict[str, Array]:
        """One sample, without the places that its inputs mark as padding; the first one always is real."""
        values = {value.name: value for stage in self._stages for value in stage.graph.graph.input}
        axes = {name: _axes(values[name]) for name in inputs if name in values}
        return without_padding({name: array[sample : sample + 1] for name, array in inputs.items()}, axes)

    def run(
        self, inputs: Mapping[str, Array], setting: Mapping[str, Any], *, count: bool = True
    ) -> list[tuple[int, dict[str, Array]]]:
        """What was counted up to each stage, 0 if nothing is to be, and what the stage gave."""
        stages: list[tuple[int, dict[str, Array]]] = []
        total = 0
        for stage, graph in zip(self._stages, self._counted, strict=True):
            fed = stage.taken(stages[-1][1], inputs) if stages else {}
            given = graph.run({**inputs, **fed, **setting})
            total += graph.count(given) if count else 0
            stages.append((total, given))
        return stages


class _CountedGraph:
    """A graph that also tells the shapes of its products, how many learners ran and what became one token."""

    def __init__(self, model: onnx.ModelProto, knobs: Collection[str]) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        self._nodes = [_Node(node) for node in copy.graph.node]
        if not {node.op_type for node in adaptive_nodes(copy)} <= {function.name for function in copy.functions}:
            attach_bodies(copy)
        self._inputs = {value.name: value.type.tensor_type for value in copy.graph.input}
        self._varying = _varying(self._nodes, set(self._inputs) - set(knobs))
        needed = _needed(self._nodes, {value.name for value in copy.graph.output} - {_SHARE})
        self._products = [node for node in self._nodes if node.outputs[0] in needed and self._is_product(node)]
        self._reduces = any(node.op == _REDUCE for node in self._nodes)
        _tell(copy.graph, [*self._products, *(node for node in self._nodes if node.op in (_REDUCE, _SELECT))])
        self._session = _session(copy)
        self._names = [output.name for output in self._session.get_outputs()]

    def _is_product(self, node: _Node) -> bool:
        """Whether a node multiplies what differs between samples."""
        learners = node.domain == DOMAIN and "k" in node.named
        return learners or (node.op in _PRODUCTS and any(name in self._varying for name in node.inputs[:2]))

    def run(self, available: Mapping[str, Any]) -> dict[str, Array]:
        """Run on what is available of inputs and knobs.

        Raises:
            ParityError: An input is missing, or the graph does not run.
        """
        if missing := [name for name in self._inputs if name not in available]:
            raise ParityError(f"got no value for {', '.join(missing)}, expected one for each input of the graph")
        feeds = {name: _as_declared(available[name], declared) for name, declared in self._inputs.items()}
        try:
            return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        except Exception as error:  # pybind's exceptions share no base class
            cause = " ".join(str(error).split())
            raise ParityError(f"the graph does not run where its work is counted: {cause}; export again") from error

    def count(self, given: Mapping[str, Array]) -> int:
        """Multiply-accumulates of one run, of a single sample."""
        tokens = self._tokens(given) if self._reduces else {}
        return sum(self._macs(node, given, tokens.get(node.outputs[0], _Rows(0, 0))) for node in self._products)

    def _macs(self, node: _Node, given: Mapping[str, Array], tokens: _Rows) -> int:
        first, second, out = (_shape(given, name) for name in (*node.inputs[:2], node.outputs[0]))
        if node.domain == DOMAIN:
            matrices = [_shape(given, node.named[one.name]) for one in RECORDS[node.op].inputs if len(one.axes) == 3]
            runs = np.clip(given[f"{_VALUE}{node.named['k']}"], 0, matrices[0][0]).sum()
            return int(runs) * sum(prod(matrix[1:]) for matrix in matrices)
        if node.op == "Conv":
            return prod(out) * prod(second[1:])
        if node.op == "ConvTranspose":
            return prod(first) * prod(second[1:])
        if node.op == "Einsum":
            axes = node.attributes["equation"].decode().split("->")[0].replace(" ", "").replace(",", "")
            return prod(dict(zip(axes, (*first, *second), strict=True)).values())
        inner = first[0] if node.attributes.get("transA") else first[-1]
        work, size = prod(out) * inner, sum(tokens)
        if tokens.padding:
            rows = [prod(out[:-1])]  # of a product with weights; one of attention has tokens on two axes
            if node.inputs[1] in self._varying:
                rows = [*out[-2:-1], out[-1] if out[-1] == size else inner]
            for axis in rows:
                work = work * tokens.real // size if axis == size else work
        return work

    def _tokens(self, given: Mapping[str, Array]) -> dict[str, _Rows]:
        """Real tokens and padding that values are about, followed from where tokens were selected or joined."""
        tokens: dict[str, _Rows] = {}
        for node in self._nodes:
            if node.op in (_REDUCE, _SELECT):
                size = _shape(given, node.outputs[0])[1]
                members = given[f"{_VALUE}{node.named['segment']}"] if node.op == _REDUCE else np.arange(size)
                real = len(np.intersect1d(members, np.arange(size)))
                tokens[node.outputs[0]] = _Rows(real, size - real)
            elif node.op not in _SIZES and (parts := [tokens[name] for name in node.inputs if name in tokens]):
                largest = max(parts, key=lambda rows: rows.padding)
                joined = _Rows(*(sum(numbers) for numbers in zip(*parts, strict=True)))
                tokens.update(dict.fromkeys(node.outputs, joined if node.op == "Concat" else largest))
        return tokens


class _Node:
    """A node as it is read here: ``named`` are the inputs of an ``adaptrt`` op by their names in its record.

    Raises:
        ParityError: It may hold products that cannot be counted.
    """

    def __init__(self, node: onnx.NodeProto) -> None:
        self.op, self.domain = node.op_type, "" if node.domain == "ai.onnx" else node.domain
        self.inputs, self.outputs = list(node.input), list(node.output)
        self.attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        inside = any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute)
        known = self.op in RECORDS if self.domain == DOMAIN else not self.domain and self.op not in _OTHER_PRODUCTS
        unclear = self.op == "Einsum" and (len(self.inputs) != 2 or b"." in self.attributes["equation"])
        if inside or unclear or not known:
            raise ParityError(
                f"got {self.op} {node.name!r} in the graph, whose multiply-accumulates cannot be counted, expected "
                f"learners and {', '.join(_PRODUCTS)}, Einsum of two operands with a letter for each axis; write it so"
            )
        fields = RECORDS[self.op].inputs if self.domain == DOMAIN else ()
        self.named = dict(zip((field.name for field in fields), self.inputs, strict=False))


def _varying(nodes: Sequence[_Node], varying: set[str]) -> set[str]:
    """All values that depend on those given, sizes alone being no dependence."""
    for node in nodes:
        if node.op not in _SIZES and not varying.isdisjoint(node.inputs):
            varying |= set(node.outputs) - {""}
    return varying


def _needed(nodes: Sequence[_Node], needed: set[str]) -> set[str]:
    """All values that those given depend on."""
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed |= set(node.inputs) - {""}
    return needed


def _tell(graph: onnx.GraphProto, nodes: Sequence[_Node]) -> None:
    """Make a graph give the shapes of what nodes read and give, and the values of the integers that decide."""
    shapes = {name for node in nodes for name in (*node.inputs, node.outputs[0]) if name}
    values = {node.named[name] for node in nodes for name in ("k", "segment") if name in node.named}
    for op, prefix, kind, names in (
        ("Shape", _SHAPE, TensorProto.INT64, shapes),
        ("Identity", _VALUE, TensorProto.INT32, values),
    ):
        for name in sorted(names):
            graph.node.append(helper.make_node(op, [name], [f"{prefix}{name}"]))
            graph.output.append(helper.make_tensor_value_info(f"{prefix}{name}", kind, None))


def _shape(given: Mapping[str, Array], name: str) -> list[int]:
    return [int(size) for size in given[f"{_SHAPE}{name}"]]


def _axes(value: onnx.ValueInfoProto) -> list[str]:
    """Names of an input's axes, empty where the size is fixed."""
    return [dim.dim_param for dim in value.type.tensor_type.shape.dim]


def _as_declared(value: Any, declared: onnx.TypeProto.Tensor) -> Array:
    """A knob's value as an array of the input's type and size; arrays are left as they are."""
    if isinstance(value, np.ndarray) and value.ndim == len(declared.shape.dim):
        return value
    dtype = helper.tensor_dtype_to_np_dtype(declared.elem_type)
    return np.broadcast_to(np.asarray(value, dtype), [dim.dim_value for dim in declared.shape.dim])


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would print comes as an exception too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # sessions of stages live side by side
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
