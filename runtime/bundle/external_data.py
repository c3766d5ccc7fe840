"""Which other files an ONNX file refers to, found without the onnx package.

ONNX Runtime up to 1.23 opens whatever path a tensor's ``external_data`` names, outside the model's
folder too, and follows its marker for "this tensor lies at that memory address" from a file; newer
ones refuse both. So the references are found and judged before ONNX Runtime sees the file, by walking
the few protobuf messages that can hold a tensor. Whatever protobuf could read in more than one way is
refused, so that ONNX Runtime cannot see a reference that this walk did not.

Field numbers: onnx.proto (they never change).
"""

from __future__ import annotations

from adaptrt.runtime.bundle.protobuf_wire import fields

MAX_FIELDS = 20_000_000
"""A graph has some hundred thousand; more is an attempt to keep the reader busy."""

_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training_info", 25: "function"},
    "training_info": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse_tensor",
        23: "sparse_tensor",
    },
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external_data"},
    "external_data": {1: "key", 2: "value"},
}


def external_locations(model: bytes) -> set[str]:
    """The locations of all external data that an ONNX file refers to, anywhere in it.

    Initialisers, sparse ones, tensors in attributes, subgraphs, function bodies and training graphs
    are looked at, whether or not the tensor says that its data is external.

    Args:
        model: the bytes of the file (a serialised ModelProto).

    Returns:
        The locations as they stand in the file, unchecked.

    Raises:
        ValueError: the bytes are not a well-formed ModelProto, or of absurd complexity.
    """
    locations: set[str] = set()
    pending = [("model", 0, len(model))]
    seen = 0
    while pending:
        message, position, end = pending.pop()
        children = _CHILDREN[message]
        keys: list[bytes] = []
        values: list[bytes] = []
        for number, start, stop in fields(model, position, end):
            seen += 1
            if seen > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            child = children.get(number) if start >= 0 else None
            if child is None:
                continue
            if child == "key":
                keys.append(model[start:stop])
            elif child == "value":
                values.append(model[start:stop])
            else:
                pending.append((child, start, stop))
        if b"location" in keys:
            locations.update(value.decode("utf-8", errors="strict") for value in values or [b""])
    return locations
