"""Which passes a stage's graph goes through for a target."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx

from adaptrt.export.errors import ExportError
from adaptrt.export.targets.device_knobs import knobs_on_device
from adaptrt.export.targets.half import to_half
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.parts import OPS_IN_PARTS, with_parts
from adaptrt.export.targets.rounding import rounded
from adaptrt.export.targets.strip import BODIES_IGNORED_FROM, left_to_plugins
from adaptrt.ops import INT8_RECORDS, RECORDS
from adaptrt.runtime.bundle.target_table import TARGETS

LIBRARY_OPS = tuple(record.name for record in RECORDS.values() if record.parts)
"""Ops that the plugin library computes, and of those that have some the int8 forms."""
PLUGIN_OPS = {"library": LIBRARY_OPS, "python": OPS_IN_PARTS}
"""Ops that stay nodes for each kind of plugins."""


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
    """Prepare every stage; in int8 and fp8 ``prepare_int8`` and ``prepare_pairs`` do.

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
        prepared.append(Prepared(flat if plugins == "none" else for_plugins(graph, plugins, engine_version), runnable))
    return prepared


def for_plugins(graph: onnx.ModelProto, plugins: str, engine_version: str) -> onnx.ModelProto:
    """Copy a graph with those ops as nodes that plugins of a kind compute, all others inlined.

    Args:
        graph: With ops as nodes, and their bodies.
        plugins: A name of ``PLUGIN_OPS``.
        engine_version: See ``prepare``.

    Raises:
        ExportError: The graph cannot be prepared so.
    """
    if plugins == "python":
        return with_parts(graph)
    return left_to_plugins(graph, (*LIBRARY_OPS, *INT8_RECORDS), bodies=_prefers_plugins(engine_version))


def _prefers_plugins(version: str) -> bool:
    """Whether a TensorRT's parser takes a plugin though a body is there. Not known counts as no: that always works."""
    numbers = version.split(".")[:2]
    if not version:
        return False
    if len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
        raise ExportError(f"got TensorRT version {version!r}, expected one such as 10.3; give --engine-version")
    return tuple(int(number) for number in numbers) >= BODIES_IGNORED_FROM
