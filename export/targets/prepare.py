"""Which passes a stage's graph goes through for a target."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx

from adaptrt.export.errors import ExportError
from adaptrt.export.targets.device_knobs import knobs_on_device
from adaptrt.export.targets.half import to_half
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.parts import with_parts
from adaptrt.export.targets.rounding import rounded
from adaptrt.export.targets.strip import BODIES_IGNORED_FROM, left_to_plugins
from adaptrt.ops import RECORDS
from adaptrt.runtime.bundle.target_table import TARGETS

LIBRARY_OPS = tuple(record.name for record in RECORDS.values() if record.parts)
"""Ops that the plugin library computes."""


@dataclass(frozen=True)
class Prepared:
    """One stage for one target.

    Attributes:
        model: What the engine's parser gets.
        runnable: The same computation as ONNX Runtime can run it, rounded where the engine rounds.
    """

    model: onnx.ModelProto
    runnable: onnx.ModelProto


def prepare(
    stages: Sequence[onnx.ModelProto],
    target: str,
    precision: str,
    plugins: str,
    engine_version: str,
    knobs: Collection[str],
) -> list[Prepared]:
    """Prepare every stage; in int8 ``prepare_int8`` does.

    Args:
        stages: From ``read_stages``.
        target: A name of ``TARGETS``.
        precision: ``fp32`` or ``fp16``.
        plugins: ``none``, ``library`` or ``python``.
        engine_version: Of TensorRT, where ``library`` plugins are to be found by its parser; empty if not known.
        knobs: Names of the bundle's knobs.

    Raises:
        ExportError: A graph cannot be prepared.
    """
    prepared = []
    for stage in stages:
        graph = stage if precision == "fp32" else to_half(stage)
        if TARGETS[target].gpu:
            graph = knobs_on_device(graph, knobs)
        flat = inlined(graph)
        runnable = flat if precision == "fp32" else rounded(flat)
        if plugins == "library":
            flat = left_to_plugins(graph, LIBRARY_OPS, bodies=_prefers_plugins(engine_version))
        elif plugins == "python":
            flat = with_parts(graph)
        prepared.append(Prepared(flat, runnable))
    return prepared


def _prefers_plugins(version: str) -> bool:
    """Whether a TensorRT's parser takes a plugin though a body is there. Not known counts as no: that always works."""
    numbers = version.split(".")[:2]
    if not version:
        return False
    if len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
        raise ExportError(f"got TensorRT version {version!r}, expected one such as 10.3; give --engine-version")
    return tuple(int(number) for number in numbers) >= BODIES_IGNORED_FROM
