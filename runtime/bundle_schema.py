"""The keys of ``bundle.json``. Their values' limits are in ``bundle_validation``."""

from __future__ import annotations

from typing import Any

import msgspec

FORMAT_VERSION = 1
BUNDLE_FILE = "bundle.json"
MACS_OUTPUT = "macs_fraction"
PRICE_KNOB = "price"


class ImagePreprocessing(msgspec.Struct, frozen=True):
    """How 8-bit pixels become an input: ``x = (pixel * scale - mean) / std``, laid out [C, H, W].

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height: rows that the input expects.
        width: columns that the input expects.
        scale: factor applied to the pixel values 0..255.
        mean: one value, or one per channel, on the scaled values.
        std: one value, or one per channel, on the scaled values.
    """

    channels: int
    height: int
    width: int
    scale: float = 1 / 255
    mean: list[float] = msgspec.field(default_factory=lambda: [0.0])
    std: list[float] = msgspec.field(default_factory=lambda: [1.0])


class TensorSpec(msgspec.Struct, frozen=True):
    """A graph input or output. In ``shape`` a number is a fixed size, a text names a dynamic axis."""

    name: str
    dtype: str
    shape: list[int | str]
    preprocessing: ImagePreprocessing | None = None


class DataFile(msgspec.Struct, frozen=True):
    """A file of weights beside a stage; ``file`` is relative to the bundle's folder."""

    file: str
    sha256: str


class Stage(msgspec.Struct, frozen=True):
    """One ONNX file of the network.

    Attributes:
        file: path relative to the bundle's folder.
        sha256: of the file, 64 lowercase hexadecimal digits.
        exit: name of the exit head at its end, where the network has exits.
        external_data: every file that the ONNX file's weights lie in; a reference to another is refused.
    """

    file: str
    sha256: str
    exit: str | None = None
    external_data: list[DataFile] = []


class Knob(msgspec.Struct, frozen=True):
    """A graph input that changes how much is computed; at its default everything runs."""

    name: str
    dtype: str
    shape: list[int]
    minimum: float
    maximum: float
    default: float


class Dense(msgspec.Struct, frozen=True):
    """The dense model that all shares are relative to.

    Attributes:
        macs: multiply-accumulates of one sample at the calibration shape.
        parameters: number of weights.
        quality: measured on the held-out split.
        file: the dense model's own ONNX file, for comparison; running the bundle does not need it.
        sha256: of that file.
        external_data: as in ``Stage``.
    """

    macs: int
    parameters: int
    quality: float | None = None
    file: str | None = None
    sha256: str | None = None
    external_data: list[DataFile] = []


class CurvePoint(msgspec.Struct, frozen=True):
    """One calibrated operating point. Quality: higher is better.

    Attributes:
        knobs: values fed; a knob that is not named stood at its default.
        macs_fraction: mean share of the dense MACs on the held-out split (reported).
        quality: on the held-out split (reported).
        frontier: whether no other point of the curve beats this one on the calibration split; by the
            held-out numbers that are reported another may.
        calibration_quality: on the calibration split.
        calibration_macs_fraction: on the calibration split; what budgets are solved with.
    """

    knobs: dict[str, float]
    macs_fraction: float
    quality: float | None
    frontier: bool
    calibration_quality: float | None = None
    calibration_macs_fraction: float | None = None


class Bundle(msgspec.Struct, frozen=True):
    """``bundle.json``: what an exported folder holds and what was measured of it.

    Attributes:
        format_version: ``FORMAT_VERSION`` of the adaptrt that wrote it; another is refused.
        name: of the model.
        producer: name and version of the program that wrote it.
        inputs: graph inputs, knobs not among them.
        outputs: graph outputs; float32 ``macs_fraction`` [batch] is always one.
        stages: ONNX files in the order in which they run.
        knobs: graph inputs that change how much is computed.
        dense: the dense model that all shares are relative to.
        curve: calibrated operating points; empty before calibration.
        quality_metric: what ``quality`` is, such as ``accuracy``; None before calibration.
        data: name and sizes of the data that the curve was measured on.
        ops: the ``adaptrt`` ops in the graphs, each with the number of learners that its body has in
            these files (one op name has one body per file).
    """

    format_version: int
    name: str
    producer: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    stages: list[Stage]
    knobs: list[Knob]
    dense: Dense
    curve: list[CurvePoint] = []
    quality_metric: str | None = None
    data: dict[str, Any] = {}
    ops: dict[str, int] = {}
