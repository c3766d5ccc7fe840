"""Which activations have a fixed scale in a graph in int8 or fp8, and whether any should: measured on golden inputs.

A fixed scale costs one operator where a scale for each token costs eight, and one more after each product. It has to
hold the largest number that any token has; where a few channels are many times as large as all others, little is left
of these. Such channels are evened out where that costs the weights little; other such tensors keep their scales by
token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from adaptrt.export.calibration.evaluations import Progress
from adaptrt.export.targets.activation_ranges import ActivationRange, measure_ranges
from adaptrt.export.targets.device_knobs import knobs_on_device
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.int8 import byte_products, byte_tensors, to_int8
from adaptrt.export.targets.int8_learners import Int8Learners, exposed, learner_tensors, with_int8_learners
from adaptrt.export.targets.outlier_channels import evened
from adaptrt.export.targets.prepare import PLUGIN_OPS, Prepared, for_plugins
from adaptrt.export.targets.qdq import to_fp8_qdq, to_qdq, without_relu
from adaptrt.export.targets.quality import QualityReport, compare_quality
from adaptrt.export.targets.strip import left_to_plugins
from adaptrt.export.targets.tensor_types import per_sample_tensors
from adaptrt.ops.fp8 import e4m3_scale
from adaptrt.ops.int8 import FULL, LEAST_SCALE, ByteScale, byte_scale
from adaptrt.ops.int8_forms import W8A8, W8A16
from adaptrt.ops.record import Array
from adaptrt.runtime.backends.int8_products import WIDE_BITS
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.bundle.target_table import TargetRecord

AUTO, STATIC, TOKEN = "auto", "static", "token"
ACTIVATIONS = (AUTO, STATIC, TOKEN)
"""How activations get their scales: fixed before, from each token, or whichever of these keeps the quality."""
MOST_NOISE = 2e-3
"""Mean square error of a tensor's bytes, relative to its numbers, up to which its scale is fixed."""
_LESS_QUALITY = 0.25  # of the drop that is allowed, up to which fixed scales are worth their speed


@dataclass(frozen=True)
class QuantizedStages:
    """The graphs of a bundle's stages in int8 or fp8.

    Attributes:
        prepared: For the engine.
        activations: ``STATIC`` or ``TOKEN``.
        weight_bits: Of int8 weights; None in fp8.
        quality: On the golden inputs; None where it was not measured.
        note: Why, where that was measured; else "".
    """

    prepared: list[Prepared]
    activations: str
    weight_bits: int | None
    quality: QualityReport | None = None
    note: str = ""


def prepare_int8(
    folder: Path,
    bundle: Bundle,
    stages: Sequence[onnx.ModelProto],
    weight_bits: int,
    activations: str,
    max_quality_drop: float,
    tell: Progress,
) -> QuantizedStages:
    """Prepare every stage in int8.

    Args:
        folder: Of the bundle.
        bundle: As read from there.
        stages: From ``read_stages``.
        weight_bits: Of weights, 7 or 8.
        activations: One of ``ACTIVATIONS``.
        max_quality_drop: How much lower than the bundle's the quality may be.
        tell: Told what is being done.

    Raises:
        ExportError: A graph cannot be in int8, or there are too few golden inputs.
        ParityError: A graph does not run.
    """
    flats = [inlined(stage) for stage in stages]
    samples = [per_sample_tensors(stage) for stage in stages]
    largest = 2 ** (weight_bits - 1) - 1

    def made(scales: Sequence[FixedScales]) -> list[Prepared]:
        graphs = [
            to_int8(flat, largest, own, fixed=each.scales, factors=each.factors)
            for flat, own, each in zip(flats, samples, scales, strict=True)
        ]
        return [Prepared(graph, graph) for graph in graphs]

    by_token = made([FixedScales({}, {}) for _ in flats])
    if activations == TOKEN:
        return QuantizedStages(by_token, TOKEN, weight_bits)
    tell("measuring activations on the golden inputs", 0.0)
    tensors = [byte_tensors(flat, own) for flat, own in zip(flats, samples, strict=True)]
    weights = [byte_products(flat, own) for flat, own in zip(flats, samples, strict=True)]
    ranges = measure_ranges(folder, bundle, flats, tensors)
    scales = [fixed_scales(seen, own, largest) for seen, own in zip(ranges, weights, strict=True)]
    static = made(scales)
    if activations == STATIC:
        return QuantizedStages(static, STATIC, weight_bits)
    tell("comparing fixed scales with scales by token", 0.5)
    of_static, of_token = (
        compare_quality(folder, bundle, stages, [each.runnable for each in graphs]) for graphs in (static, by_token)
    )
    lost = of_token.quality - of_static.quality
    number, every = sum(len(each.scales) for each in scales), sum(map(len, tensors))
    divided = sum(len(each.factors) for each in scales)
    note = f"{number} of {every} activations have a fixed scale"
    note += f", {divided} of them after outlier channels were evened out" if divided else ""
    if number and keeps_enough(of_static.quality, of_token.quality, max_quality_drop):
        return QuantizedStages(static, STATIC, weight_bits, of_static, note)
    reason = f"fixed scales lose {lost:.2%} more" if number else "none could have a fixed one"
    return QuantizedStages(by_token, TOKEN, weight_bits, of_token, f"activations have a scale for each token: {reason}")


