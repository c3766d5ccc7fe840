"""Recordings as a bundle's inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adaptrt.runtime import InputError, load
from adaptrt.runtime.bundle.bundle_file import AudioPreprocessing, Axis, TensorSpec
from adaptrt.runtime.preprocessing.audio import preprocess_audio
from adaptrt.runtime.preprocessing.log_mel import log_mel, mel_filters
from tests.runtime.preprocessing.wav_files import pcm16

AXES = {"batch": Axis(0), "n": Axis(4, 50)}
X = TensorSpec("x", "float32", ["batch", "n"])
MASK = TensorSpec("mask", "bool", ["batch", "n"])
WAVE = AudioPreprocessing("x", "waveform", sample_rate=100)


def prepare(sources, recipe=WAVE, x=X):
    return preprocess_audio(sources, recipe, {"x": x, "mask": MASK}, AXES)


def noise(samples, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def test_a_loaded_model_runs_recordings(tiny, edit, tmp_path):
    edit(tiny, lambda bundle: bundle.update(audio={"input": "x", "kind": "waveform", "sample_rate": 8_000}))
    model = load(tiny, threads=1)
    (tmp_path / "a.wav").write_bytes(pcm16([0, 16_384, -32_768, 8_192], 8_000))
    given = np.array([0, 0.5, -1, 0.25])
    got = model.preprocess.audio([tmp_path / "a.wav", str(tmp_path / "a.wav"), given, given[:2]])
    assert got["x"].tolist() == [given.tolist()] * 3 + [[0, 0.5, 0, 0]] and got["x"].dtype == np.float32
    assert model.run(got).outputs["logits"].shape[0] == 4


def test_normalised_alone_whatever_the_batch():
    recipe = AudioPreprocessing("x", "waveform", mask="mask", normalize=True, padding_value=-9.0)
    long, short = noise(30), noise(7) + 3
    got = prepare([long, short], recipe)
    assert got["mask"].sum(1).tolist() == [30, 7] and (got["x"][1, 7:] == -9).all()
    assert np.array_equal(got["x"][1, :7], prepare([short], recipe)["x"][0])
    assert abs(got["x"][1, :7].mean()) < 1e-6 and abs(got["x"][1, :7].std() - 1) < 1e-5


def test_sizes():
    assert prepare([noise(2)])["x"].shape == (1, 4)  # the axis takes no less
    assert prepare([])["x"].shape == (0, 4)
    with pytest.raises(InputError, match=r"got 51 samples \(0.5 s\), expected at most 50 \(0.5 s\); divide"):
        prepare([noise(51)])
    with pytest.raises(
        InputError, match="got 5 to 6 samples in one batch, expected equal lengths, as this model has no"
    ):
        prepare([noise(5), noise(6)])
    fixed = TensorSpec("x", "float32", ["batch", 8])
    assert prepare([noise(5), noise(8)], x=fixed)["x"].shape == (2, 8)
    with pytest.raises(InputError, match="got 9 samples .*, expected at most 8"):
        prepare([noise(9)], x=fixed)


def test_another_rate(tmp_path):
    (tmp_path / "a.wav").write_bytes(pcm16([0, 1], 44_100))
    with pytest.raises(
        InputError, match=r"a\.wav' has 44100 Hz, expected 100 Hz; convert it: ffmpeg -i .* -ar 100 out"
    ):
        prepare([tmp_path / "a.wav"])


WRONG = {
    "whole numbers": np.zeros(5, np.int16),
    "channels": np.zeros((5, 2), np.float32),
    "a list": [0.0, 0.5],
    "None": None,
}


@pytest.mark.parametrize("source", WRONG.values(), ids=WRONG)
def test_no_recording(source):
    with pytest.raises(InputError, match="recording 1: got .*, expected a path or fractions from -1 to 1") as caught:
        prepare([noise(5), source])
    assert "\n" not in str(caught.value)


def test_nothing_and_what_is_no_number(tmp_path):
    with pytest.raises(InputError, match="recording 0: got no samples"):
        prepare([noise(0)])
    with pytest.raises(InputError, match="recording 0: got numbers that are not finite"):
        prepare([np.array([0, math.nan])])
    (tmp_path / "a.wav").write_bytes(pcm16([], 100))
    with pytest.raises(InputError, match=r"a\.wav': got no samples"):
        prepare([tmp_path / "a.wav"])


@pytest.mark.parametrize("sources", ["a.wav", None, 3, noise(5)])
def test_no_list(sources):
    with pytest.raises(InputError, match=r"expected a list of them; pass \[recording\] for one"):
        prepare(sources)


def test_a_bundle_without_recordings(tiny):
    with pytest.raises(InputError, match="got recordings, expected arrays: this bundle's inputs are 'x'"):
        load(tiny, threads=1).preprocess.audio([noise(5)])


MEL = AudioPreprocessing("x", "log_mel", samples=16_000)
SPECTRUM = TensorSpec("x", "float16", ["batch", 80, 100])


def test_spectra_are_of_one_length():
    got = prepare([noise(16_000), noise(16_001), noise(100)], MEL, SPECTRUM)
    assert got["x"].shape == (3, 80, 100) and got["x"].dtype == np.float16 and got.cut == 1
    assert np.array_equal(got["x"][0], got["x"][1])
    padded = np.zeros(16_000, np.float32)
    padded[:100] = noise(100)
    assert np.array_equal(got["x"][2], log_mel(padded, MEL).astype(np.float16))


@pytest.mark.parametrize("hertz", [300.0, 1_000.0, 3_000.0, 6_500.0])
def test_a_tone_is_loudest_in_its_band(hertz):
    """By the definition of the scale: 15 bands' distances to 1000 Hz in 200/3 Hz, then 27 for a factor of 6.4."""
    time = np.arange(16_000) / 16_000
    loudest = log_mel(np.sin(2 * np.pi * hertz * time).astype(np.float32), MEL)[:, 50].argmax()
    highest = 15 + math.log(8) * 27 / math.log(6.4)
    mel = hertz * 3 / 200 if hertz <= 1_000 else 15 + math.log(hertz / 1_000) * 27 / math.log(6.4)
    assert abs(loudest - (mel / highest * 81 - 1)) < 1


def test_silence_and_range():
    assert (log_mel(np.zeros(16_000, np.float32), MEL) == -1.5).all()
    got = log_mel(noise(16_000), MEL)
    assert got.dtype == np.float32 and got.max() - got.min() <= 2.0 + 1e-6  # eight powers of ten, divided by four


@pytest.mark.parametrize(("mels", "window"), [(80, 400), (128, 400), (1, 16)])
def test_bands_have_equal_areas(mels, window):
    filters = mel_filters(mels, window * 64, 16_000)
    step = 16_000 / (window * 64)
    np.testing.assert_allclose(filters.sum(1) * step, 1, rtol=0.02)
