"""Optimisation profiles: the smallest, usual and largest shape of every input with dynamic axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from adaptrt.export.errors import ExportError
from adaptrt.export.parity.reference import GOLDEN_FILE, read_golden
from adaptrt.ops import SEGMENT_REDUCE, SELECT_TOKENS
from adaptrt.runtime.bundle.schema import Bundle

Shape = tuple[int, ...]
_LARGEST = 2**20


@dataclass(frozen=True)
class SizeRange:
    """Sizes of an axis that an engine is built for: any from minimum to maximum, fastest at the optimum."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum <= _LARGEST:
            raise ExportError(f"got sizes {self}, expected ascending numbers from 1 to {_LARGEST}")

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"

    @classmethod
    def parse(cls, text: str) -> SizeRange:
        """Read ``MIN:OPT:MAX``, or one number for all three.

        Raises:
            ExportError: The text is something else.
        """
        if not re.fullmatch(r"\d{1,7}(:\d{1,7}:\d{1,7})?", text, re.ASCII):
            raise ExportError(f"got sizes {text!r}, expected MIN:OPT:MAX, as 1:1:64, or one number")
        numbers = [int(part) for part in text.split(":")]
        return cls(*(numbers * 3)[:3])


DEFAULT_BATCH = SizeRange(1, 1, 64)


@dataclass(frozen=True)
class InputRange:
    """Shapes of one input, smallest, usual and largest."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


def stage_profiles(
    folder: Path, bundle: Bundle, graphs: Sequence[onnx.ModelProto], batch: SizeRange, tokens: SizeRange | None
) -> list[dict[str, InputRange]]:
    """For each stage, the shapes of its inputs that have dynamic axes.

    The first axis counts samples. Others count tokens: from one to as many as the bundle says, or where texts
    have any length, as the golden inputs have; and one more for each selection before the stage that fuses what goes.

    Args:
        folder: Of the bundle.
        bundle: As read from there.
        graphs: Of its stages, adaptive ops as nodes.
        batch: Sizes of the first axis.
        tokens: Sizes of the others; None derives them.
    """
    profiles, fused = [], 0
    for graph in graphs:
        ranges = {}
        for value in graph.graph.input:
            sizes = [
                each.dim_value if each.HasField("dim_value") else None for each in value.type.tensor_type.shape.dim
            ]
            if None not in sizes:
                continue
            others = tokens
            if others is None and None in sizes[1:]:
                most = _tokens(folder, bundle) + fused
                others = SizeRange(1, most, most)
            dynamic = [batch, *[others or batch] * (len(sizes) - 1)]
            ranges[value.name] = InputRange(
                *(
                    tuple(
                        getattr(axis, which) if size is None else size
                        for size, axis in zip(sizes, dynamic, strict=True)
                    )
                    for which in ("minimum", "optimum", "maximum")
                )
            )
        profiles.append(ranges)
        fused += min(
            sum(node.op_type == op for node in graph.graph.node) for op in (SELECT_TOKENS.name, SEGMENT_REDUCE.name)
        )
    return profiles


def _tokens(folder: Path, bundle: Bundle) -> int:
    """Most tokens of a sample, as far as the bundle tells."""
    fixed = [tokens.size for tokens in bundle.tokens.values()]
    counts = [size for size in fixed if isinstance(size, int)]
    if fixed and len(counts) == len(fixed):
        return max(counts)
    inputs = read_golden(folder / GOLDEN_FILE)[0].inputs
    sizes: list[int] = [
        inputs[spec.name].shape[axis]
        for spec in bundle.inputs
        for axis, size in enumerate(spec.shape)
        if axis and isinstance(size, str) and spec.name in inputs
    ]
    if not sizes:
        raise ExportError(f"{folder} does not say how many tokens there are at most, expected --tokens MIN:OPT:MAX")
    return max(sizes)
