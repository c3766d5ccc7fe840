"""A graph as a file, weights beside it when they are large. Needs no torch: devices prepare graphs, too."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx

from adaptrt.export.staging import write_file
from adaptrt.runtime.bundle.bundle_file import DataFile, Stage

EXTERNAL_DATA_FROM = 10**9  # bytes of weights from which they lie beside the graph


def save_graph(graph: onnx.ModelProto, path: Path) -> Stage:
    """Write a graph, weights beside it when they are large, and give its entry in the bundle."""
    external: list[DataFile] = []
    if graph.ByteSize() >= EXTERNAL_DATA_FROM:
        data = path.with_name(path.name + ".data")
        onnx.save(graph, str(path), save_as_external_data=True, location=data.name, size_threshold=1024)
        external.append(DataFile(file=data.name, sha256=sha256_of(data)))
    else:
        write_file(path, graph.SerializeToString(deterministic=True))
    return Stage(file=path.name, sha256=sha256_of(path), external_data=external)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 lowercase hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
