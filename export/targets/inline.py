"""Graphs without local functions, for engines that know none or have no plugins (OpenVINO, TensorRT-RTX)."""

from __future__ import annotations

import onnx
import onnx.inliner

from adaptrt.export.errors import ExportError
from adaptrt.export.targets.tensor_types import infer_types
from adaptrt.ops import DOMAIN


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with every body in the place of its nodes.

    Raises:
        ExportError: A node of the ``adaptrt`` domain has no body.
    """
    flat = onnx.inliner.inline_local_functions(model)
    left = sorted({node.op_type for node in flat.graph.node if node.domain == DOMAIN})
    if left:
        raise ExportError(f"got {left[0]} without a body, expected one; export the model again")
    kept = [entry for entry in flat.opset_import if entry.domain != DOMAIN]
    del flat.opset_import[:]
    flat.opset_import.extend(kept)
    typed = infer_types(flat)
    onnx.checker.check_model(typed)
    return typed
