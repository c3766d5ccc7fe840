"""Feature extractors of transformers, as a bundle declares what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from adaptrt.export.errors import ExportError
from adaptrt.export.preprocessing.settings import PREPROCESSOR, convert, model_type, read_processor
from adaptrt.runtime.bundle.bundle_file import AudioPreprocessing

EXTRACTORS = {"WhisperFeatureExtractor": "log_mel", "Wav2Vec2FeatureExtractor": "waveform"}
"""The kind of input that each type makes."""
_OF_MODELS = {
    "data2vec-audio": "Wav2Vec2FeatureExtractor", "hubert": "Wav2Vec2FeatureExtractor",
    "unispeech": "Wav2Vec2FeatureExtractor", "wav2vec2": "Wav2Vec2FeatureExtractor",
    "whisper": "WhisperFeatureExtractor",
}  # fmt: skip
"""Where the file names no type, as old ones do not."""


class _Settings(msgspec.Struct):
    sampling_rate: int = 16_000
    padding_value: float = 0.0
    padding_side: str = "right"
    feature_size: int | None = None
    do_normalize: bool = True
    n_fft: int = 400
    hop_length: int = 160
    chunk_length: int = 30
    dither: float = 0.0


def read_audio(folder: Path, input_name: str, mask: str | None) -> AudioPreprocessing | None:
    """How a folder's feature extractor makes inputs of recordings.

    Args:
        folder: Of the model.
        input_name: Of the input.
        mask: Of the input that says which samples are real; None where there is none.

    Returns:
        None where the folder has no feature extractor.

    Raises:
        ExportError: Its type is unknown, or it does what a bundle cannot declare.
    """
    settings = read_processor(folder, "feature_extractor")
    if settings is None or (name := _type(folder, settings)) is None:
        return None
    given = convert(folder, settings, _Settings)
    if given.padding_side != "right" or given.dither != 0:
        raise ExportError(
            f"{folder / PREPROCESSOR}: {name} pads {given.padding_side} with dither {given.dither}, expected right and "
            "0; mend it"
        )
    if EXTRACTORS[name] == "log_mel":
        return AudioPreprocessing(
            input=input_name,
            kind="log_mel",
            sample_rate=given.sampling_rate,
            padding_value=given.padding_value,
            mels=80 if given.feature_size is None else given.feature_size,
            window=given.n_fft,
            hop=given.hop_length,
            samples=given.chunk_length * given.sampling_rate,
        )
    if given.feature_size not in {None, 1}:
        raise ExportError(f"{folder / PREPROCESSOR}: {name} has feature_size {given.feature_size}, expected 1; mend it")
    return AudioPreprocessing(
        input=input_name,
        kind="waveform",
        sample_rate=given.sampling_rate,
        mask=mask,
        padding_value=given.padding_value,
        normalize=given.do_normalize,
    )


def _type(folder: Path, settings: dict[str, Any]) -> str | None:
    name = settings.get("feature_extractor_type")
    if name is None:
        return _OF_MODELS.get(model_type(folder) or "")
    if name not in EXTRACTORS:
        raise ExportError(
            f"{folder / PREPROCESSOR} is of a {name}, expected one of {', '.join(sorted(EXTRACTORS))}; "
            "export without it and feed arrays"
        )
    return str(name)
