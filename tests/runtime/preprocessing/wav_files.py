"""WAV files written byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def wav(kind: int, bits: int, rate: int, channels: int, data: bytes, *, extended: bool = False) -> bytes:
    """A file of one ``fmt`` and one ``data`` chunk."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", 0xFFFE if extended else kind, channels, rate, rate * frame, frame, bits)
    if extended:
        form += struct.pack("<HHIH", 22, bits, 0, kind) + bytes.fromhex("000000001000800000aa00389b71")
    return riff((b"fmt ", form), (b"LIST", b"odd"), (b"data", data))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Chunks of an odd length are filled up, as the format wants it."""
    content = b"WAVE" + b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(content)) + content


def pcm16(samples: Sequence[int], rate: int = 16_000, channels: int = 1) -> bytes:
    """A file of 16 bits."""
    return wav(1, 16, rate, channels, struct.pack(f"<{len(samples)}h", *samples))