def keeps_enough(static: float, by_token: float, max_quality_drop: float) -> bool:
    """Whether fixed scales are worth their speed, by the quality that graphs have with them and by token."""
    return by_token - static <= _LESS_QUALITY * max_quality_drop


def prepare_pairs(
    folder: Path,
    bundle: Bundle,
    stages: Sequence[onnx.ModelProto],
    target: TargetRecord,
    precision: str,
    weight_bits: int,
    tell: Progress,
) -> QuantizedStages:
    """Prepare every stage with its products between QuantizeLinear and DequantizeLinear, for engines that fuse these.

    Args:
        folder: Of the bundle.
        bundle: As read from there.
        stages: From ``read_stages``.
        target: Whose engine is to read them.
        precision: ``int8`` or ``fp8``.
        weight_bits: Of int8 weights; GPUs get 8.
        tell: Told what is being done.

    Raises:
        ExportError: A graph cannot be in this precision, or there are too few golden inputs.
        ParityError: A graph does not run.
    """
    knobs = {knob.name for knob in bundle.knobs}
    flats = [inlined(knobs_on_device(stage, knobs) if target.gpu else stage) for stage in stages]
    samples = [per_sample_tensors(stage) for stage in stages]
    tell("measuring activations on the golden inputs", 0.0)
    tensors = [byte_tensors(flat, own) for flat, own in zip(flats, samples, strict=True)]
    measured = list(zip(flats, measure_ranges(folder, bundle, flats, tensors), samples, strict=True))
    if precision == "fp8":
        graphs = [to_fp8_qdq(flat, e4m3_scales(ranges), own) for flat, ranges, own in measured]
        return QuantizedStages([Prepared(graph, without_relu(graph)) for graph in graphs], STATIC, None)
    bits = WIDE_BITS if target.gpu else weight_bits
    graphs = [to_qdq(flat, even_scales(ranges), 2 ** (bits - 1) - 1, own) for flat, ranges, own in measured]
    return QuantizedStages([Prepared(graph, graph) for graph in graphs], STATIC, bits)


