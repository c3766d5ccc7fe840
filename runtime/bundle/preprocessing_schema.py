"""The keys of ``bundle.json`` that say how pictures, texts and recordings become inputs."""

from __future__ import annotations

import msgspec

TOKENIZER_ROLE = "tokenizer"
"""The role, among the bundle's ``files``, of what a tokenizer is made of."""
TEXT_ROLES = ("ids", "mask", "types")
"""What of a text an input can be: numbers of tokens, which of them are real, and the segment of each."""
SIDES = ("left", "right")
TRUNCATIONS = ("longest_first", "only_first", "none")
RESIZES = ("stretch", "shortest_edge", "none")
RESAMPLES = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
"""Pillow's filters, which look at all pixels that go into one where a picture is made smaller."""
CHANNEL_ORDERS = ("rgb", "bgr")
AUDIO_KINDS = ("log_mel", "waveform")


class ImagePreprocessing(msgspec.Struct, frozen=True):
    """How 8-bit pixels become an input: ``x = (pixel * scale - mean) / std``, laid out [C, H, W].

    A picture is laid over the background, made grey or RGB, resized, and cut or padded with pixels of 0 to
    ``height`` x ``width`` around its centre, all in 8 bits.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height: rows that the input expects.
        width: columns that the input expects.
        scale: factor applied to the pixel values 0..255, in float64; the product is rounded to float32.
        mean: one value, or one per channel as fed, on the scaled values; in float32.
        std: one value, or one per channel as fed, on the scaled values; in float32.
        background: pixel value, 0..255, or one per channel, of the ground that transparent pictures are laid over.
        resize: ``stretch``: to ``size`` whatever the proportions. ``shortest_edge``: the shorter edge becomes ``size``,
            the longer one ``int(size * longer / shorter)``. ``none``: not at all.
        size: in pixels: height and width for ``stretch``, none standing for ``height`` and ``width``; one number for
            ``shortest_edge``.
        resample: which of Pillow's filters resizes: ``nearest``, ``box``, ``bilinear``, ``hamming``, ``bicubic`` or
            ``lanczos``.
        order: of the channels as fed: ``rgb`` or ``bgr``.
    """

    channels: int
    height: int
    width: int
    scale: float = 1 / 255
    mean: list[float] = msgspec.field(default_factory=lambda: [0.0])
    std: list[float] = msgspec.field(default_factory=lambda: [1.0])
    background: list[int] = msgspec.field(default_factory=lambda: [0])
    resize: str = "stretch"
    size: list[int] = []
    resample: str = "bilinear"
    order: str = "rgb"


class TextPreprocessing(msgspec.Struct, frozen=True):
    """How texts become inputs, by the tokenizer in the file with the role ``tokenizer``.

    What that file says of truncation and padding does not count. Texts are padded to the longest of the batch, or
    to the input's size where that is fixed.

    Attributes:
        inputs: which inputs are filled, by what they are: ``ids``: numbers of tokens; ``mask``: 1 or true where a
            token is real; ``types``: the segment of each token. All are [batch, tokens]; ``ids`` is always one.
        longest: most tokens of a text, special ones included.
        padding_id: what ``ids`` has at padded places.
        padding_token: what the tokenizer calls it; None: it is no token.
        padding_type: what ``types`` has there.
        padding_side: ``left`` or ``right``: where it is put.
        truncation: what is done to longer texts: ``longest_first`` and ``only_first``, which are the same for single
            texts, cut them; ``none`` refuses them.
        truncation_side: ``left`` or ``right``: which end is cut off.
        special_tokens: whether the tokenizer adds its special tokens.
        lower_case: whether texts are written in lower case before.
    """

    inputs: dict[str, str]
    longest: int
    padding_id: int = 0
    padding_token: str | None = None
    padding_type: int = 0
    padding_side: str = "right"
    truncation: str = "longest_first"
    truncation_side: str = "right"
    special_tokens: bool = True
    lower_case: bool = False


class AudioPreprocessing(msgspec.Struct, frozen=True):
    """How a recording of one channel, samples from -1 to 1, becomes an input.

    ``log_mel``: cut or padded at its end to ``samples``, then the spectrogram of Whisper (arXiv 2212.04356, section
    2.2), [batch, mels, samples // hop]. ``waveform``: the samples themselves, [batch, samples], padded to the longest
    of the batch, or to the input's size where that is fixed; recordings that are too long are refused.

    Attributes:
        input: name of the input that is filled.
        kind: ``log_mel`` or ``waveform``.
        sample_rate: in Hz; recordings of another one are refused.
        mask: of waveforms: name of a second input, [batch, samples], 1 or true where a sample is real.
        padding_value: what padded places have.
        normalize: of waveforms: whether each is brought to mean 0 and variance 1, ``(x - mean) / sqrt(variance +
            1e-7)``, padding left out.
        mels: of log-mel: number of bands, from 0 to 8000 Hz on Slaney's scale.
        window: of log-mel: samples of a frame, weighted by a periodic Hann window.
        hop: of log-mel: samples from one frame to the next.
        samples: of log-mel: samples of the whole.
    """

    input: str
    kind: str
    sample_rate: int = 16_000
    mask: str | None = None
    padding_value: float = 0.0
    normalize: bool = False
    mels: int = 80
    window: int = 400
    hop: int = 160
    samples: int = 480_000
