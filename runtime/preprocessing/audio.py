"""Recordings as inputs: Whisper's spectrogram, or the samples themselves as wav2vec2 takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.runtime.bundle.preprocessing_schema import AudioPreprocessing
from adaptrt.runtime.bundle.schema import Axis, TensorSpec
from adaptrt.runtime.errors import InputError, shown
from adaptrt.runtime.preprocessing.log_mel import log_mel
from adaptrt.runtime.preprocessing.padding import padded_size
from adaptrt.runtime.preprocessing.preprocessed import PreprocessedInputs
from adaptrt.runtime.preprocessing.wav import read_wav

Array = np.ndarray[Any, Any]
AudioSource = str | Path | Array
"""A WAV file, or an array of fractions, [samples], from -1 to 1, at the recipe's rate."""

_LEAST_VARIANCE = 1e-7


def preprocess_audio(
    sources: Sequence[AudioSource],
    recipe: AudioPreprocessing,
    inputs: Mapping[str, TensorSpec],
    axes: Mapping[str, Axis],
) -> PreprocessedInputs:
    """Inputs for a batch of recordings.

    Args:
        sources: may be empty.
        recipe: how.
        inputs: of the bundle, by name.
        axes: how long the inputs' axes may be.

    Returns:
        The arrays, and how many recordings were ``cut``, as spectrograms have one length.

    Raises:
        InputError: a file is missing, damaged or of another rate, an array is none of samples, a waveform is too
            long, or waveforms without a mask have several lengths.
    """
    if isinstance(sources, (str, bytes, Path)) or not isinstance(sources, Sequence):
        raise InputError(f"recordings: got {shown(sources)}, expected a list of them; pass [recording] for one")
    recordings = [_samples(source, f"recording {number}", recipe) for number, source in enumerate(sources)]
    spec = inputs[recipe.input]
    if recipe.kind == "log_mel":
        shape = (len(recordings), recipe.mels, recipe.samples // recipe.hop)
        spectra = np.empty(shape, spec.dtype)
        for row, samples in enumerate(recordings):
            spectra[row] = log_mel(_fitted(samples, recipe), recipe)
        cut = sum(len(samples) > recipe.samples for samples in recordings)
        return PreprocessedInputs({spec.name: spectra}, cut=cut)
    mask = None if recipe.mask is None else inputs[recipe.mask]
    return _waveforms(recordings, recipe, spec, mask, axes)


def _waveforms(
    recordings: Sequence[npt.NDArray[np.float32]],
    recipe: AudioPreprocessing,
    spec: TensorSpec,
    mask: TensorSpec | None,
    axes: Mapping[str, Axis],
) -> PreprocessedInputs:
    longest = max(map(len, recordings), default=0)
    size = padded_size(spec.shape[1], longest, axes)
    axis = axes.get(spec.shape[1]) if isinstance(spec.shape[1], str) else None
    most = size if axis is None else axis.longest
    if most is not None and longest > most:
        raise InputError(
            f"recordings: got {longest} samples ({longest / recipe.sample_rate:.1f} s), expected at most {most} "
            f"({most / recipe.sample_rate:.1f} s); divide the recording"
        )
    lengths = sorted(set(map(len, recordings)))
    if mask is None and isinstance(spec.shape[1], str) and len(lengths) > 1:
        # Padding would change what is answered for the shorter ones: nothing tells the model where it begins.
        raise InputError(
            f"recordings: got {lengths[0]} to {lengths[-1]} samples in one batch, expected equal lengths, as this "
            "model has no mask; run each alone"
        )
    arrays: dict[str, Array] = {spec.name: np.full((len(recordings), size), recipe.padding_value, spec.dtype)}
    if mask is not None:
        arrays[mask.name] = np.zeros((len(recordings), size), mask.dtype)
    for row, samples in enumerate(recordings):
        arrays[spec.name][row, : len(samples)] = _normalised(samples) if recipe.normalize else samples
        if mask is not None:
            arrays[mask.name][row, : len(samples)] = 1
    return PreprocessedInputs(arrays)


def _normalised(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    normalised: npt.NDArray[np.float32] = (samples - samples.mean()) / np.sqrt(samples.var() + _LEAST_VARIANCE)
    return normalised


def _fitted(samples: npt.NDArray[np.float32], recipe: AudioPreprocessing) -> npt.NDArray[np.float32]:
    fitted = np.full(recipe.samples, recipe.padding_value, np.float32)
    part = samples[: recipe.samples]
    fitted[: len(part)] = part
    return fitted


def _samples(source: object, name: str, recipe: AudioPreprocessing) -> npt.NDArray[np.float32]:
    """One channel, float32, at least one sample.

    Raises:
        InputError: as ``preprocess_audio``.
    """
    if isinstance(source, (str, Path)):
        name = repr(str(source))
        samples, rate = read_wav(source)
        if rate != recipe.sample_rate:
            raise InputError(
                f"{name} has {rate} Hz, expected {recipe.sample_rate} Hz; "
                f"convert it: ffmpeg -i FILE -ac 1 -ar {recipe.sample_rate} out.wav"
            )
    elif isinstance(source, np.ndarray) and source.ndim == 1 and source.dtype.kind == "f":
        with np.errstate(over="ignore"):
            samples = source.astype(np.float32, copy=False)
        if not np.isfinite(samples).all():
            raise InputError(f"{name}: got numbers that are not finite, expected samples from -1 to 1; mend them")
    else:
        got = f"{source.dtype} {list(source.shape)}" if isinstance(source, np.ndarray) else type(source).__name__
        raise InputError(
            f"{name}: got {got}, expected a path or fractions from -1 to 1 of one channel [samples]; "
            "divide whole numbers by their largest, and take the mean of channels"
        )
    if not len(samples):
        raise InputError(f"{name}: got no samples, expected at least one; leave it out")
    return samples
