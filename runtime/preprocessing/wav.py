"""WAV files as samples of one channel. The standard library's reader refuses fractions, which many tools write."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adaptrt.runtime.errors import InputError, one_line

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_HEADER = struct.Struct("<HHIIHH")  # format, channels, rate, bytes per second, bytes per frame, bits
_EXTENDED_FORMAT = slice(24, 26)
_SAMPLES_OF_PCM = {8, 16, 24, 32}
_SAMPLES_OF_FLOATS = {32: "<f4", 64: "<f8"}
_EXPECTED = "a WAV file of 8, 16, 24 or 32 bit whole numbers or 32 or 64 bit fractions"


class Recording(NamedTuple):
    """What a file holds.

    Attributes:
        samples: float32 [samples], from -1 to 1, the mean of all channels.
        rate: samples per second.
    """

    samples: npt.NDArray[np.float32]
    rate: int


def read_wav(path: str | Path) -> Recording:
    """Read a WAV file.

    Raises:
        InputError: it is missing, no WAV file, damaged, or of another kind of samples.
    """
    name = repr(str(path))
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"no file {name}, expected a WAV file; check its name") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {name} ({one_line(error)}), expected a WAV file; check its name") from None
    return parse_wav(content, name)


def parse_wav(content: bytes, name: str) -> Recording:
    """The recording in the bytes of a WAV file.

    Args:
        content: the bytes.
        name: of the file, for messages.

    Raises:
        InputError: as ``read_wav``.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise InputError(f"{name} is no WAV file, expected one; convert it: ffmpeg -i FILE -ac 1 out.wav")
    chunks = _chunks(content)
    form, data = chunks.get(b"fmt "), chunks.get(b"data")
    if form is None or data is None or len(form) < _HEADER.size:
        missing = "samples" if form is not None and len(form) >= _HEADER.size else "a description of its samples"
        raise InputError(
            f"{name} is without {missing}, expected {_EXPECTED}; it is cut short or damaged, copy it again"
        )
    kind, channels, rate, _, _, bits = _HEADER.unpack_from(form)
    if kind == _EXTENSIBLE and len(form) >= _EXTENDED_FORMAT.stop:
        kind = int.from_bytes(form[_EXTENDED_FORMAT], "little")
    known = (kind == _PCM and bits in _SAMPLES_OF_PCM) or (kind == _FLOAT and bits in _SAMPLES_OF_FLOATS)
    if not known or channels == 0 or rate == 0:
        raise InputError(
            f"{name} has {channels} channels of format {kind} with {bits} bits at {rate} Hz, expected {_EXPECTED}; "
            "convert it: ffmpeg -i FILE -c:a pcm_s16le out.wav"
        )
    frame = channels * bits // 8
    values = _values(data[: len(data) // frame * frame], kind, bits)  # a last frame that was cut off is no sample
    with np.errstate(over="ignore", invalid="ignore"):  # of fractions beyond float32, which are refused
        mono = values.reshape(-1, channels).mean(axis=1, dtype=np.float64) if channels > 1 else values
        samples = mono.astype(np.float32)
    if not np.isfinite(samples).all():
        raise InputError(f"{name} has samples that are no finite numbers, expected -1 to 1; mend it where it was made")
    return Recording(samples, rate)


def _chunks(content: bytes) -> dict[bytes, bytes]:
    """The first chunk of each name. A length beyond the file's end, as recorders of streams write it, ends there."""
    chunks: dict[bytes, bytes] = {}
    place = 12
    while place + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, place)
        chunks.setdefault(name, content[place + 8 : place + 8 + size])
        place += 8 + size + size % 2
    return chunks


def _values(data: bytes, kind: int, bits: int) -> npt.NDArray[np.float64] | npt.NDArray[np.float32]:
    """Samples from -1 to 1; float64 where float32 would round."""
    if kind == _FLOAT:
        return np.frombuffer(data, _SAMPLES_OF_FLOATS[bits]).astype(np.float64)
    if bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    if bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float64) / 2**31
    return np.frombuffer(data, f"<i{bits // 8}").astype(np.float64) / 2.0 ** (bits - 1)
