"""Outlier channels of activations evened out, so that one scale holds a whole tensor: SmoothQuant, arXiv 2211.10438.

A product ``x W`` is ``(x / s) (s W)`` for any factor ``s_j`` of a channel. Equation 4 of the paper takes
``s_j = max|x_j|^a / max|W_j|^(1 - a)``: what is hard to hold in bytes moves from activations to weights, which have a
scale for each column. Here factors are powers of two, so that both forms are equal to the last bit in float32, and at
least 1 after division by their median: only channels above it are made smaller, and no channel is held to less than the
rest of the tensor may reach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from adaptrt.export.targets.activation_ranges import ActivationRange
from adaptrt.ops.int8 import ByteScale, byte_scale
from adaptrt.ops.record import Array

STRENGTH = 0.5
"""The paper's ``a`` for most networks. With 0.75, its other one, tensors after a GELU would be held as well, but the
weights lose more than it gains: measured on all-MiniLM-L6-v2.
"""

_NORMS = {"LayerNormalization": (1, 2), "Mul": (1,)}
"""Inputs that a norm's channels are multiplied with and moved by; an RMSNorm is a product with its scale at its end."""


class Evened(NamedTuple):
    """A tensor's bytes after its channels were divided.

    Attributes:
        factors: float32 ``[D]``, powers of two, at least 1.
        scale: Of the divided numbers.
        noise: The larger of two mean square errors: of the bytes relative to the numbers, as ``ActivationRange.noise``;
            and in the products relative to these, what the factors add to the weights' error with it, as if channels
            were independent of each other.
        noise_before: The same without factors. Where outliers are nearly all that there is to the numbers, the error
            relative to them says little, and that in the products much.
    """

    factors: Array
    scale: ByteScale
    noise: float
    noise_before: float


def evened(seen: ActivationRange, weights: Sequence[Array], largest: int) -> Evened | None:
    """Factors by equation 4; None where nothing was seen of the tensor, or nothing reads it.

    Args:
        seen: What was measured of the tensor ``[..., D]``, channels among it.
        weights: Of the products that read it, ``[D, E]`` each.
        largest: Magnitude of int8 weights.
    """
    if seen.channels is None or not weights or not seen.rows:
        return None
    low, high, square = (channel.astype(np.float64) for channel in seen.channels)
    reach = np.maximum(np.maximum(high, -low), 1e-12)
    matrix = np.concatenate([weight.astype(np.float64) for weight in weights], axis=1)
    power, most = (matrix**2).sum(1), np.maximum(np.abs(matrix).max(1), 1e-12)
    given = max(float((square * power).sum()), 1e-30)

    def weight_error(factors: Array) -> float:
        steps = np.abs(matrix * factors[:, None]).max(0) / largest
        return float((square / factors**2).sum() * (steps**2).sum()) / 12

    def held(factors: Array) -> tuple[ByteScale, float]:
        ends = float((low / factors).min()), float((high / factors).max())
        errors = factors**2 * ((ends[1] - ends[0]) / 255) ** 2 / 12
        of_weights = max(weight_error(factors) - weight_error(ones), 0.0)
        in_products = (float((errors * power).sum()) + of_weights) / given
        return byte_scale(*ends), max(float(errors.mean()) / max(float(square.mean()), 1e-30), in_products)

    ones, wished = np.ones_like(reach), reach**STRENGTH / most ** (1 - STRENGTH)
    factors = np.exp2(np.rint(np.log2(np.maximum(wished / np.median(wished), 1.0))))
    return Evened(factors.astype(np.float32), *held(factors), held(ones)[1])


def folded_into_norms(
    nodes: Sequence[onnx.NodeProto],
    shares: Mapping[str, Array],
    outputs: Iterable[str],
    constant: Callable[[str], Array | None],
) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Let norms give divided channels themselves, where nothing else reads what they give.

    Args:
        nodes: In order, none of them without a reader.
        shares: Constants ``1 / s`` ``[D]`` that channels are multiplied with, by name.
        outputs: Of the graph, which are read as well.
        constant: Gives a constant's values, None for other names.

    Returns:
        The nodes, without those products that went into a norm, and the new scales and biases by name.
    """
    makers = {name: node for node in nodes for name in node.output}
    readers = Counter([*outputs, *(name for node in nodes for name in node.input)])
    made: dict[str, Array] = {}
    folded: dict[str, onnx.NodeProto] = {}  # norms that give divided channels, by what they gave
    for node in nodes:
        if node.op_type != "Mul" or node.input[1] not in shares or readers[node.input[0]] != 1:
            continue
        norm = makers.get(node.input[0])
        if norm is None or norm.op_type not in _NORMS or len(norm.output) > 1:
            continue
        places = [place for place in _NORMS[norm.op_type] if place < len(norm.input) and norm.input[place]]
        parts = [constant(norm.input[place]) for place in places]
        copy = onnx.NodeProto()
        copy.CopyFrom(norm)
        for place, part in zip(places, parts, strict=True):
            if part is None:
                break
            copy.input[place] = f"{node.output[0]}_{place}"
            made[copy.input[place]] = (part * shares[node.input[1]]).astype(np.float32)
        else:
            copy.output[0] = node.output[0]
            folded[node.input[0]] = copy
    gone = {copy.output[0] for copy in folded.values()}
    kept = [folded.get(node.output[0], node) for node in nodes if node.output[0] not in gone]
    return kept, made
