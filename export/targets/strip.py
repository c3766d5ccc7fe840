"""Graphs whose ops are left to plugins: with bodies beside them, or without.

NVIDIA's parser takes a plugin for a node with ``plugin_namespace`` and ``plugin_version`` where one is registered,
and the body where not. Before TensorRT 10.7 it takes the body even then, so that it must not be there.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx.inliner

from adaptrt.export.targets.tensor_types import infer_types
from adaptrt.ops import DOMAIN

BODIES_IGNORED_FROM = (10, 7)
"""TensorRT from which a registered plugin is preferred to a body."""


def left_to_plugins(model: onnx.ModelProto, plugins: Collection[str], *, bodies: bool) -> onnx.ModelProto:
    """Copy a graph in which the ops named in ``plugins`` stay nodes and all others are inlined.

    Args:
        model: With a body for every op.
        plugins: Op names that plugins compute.
        bodies: Whether their bodies stay beside them.
    """
    inner = [(function.domain, function.name) for function in model.functions if function.name not in plugins]
    flat = onnx.inliner.inline_selected_functions(model, inner) if inner else model
    typed = infer_types(flat)  # while bodies are there to tell
    if not bodies:
        kept = [function for function in typed.functions if function.domain != DOMAIN]
        del typed.functions[:]
        typed.functions.extend(kept)
    onnx.checker.check_model(typed)
    return typed
