"""The graphs of a bundle's stages, as passes take them: weights loaded, one current body per op name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.bodies import adaptive_nodes, attach_bodies
from adaptrt.ops import DOMAIN, OPSET_VERSION, RECORDS
from adaptrt.runtime.bundle.schema import Bundle


def read_stages(folder: Path, bundle: Bundle) -> list[onnx.ModelProto]:
    """Load every stage of a bundle that was read from ``folder`` with its hashes verified.

    Raises:
        ExportError: A graph is not one that engines can be handed; see ``refresh_bodies``.
    """
    models = []
    for stage in bundle.stages:
        model = onnx.load(str(folder / stage.file))
        try:
            refresh_bodies(model)
        except ExportError as error:
            raise ExportError(f"{folder / stage.file}: {error}") from error
        models.append(model)
    return models


def read_dense(folder: Path, bundle: Bundle) -> onnx.ModelProto | None:
    """Load the dense model's graph of a bundle that was read likewise; None where a device left it out.

    Raises:
        ExportError: As ``read_stages``.
    """
    file = bundle.dense.file
    if file is None or not (folder / file).is_file():
        return None
    model = onnx.load(str(folder / file))
    try:
        refresh_bodies(model)
    except ExportError as error:
        raise ExportError(f"{folder / file}: {error}") from error
    return model


def refresh_bodies(model: onnx.ModelProto) -> None:
    """Give the ops of a graph the bodies that this adaptrt has for them, in place.

    An op's semantics never change under one version, its body may: an older one may hold what an engine
    does not take. A graph with ops that have a body but no record keeps all its bodies.

    Raises:
        ExportError: Two bodies have one name, of which NVIDIA's parser silently takes the first for both;
            the graph uses a newer version of the ops; or an op has neither record nor body.
    """
    bodies = Counter((function.domain, function.name) for function in model.functions)
    for (domain, name), number in bodies.items():
        if number > 1:
            raise ExportError(
                f"got {number} bodies of {domain}::{name}, expected one: TensorRT's parser takes the first for all of "
                "them without a warning; export the model again"
            )
    for entry in model.opset_import:
        if entry.domain == DOMAIN and entry.version > OPSET_VERSION:
            raise ExportError(
                f"got version {entry.version} of the {DOMAIN} ops, expected at most {OPSET_VERSION}; "
                "install the adaptrt that exported it"
            )
    used = {node.op_type for node in adaptive_nodes(model)}
    missing = sorted(used - set(RECORDS) - {name for domain, name in bodies if domain == DOMAIN})
    if missing:
        raise ExportError(
            f"got op {missing[0]}, which has neither a body nor a record, expected one of {', '.join(RECORDS)}; "
            "install the adaptrt that exported it"
        )
    if used <= set(RECORDS):
        attach_bodies(model)
