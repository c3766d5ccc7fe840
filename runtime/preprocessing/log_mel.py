"""The spectrogram of Whisper (arXiv 2212.04356, section 2.2): powers in bands, their logarithms near -1 to 1."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.runtime.bundle.preprocessing_schema import AudioPreprocessing

HIGHEST_FREQUENCY = 8_000.0
"""In Hz, where the last band ends; the first begins at 0."""
_QUIETEST = 1e-10
_RANGE = 8.0
"""Powers of ten below the loudest that are told apart."""
_LINEAR_END = 1_000.0
_MELS_PER_HZ = 3 / 200
_MELS_OF_LINEAR = 15.0
_MELS_PER_LOG = 27 / math.log(6.4)


def log_mel(samples: npt.NDArray[np.float32], recipe: AudioPreprocessing) -> npt.NDArray[np.float32]:
    """The spectrogram of one recording.

    Frames are centred on multiples of ``hop``, the ends mirrored; the frame beyond the last is left out.

    Args:
        samples: float32 [recipe.samples].
        recipe: of ``kind`` ``log_mel``.

    Returns:
        float32 [mels, samples // hop].
    """
    half = recipe.window // 2
    mirrored = np.pad(samples.astype(np.float64), half, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, recipe.window)[:: recipe.hop]
    frames = frames[: recipe.samples // recipe.hop]
    spectrum = np.fft.rfft(frames * _hann(recipe.window), axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    bands = np.log10(np.maximum(mel_filters(recipe.mels, recipe.window, recipe.sample_rate) @ power.T, _QUIETEST))
    bands = np.maximum(bands, bands.max() - _RANGE)
    spectrogram: npt.NDArray[np.float32] = ((bands + 4.0) / 4.0).astype(np.float32)
    return spectrogram


@functools.lru_cache(maxsize=4)
def _hann(window: int) -> npt.NDArray[np.float64]:
    weights = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    weights.setflags(write=False)
    return weights


@functools.lru_cache(maxsize=4)
def mel_filters(mels: int, window: int, sample_rate: int) -> npt.NDArray[np.float64]:
    """Triangles of equal area, evenly spaced on Slaney's scale (Auditory Toolbox, 1998).

    That scale is linear up to 1000 Hz, 15 steps, and logarithmic beyond, 27 steps for a factor of 6.4.

    Args:
        mels: number of bands.
        window: samples of a frame.
        sample_rate: in Hz.

    Returns:
        [mels, window // 2 + 1]: weights of the frequencies for each band. Read-only.
    """
    bins = np.arange(window // 2 + 1) * (sample_rate / window)
    edges = _hertz(np.linspace(0.0, float(_mel(HIGHEST_FREQUENCY)), mels + 2))
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    weights: npt.NDArray[Any] = np.maximum(np.minimum(rising, falling), 0.0) * (2.0 / (high - low))
    weights.setflags(write=False)
    return weights


def _mel(hertz: float) -> float:
    if hertz < _LINEAR_END:
        return hertz * _MELS_PER_HZ
    return _MELS_OF_LINEAR + math.log(hertz / _LINEAR_END) * _MELS_PER_LOG


def _hertz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    beyond = _LINEAR_END * np.exp((mels - _MELS_OF_LINEAR) / _MELS_PER_LOG)
    return np.where(mels < _MELS_OF_LINEAR, mels / _MELS_PER_HZ, beyond)
