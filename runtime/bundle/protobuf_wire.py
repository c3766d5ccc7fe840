"""Walking the fields of a serialised protobuf message, without the protobuf package.

Whatever protobuf could read in more than one way is refused. Wire format:
protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of the message that lies in ``data[position:end]``.

    Yields:
        The field's number, and where the content of a length-delimited one begins and ends; an empty
        range at -1 for other kinds.

    Raises:
        ValueError: it is no well-formed message.
    """
    while position < end:
        tag, position = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        start = stop = -1
        if number == 0 or tag >= 1 << 32:
            raise ValueError(f"field number {number} at byte {position}")
        if wire == _LENGTH:
            length, start = _varint(data, position, end)
            position = stop = start + length
        elif wire == _VARINT:
            _, position = _varint(data, position, end)
        elif wire == _FIXED64:
            position += 8
        elif wire == _FIXED32:
            position += 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position > end:
            raise ValueError(f"truncated at byte {end}")
        yield number, start, stop


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A base-128 number and the position after it."""
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift >= 70:
            raise ValueError(f"number of more than 10 bytes at byte {position}")
    raise ValueError(f"truncated at byte {end}")
