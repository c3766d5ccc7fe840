"""The dense model's graph in int8: it answers full budgets there as it does in float32.

Its scales are chosen as those of the stages are, on the same golden inputs; what its answers are compared with is its
own graph in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from adaptrt.export.calibration.stage_records import agreement
from adaptrt.export.parity.reference import GOLDEN_FILE, read_golden
from adaptrt.export.targets import activation_ranges
from adaptrt.export.targets.activation_ranges import Probe
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.int8 import byte_products, byte_tensors, to_int8
from adaptrt.export.targets.int8_scales import STATIC, TOKEN, FixedScales, fixed_scales, keeps_enough
from adaptrt.export.targets.source import read_dense
from adaptrt.export.targets.tensor_types import per_sample_tensors
from adaptrt.runtime.bundle.schema import Bundle

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Int8Dense:
    """The dense model's graph in int8.

    Attributes:
        graph: For ONNX Runtime; None where full budgets are left to the stages.
        activations: ``STATIC`` or ``TOKEN``; None without a graph.
        quality: How far its answers to the golden inputs are the dense model's in float32, in 0..1; likewise.
        note: Why full budgets are left to the stages; else "".
    """

    graph: onnx.ModelProto | None = None
    activations: str | None = None
    quality: float | None = None
    note: str = ""


def prepare_dense(
    folder: Path, bundle: Bundle, weight_bits: int, activations: str, max_quality_drop: float
) -> Int8Dense:
    """Prepare what answers full budgets, where the bundle's dense model does in float32.

    Args:
        folder: Of the bundle.
        bundle: As read from there, with golden inputs.
        weight_bits: Of weights, 7 or 8.
        activations: One of ``ACTIVATIONS``. Where the golden inputs have too few rows for fixed scales it is by token.
        max_quality_drop: How much lower than the dense model's own its quality may be; else the stages answer.

    Raises:
        ExportError: Its weights are not finite, or the golden inputs are damaged.
    """
    if not bundle.dense.runs_everything:
        return Int8Dense()
    graph = read_dense(folder, bundle)
    if graph is None:
        return Int8Dense(note=f"the stages answer full budgets: {folder} has no {bundle.dense.file}")
    flat, heads = inlined(graph), per_sample_tensors(graph)
    tensors = byte_tensors(flat, heads)
    if not tensors:
        return Int8Dense(note=f"the stages answer full budgets: {bundle.dense.file} has no product worth int8")
    inputs, names = read_golden(folder / GOLDEN_FILE)[0].inputs, [spec.name for spec in bundle.outputs]
    probe = Probe(flat, tensors)
    wanted = _answers(probe, inputs, names)
    agree, largest = agreement(bundle), 2 ** (weight_bits - 1) - 1

    def judged(by: FixedScales) -> tuple[onnx.ModelProto, float]:
        made = to_int8(flat, largest, heads, fixed=by.scales, factors=by.factors)
        given = _answers(Probe(made, {}), inputs, names)
        return made, float(np.mean(agree(given, wanted)))

    (chosen, quality), kind = judged(FixedScales({}, {})), TOKEN
    scales = fixed_scales(probe.ranges, byte_products(flat, heads), largest)
    enough = bool(scales.scales) and max(seen.rows for seen in probe.ranges.values()) >= activation_ranges.FEWEST_ROWS
    if activations != TOKEN and enough:
        static, of_static = judged(scales)
        if activations == STATIC or keeps_enough(of_static, quality, max_quality_drop):
            chosen, quality, kind = static, of_static, STATIC
    if not quality >= 1 - max_quality_drop:
        return Int8Dense(
            note=f"the stages answer full budgets: the dense model in int8 predicts {quality:.1%} of its golden "
            f"outputs, expected at most {max_quality_drop:.1%} less than all; raise --max-quality-drop to have it"
        )
    return Int8Dense(chosen, kind, quality)


def _answers(session: Probe, inputs: Mapping[str, Array], names: list[str]) -> dict[str, Array]:
    """What a graph gives, of the outputs named those that it has."""
    known = {node.name for node in session.get_outputs()}
    wanted = [name for name in names if name in known]
    fed = {node.name for node in session.get_inputs()}
    feeds = {name: array for name, array in inputs.items() if name in fed}
    return dict(zip(wanted, session.run(wanted, feeds), strict=True))
