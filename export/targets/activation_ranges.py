"""Between which numbers activations lie, on a bundle's golden inputs at all settings: for bytes by fixed scales.

What is measured is reduced inside the graphs, so that no activation is ever kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from adaptrt.export.errors import ExportError
from adaptrt.export.parity.reference import GOLDEN_FILE, Reference, read_golden
from adaptrt.export.parity.stage_graphs import StageFile, StageGraphs
from adaptrt.export.targets.tensor_types import FLOAT
from adaptrt.ops.fp8 import LEAST_STEP, MANTISSA_BITS, e4m3_scale
from adaptrt.runtime.bundle.schema import Bundle

FEWEST_ROWS = 256
"""Rows of activations from which on their range is more than chance."""
_E4M3_NOISE = 2 * math.log(2) / 3 * 4.0**-MANTISSA_BITS / 12
"""Mean square error of rounding to E4M3, relative to the numbers, which are spread evenly by their logarithms."""
_MEASURED = "activation_range_of_"
_REDUCED = 5

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ActivationRange:
    """What was seen of a tensor ``[..., D]``.

    Attributes:
        low: Least number, at most 0.
        high: Largest number, at least 0.
        square: Mean square.
        largest_square: Mean over rows of the square of the row's largest magnitude.
        rows: Number of rows.
        channels: float32 ``[3, D]``: least number, largest number and mean square of each channel, as of the whole;
            None where that was not looked at.
    """

    low: float
    high: float
    square: float
    largest_square: float
    rows: int
    channels: Array | None = None

    @property
    def reach(self) -> float:
        """Largest magnitude."""
        return max(-self.low, self.high)

    @property
    def noise(self) -> float:
        """Error of bytes with one scale for all rows, relative to the numbers: mean squares, evenly spread."""
        return ((self.high - self.low) / 255) ** 2 / 12 / max(self.square, 1e-30)

    @property
    def token_noise(self) -> float:
        """The same of bytes with a scale for each row."""
        return self.largest_square / 127**2 / 12 / max(self.square, 1e-30)

    @property
    def e4m3_noise(self) -> float:
        """The same of E4M3 with one scale for all rows; small numbers, whose steps are even, add to it."""
        step = float(e4m3_scale(self.reach)) * float(LEAST_STEP)
        return _E4M3_NOISE + step**2 / 12 / max(self.square, 1e-30)

    def joined(self, other: ActivationRange) -> ActivationRange:
        """What both saw."""
        rows = self.rows + other.rows
        share = other.rows / max(rows, 1)
        return ActivationRange(
            min(self.low, other.low),
            max(self.high, other.high),
            self.square * (1 - share) + other.square * share,
            self.largest_square * (1 - share) + other.largest_square * share,
            rows,
            other.channels if self.channels is None else _joined(self.channels, other.channels, share),
        )


def _joined(one: Array, other: Array | None, share: float) -> Array:
    """Channels of two runs, ``share`` of whose rows are the other's."""
    if other is None:
        return one
    mean = one[2] * (1 - share) + other[2] * share
    return np.stack([np.minimum(one[0], other[0]), np.maximum(one[1], other[1]), mean])


def measure_ranges(
    folder: Path, bundle: Bundle, graphs: Sequence[onnx.ModelProto], tensors: Sequence[Mapping[str, int]]
) -> list[dict[str, ActivationRange]]:
    """Run the golden inputs at all their settings, and look at tensors of every stage.

    Args:
        folder: Of the bundle.
        bundle: As read from there.
        graphs: Of its stages, inlined.
        tensors: For each stage, names of float tensors ``[..., D]`` and their D.

    Returns:
        For each stage, by name. Tensors without rows have a range of 0.

    Raises:
        ExportError: There are no golden inputs, or too few of them.
        ParityError: A graph does not run.
    """
    golden = folder / GOLDEN_FILE
    if not golden.is_file():
        raise ExportError(f"{folder} has no {GOLDEN_FILE}, expected inputs to measure on; export the bundle again")
    defaults = {knob.name: np.full(knob.shape, knob.default, knob.dtype) for knob in bundle.knobs}
    probes = [Probe(graph, names) for graph, names in zip(graphs, tensors, strict=True)]
    waiting = iter(probes)
    files = [
        StageFile(graph, list(stage.carry), list(stage.decisions))
        for stage, graph in zip(bundle.stages, graphs, strict=True)
    ]
    runs = StageGraphs(files, defaults, forcible=False, open_session=lambda _: next(waiting))
    references: list[Reference] = read_golden(golden)
    for reference in references:
        runs.run(reference, forced=False)
    found = [probe.ranges for probe in probes]
    most = max((each.rows for stage in found for each in stage.values()), default=FEWEST_ROWS)
    if most < FEWEST_ROWS:
        raise ExportError(
            f"got {most} rows of activations from the golden inputs of {bundle.name!r}, expected at least "
            f"{FEWEST_ROWS} to know their range; use --activations token"
        )
    return found