def prepare_for_plugins(
    folder: Path,
    bundle: Bundle,
    stages: Sequence[onnx.ModelProto],
    plugins: str,
    engine_version: str,
    tell: Progress,
) -> QuantizedStages:
    """Prepare every stage in int8 with ops left to plugins: learners in int8 forms, other large products in pairs.

    Args:
        folder: Of the bundle.
        bundle: As read from there.
        stages: From ``read_stages``.
        plugins: ``library`` or ``python``.
        engine_version: See ``prepare``.
        tell: Told what is being done.

    Raises:
        ExportError: A graph cannot be in int8, or there are too few golden inputs.
        ParityError: A graph does not run.
    """
    knobs = {knob.name for knob in bundle.knobs}
    graphs = [left_to_plugins(knobs_on_device(stage, knobs), PLUGIN_OPS[plugins], bodies=True) for stage in stages]
    samples = [per_sample_tensors(stage) for stage in stages]
    tell("measuring activations on the golden inputs", 0.0)
    flats = [exposed(graph) for graph in graphs]
    tensors = [byte_tensors(flat, own) for flat, own in zip(flats, samples, strict=True)]
    for graph, names in zip(graphs, tensors, strict=True):
        for own in learner_tensors(graph).values():
            names |= own.widths
    measured = zip(graphs, measure_ranges(folder, bundle, flats, tensors), samples, strict=True)
    prepared, learners = [], []
    for graph, ranges, own_samples in measured:
        scales = even_scales(ranges)
        learners.append(with_int8_learners(graph, ranges, scales))
        in_int8 = learners[-1].number(None) < len(learners[-1].forms)
        pairs = to_qdq(learners[-1].model, scales, FULL, own_samples, beside=in_int8)
        prepared.append(Prepared(for_plugins(pairs, plugins, engine_version), inlined(pairs)))
    return QuantizedStages(prepared, STATIC, WIDE_BITS, note=_forms_note(learners))


def _forms_note(learners: Sequence[Int8Learners]) -> str:
    """In what forms learners are; "" where there are none."""
    numbers = {form: sum(each.number(form) for each in learners) for form in (W8A8, W8A16, None)}
    if not any(numbers.values()):
        return ""
    note = f"{numbers[W8A8]} of {sum(numbers.values())} layers of learners have int8 activations (W8A8)"
    if numbers[W8A16]:
        note += (
            f", {numbers[W8A16]} int8 weights alone (W8A16), as a fixed scale would keep too little of their numbers"
        )
    return note + (f", {numbers[None]} none, as float16 does not hold their numbers" if numbers[None] else "")


def even_scales(ranges: Mapping[str, ActivationRange]) -> dict[str, ByteScale]:
    """Scales with 0 for zero, as compilers want them, of those tensors that keep enough that way."""
    even = {name: dataclasses.replace(own, low=-own.reach, high=own.reach) for name, own in ranges.items()}
    return {
        name: ByteScale(np.maximum(np.float32(own.reach / 127), LEAST_SCALE), np.uint8(0))
        for name, own in even.items()
        if own.rows and own.noise <= MOST_NOISE
    }


def e4m3_scales(ranges: Mapping[str, ActivationRange]) -> dict[str, ByteScale]:
    """Scales of those tensors that keep enough in E4M3."""
    return {
        name: ByteScale(e4m3_scale(own.reach), np.uint8(0))
        for name, own in ranges.items()
        if own.rows and own.e4m3_noise <= MOST_NOISE
    }


class FixedScales(NamedTuple):
    """What tensors of a graph are quantised by.

    Attributes:
        scales: By name, of those that can have a fixed one.
        factors: What some of them have their channels divided by first, float32 ``[D]``.
    """

    scales: dict[str, ByteScale]
    factors: dict[str, Array]


def fixed_scales(
    ranges: Mapping[str, ActivationRange], weights: Mapping[str, Sequence[Array]], largest: int
) -> FixedScales:
    """The scales of those tensors that keep enough that way, or do once their outlier channels are evened out.

    Args:
        ranges: What was measured of the tensors. What no input reaches cannot have a scale.
        weights: Of the products that read them, from ``byte_products``.
        largest: Magnitude of int8 weights.
    """
    found = FixedScales({}, {})
    for name, seen in ranges.items():
        if not seen.rows:
            continue
        even = evened(seen, weights.get(name, ()), largest)
        if even is not None and even.noise <= MOST_NOISE < even.noise_before:
            found.scales[name], found.factors[name] = even.scale, even.factors
        elif seen.noise <= MOST_NOISE:
            found.scales[name] = byte_scale(seen.low, seen.high)
    return found
