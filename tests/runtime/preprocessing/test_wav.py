"""WAV files of every kind of samples, and files that are none."""

from __future__ import annotations

import io
import struct
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.runtime import InputError
from adaptrt.runtime.preprocessing.wav import parse_wav, read_wav
from tests.runtime.preprocessing.wav_files import pcm16, riff, wav

VALUES = np.array([0, 0.5, -1, 0.25, -0.125, 0.75])


def packed(kind, bits):
    """The values as samples of so many bits."""
    if kind == 3:
        return VALUES.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return (VALUES * 128 + 128).astype(np.uint8).tobytes()
    wide = (VALUES * 2**31).astype("<i4").view(np.uint8).reshape(-1, 4)
    return wide[:, 4 - bits // 8 :].tobytes()


KINDS = [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)]


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_kinds_of_samples(tmp_path, kind, bits, extended):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(kind, bits, 22_050, 1, packed(kind, bits), extended=extended))
    samples, rate = read_wav(path)
    assert rate == 22_050 and samples.dtype == np.float32 and samples.tolist() == VALUES.tolist()
    path.write_bytes(wav(kind, bits, 8_000, 3, packed(kind, bits), extended=extended))
    samples, _ = read_wav(str(path))
    np.testing.assert_allclose(samples, VALUES.reshape(2, 3).mean(1), atol=1e-7)


def test_what_the_standard_library_writes():
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(struct.pack("<4h", 16_384, 0, -32_768, -32_768))
    samples, rate = parse_wav(buffer.getvalue(), "'a.wav'")
    assert samples.tolist() == [0.25, -1.0] and rate == 48_000


def test_lengths_that_are_not_those_of_the_file():
    whole = pcm16([1, 2, 3, 4])
    place = whole.index(b"data") + 4
    for size in (0xFFFFFFFF, 10_000):
        streamed = whole[:place] + struct.pack("<I", size) + whole[place + 4 :]
        assert len(parse_wav(streamed, "'a'").samples) == 4
    assert len(parse_wav(whole[:-3], "'a'").samples) == 2  # a frame that was cut off is none


BAD = {
    "nothing": (b"", "is no WAV file"),
    "another format": (b"OggS" + bytes(100), "is no WAV file"),
    "big-endian": (b"RIFX" + pcm16([1])[4:], "is no WAV file"),
    "no chunks": (riff(), "without a description of its samples"),
    "no samples": (riff((b"fmt ", bytes(16))), "without samples"),
    "no description": (riff((b"data", bytes(16))), "without a description"),
    "a short description": (riff((b"fmt ", bytes(8)), (b"data", bytes(16))), "without a description"),
    "12 bits": (wav(1, 12, 8_000, 2, bytes(12)), "has 2 channels of format 1 with 12 bits at 8000 Hz"),
    "mu-law": (wav(7, 8, 8_000, 1, bytes(12)), "format 7"),
    "no channels": (wav(1, 16, 8_000, 0, bytes(12)), "0 channels"),
    "no rate": (wav(1, 16, 0, 1, bytes(12)), "at 0 Hz"),
    "half fractions": (wav(3, 16, 8_000, 1, bytes(12)), "format 3 with 16 bits"),
    "NaN": (wav(3, 32, 8_000, 1, struct.pack("<2f", 0.5, float("nan"))), "samples that are no finite numbers"),
    "infinity": (wav(3, 64, 8_000, 1, struct.pack("<2d", 0.5, float("inf"))), "samples that are no finite numbers"),
    "beyond float32": (wav(3, 64, 8_000, 1, struct.pack("<2d", 0.5, 1e300)), "samples that are no finite numbers"),
}


@pytest.mark.parametrize(("content", "match"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path, content, match):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.wav' .*{match}.*expected.*;") as caught:
        read_wav(path)
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="no file .*expected a WAV file; check its name"):
        read_wav(tmp_path / "a.wav")
    with pytest.raises(InputError, match="cannot read .*expected a WAV file"):
        read_wav(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        read_wav("nul\0byte")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files(data):
    kind, bits = data.draw(st.sampled_from(KINDS))
    content = bytearray(wav(kind, bits, 8_000, data.draw(st.integers(1, 3)), packed(kind, bits)))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        samples, rate = parse_wav(bytes(content[: data.draw(st.integers(0, len(content)))]), "'a.wav'")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert samples.dtype == np.float32 and np.isfinite(samples).all() and rate > 0
