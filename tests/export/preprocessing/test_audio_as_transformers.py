"""Recordings become inputs as transformers' feature extractors make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.export.preprocessing.folder import read_preprocessing
from adaptrt.runtime.bundle.bundle_file import AudioPreprocessing, Axis, TensorSpec
from adaptrt.runtime.preprocessing.audio import preprocess_audio

pytest.importorskip("transformers", reason="transformers is not installed: install adaptrt[dev]")

pytestmark = pytest.mark.slow("imports transformers")

AXES = {"batch": Axis(0), "samples": Axis(1, 600_000)}
WAVES = [TensorSpec("input_values", "float32", ["batch", "samples"])]
MASK = TensorSpec("attention_mask", "int64", ["batch", "samples"], minimum=0, maximum=1)


def noise(samples: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1 + 0.02).astype(np.float32)


def declared(made: Any, folder: Path, inputs: list[TensorSpec]) -> AudioPreprocessing:
    made.save_pretrained(folder)
    audio = read_preprocessing(folder, inputs, AXES).audio
    assert audio is not None
    return audio


def prepared(made: Any, folder: Path, inputs: list[TensorSpec], recordings: list[Any]) -> dict[str, Any]:
    recipe = declared(made, folder, inputs)
    return preprocess_audio(recordings, recipe, {spec.name: spec for spec in inputs}, AXES)


@pytest.mark.parametrize("mels", [80, 128])
def test_whisper(tmp_path: Path, mels: int) -> None:
    from transformers import WhisperFeatureExtractor

    made = WhisperFeatureExtractor(feature_size=mels)
    spec = TensorSpec("input_features", "float32", ["batch", mels, 3000])
    tone = np.sin(np.arange(200_000) * 0.17).astype(np.float32)
    recordings = [noise(480_000), noise(17_123), noise(530_000, 1), tone, np.zeros(1_000, np.float32), noise(1)]
    got = prepared(made, tmp_path, [spec], recordings)
    assert got.cut == 1  # type: ignore[attr-defined]
    array = got["input_features"]
    expected = made(recordings, sampling_rate=16_000, return_tensors="np")["input_features"]
    assert array.dtype == np.float32 and array.shape == expected.shape
    for row, recording in enumerate(recordings):
        padded = np.zeros(480_000, np.float32)
        padded[: len(recording)] = recording[:480_000]
        exact = made._np_extract_fbank_features(padded[None], "cpu")[0]
        assert np.abs(array[row] - exact).max() < 1e-5
        # Its path through torch computes in float32, which shows in bands that are nearly silent beside a tone.
        assert np.abs(array[row] - expected[row]).max() < (1e-4 if recording is tone else 2e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_waveform_alone(tmp_path: Path, normalize: bool) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    made = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    for length in (1, 400, 16_001):
        got = prepared(made, tmp_path, WAVES, [noise(length)])
        assert got.keys() == {"input_values"}
        expected = made(noise(length), sampling_rate=16_000, return_tensors="np")["input_values"]
        assert np.array_equal(got["input_values"], expected)


def test_waveforms_of_several_lengths(tmp_path: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    made = Wav2Vec2FeatureExtractor(return_attention_mask=True, padding_value=0.25)
    recordings = [noise(3_000), noise(500, 1), noise(2_999, 2)]
    got = prepared(made, tmp_path, [*WAVES, MASK], recordings)
    expected = made(recordings, sampling_rate=16_000, padding=True, return_tensors="np")
    assert np.array_equal(got["input_values"], expected["input_values"])
    assert got["attention_mask"].dtype == np.int64 and np.array_equal(got["attention_mask"], expected["attention_mask"])