class Probe:
    """A session that also reduces some tensors at every run; it has the methods of ONNX Runtime's.

    Args:
        graph: Without bodies.
        tensors: Names of float tensors ``[..., D]`` in it, and their D.

    Attributes:
        ranges: What was seen of each in all runs.
    """

    def __init__(self, graph: onnx.ModelProto, tensors: Mapping[str, int]) -> None:
        self.ranges = {name: ActivationRange(0.0, 0.0, 0.0, 0.0, 0) for name in tensors}
        self._tensors = tensors
        self._own = [value.name for value in graph.graph.output]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            with_reductions(graph, tensors).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def get_inputs(self) -> list[Any]:
        """As the session has them."""
        inputs: list[Any] = self._session.get_inputs()
        return inputs

    def get_outputs(self) -> list[Any]:
        """Those of the graph itself."""
        return [node for node in self._session.get_outputs() if node.name in self._own]

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run, look, and give what was asked for."""
        reduced = [f"{_MEASURED}{name}" for name in self.ranges]
        values = self._session.run([*names, *reduced], dict(feeds))
        for (name, before), numbers in zip(list(self.ranges.items()), values[len(names) :], strict=True):
            low, high, squares, largest, rows = (float(number) for number in numbers[:_REDUCED])
            rows -= 1  # the row of zeros
            mean = squares / max(rows * self._tensors[name], 1)
            channels = numbers[_REDUCED:].reshape(3, -1) / np.array([[1], [1], [max(rows, 1)]], np.float32)
            seen = ActivationRange(low, high, mean, largest / max(rows, 1), int(rows), channels)
            self.ranges[name] = before.joined(seen)
        own: list[Array] = values[: len(names)]
        return own


def with_reductions(graph: onnx.ModelProto, tensors: Mapping[str, int]) -> onnx.ModelProto:
    """Copy a graph with an output more for each tensor.

    It has ``_REDUCED`` numbers: least, largest, sum of squares, sum of rows' largest, rows; then the first three of
    these of every channel.
    """
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    nodes, constants = made.graph.node, made.graph.initializer
    axes = {"all": [0, 1], "row": [1], "channel": [0]}
    constants.extend(numpy_helper.from_array(np.array(value), f"{_MEASURED}axes_{n}") for n, value in axes.items())
    every, row, channel = (f"{_MEASURED}axes_{name}" for name in axes)
    one, nothing = f"{_MEASURED}one", f"{_MEASURED}first"
    constants.append(numpy_helper.from_array(np.array([1]), one))
    constants.append(numpy_helper.from_array(np.array([0]), nothing))
    for name, depth in tensors.items():
        out = f"{_MEASURED}{name}"
        constants.append(numpy_helper.from_array(np.array([-1, depth]), f"{out}_shape"))
        constants.append(numpy_helper.from_array(np.zeros((1, depth), np.float32), f"{out}_zeros"))

        def emit(op: str, inputs: list[str], end: str, out: str = out, **attributes: int) -> str:
            node = helper.make_node(op, inputs, [f"{out}{end}"])
            node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
            nodes.append(node)
            return f"{out}{end}"

        flat = emit("Reshape", [name, f"{out}_shape"], "_flat")
        rows = emit("Concat", [flat, f"{out}_zeros"], "_rows", axis=0)  # nothing at all has no largest number
        largest = emit("ReduceMax", [emit("Abs", [rows], "_abs"), row], "_largest", keepdims=1)
        number = emit("Slice", [emit("Shape", [rows], "_size"), nothing, one], "_number")
        parts = [
            emit("Reshape", [emit(op, [of, every], f"_{end}", keepdims=1), one], f"_{end}_1")
            for op, of, end in (
                ("ReduceMin", rows, "low"),
                ("ReduceMax", rows, "high"),
                ("ReduceSumSquare", rows, "squares"),
                ("ReduceSumSquare", largest, "largest_squares"),
            )
        ]
        parts.append(emit("Cast", [number], "_number_1", to=FLOAT))
        assert len(parts) == _REDUCED
        channels = ("ReduceMin", "ReduceMax", "ReduceSumSquare")
        parts += [emit(op, [rows, channel], f"_channels_{op}", keepdims=0) for op in channels]
        emit("Concat", parts, "", axis=0)
        made.graph.output.append(helper.make_tensor_value_info(out, FLOAT, [_REDUCED + 3 * depth]))
    return made
