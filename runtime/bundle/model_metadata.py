"""What an ONNX file says about itself (``metadata_props``), read without the onnx package."""

from __future__ import annotations

from adaptrt.runtime.bundle.protobuf_wire import fields

_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2  # field numbers of ModelProto and StringStringEntryProto


def metadata_props(model: bytes, key: str) -> list[str]:
    """All values that an ONNX file has under a key; more than one is an odd file.

    Args:
        model: the bytes of the file (a serialised ModelProto).
        key: such as ``adaptrt.stage``.

    Raises:
        ValueError: the bytes are not a well-formed ModelProto.
    """
    texts = []
    for number, start, stop in fields(model, 0, len(model)):
        if number != _METADATA_PROPS or start < 0:
            continue
        entry = [(field, model[a:b]) for field, a, b in fields(model, start, stop) if a >= 0]
        if (_KEY, key.encode()) in entry:
            texts += [value.decode() for field, value in entry if field == _VALUE] or [""]
    return texts
