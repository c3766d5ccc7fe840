"""Data sets, always in three parts: training, calibration (never trained on) and test (never tuned on)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adaptrt import AdaptrtError


class DataError(AdaptrtError):
    """A data set that is missing or unusable."""


@dataclass(frozen=True)
class Split:
    """Inputs with their labels.

    Attributes:
        inputs: float32, first axis the samples; images are ``[B, C, H, W]`` in 0..1.
        labels: int64 ``[B]``.
    """

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.inputs.ndim < 2 or self.labels.ndim != 1:
            raise DataError(
                f"got inputs of shape {list(self.inputs.shape)} and labels of shape {list(self.labels.shape)}, "
                "expected inputs with samples as their first axis and one label for each; reshape them"
            )
        if not np.isfinite(self.inputs).all() or self.labels.min(initial=0) < 0:
            raise DataError("got NaN or infinite inputs or negative labels, expected finite ones; mend the data")
        if len(self.inputs) != len(self.labels) or not len(self.labels):
            raise DataError(
                f"got {len(self.inputs)} inputs and {len(self.labels)} labels, expected as many of both, at least 1"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSplits:
    """One data set. ``train`` is None where only calibration and test were given."""

    name: str
    calibration: Split
    test: Split
    train: Split | None = None


def digits() -> DataSplits:
    """scikit-learn's 1,797 handwritten digits, 8 × 8 pixels: 60% training, 20% calibration, 20% test.

    Source: UCI ML repository, Optical Recognition of Handwritten Digits. Split by class with a fixed seed.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 1, 8, 8) / 16.0).astype(np.float32)
    labels = labels.astype(np.int64)
    train, rest = train_test_split(np.arange(len(labels)), test_size=0.4, random_state=0, stratify=labels)
    calibration, test = train_test_split(rest, test_size=0.5, random_state=0, stratify=labels[rest])
    parts = [Split(images[index], labels[index]) for index in (train, calibration, test)]
    return DataSplits("digits", train=parts[0], calibration=parts[1], test=parts[2])


def _fashion() -> DataSplits:
    from adaptrt.models.fashion_mnist import fashion_mnist

    return fashion_mnist()


DATA_SETS: dict[str, Callable[[], DataSplits]] = {"digits": digits, "fashion": _fashion}


def load_data(name: str) -> DataSplits:
    """Load a data set by name, or from an ``.npz`` file.

    The file holds ``calibration_inputs``, ``calibration_labels``, ``test_inputs``, ``test_labels``.

    Raises:
        DataError: The name is unknown, or a file is missing, damaged or lacks an array.
    """
    if name in DATA_SETS:
        return DATA_SETS[name]()
    path = Path(name)
    if path.suffix != ".npz" or not path.is_file():
        raise DataError(
            f"got data {name!r}, expected one of {', '.join(DATA_SETS)} or an existing .npz file with "
            "calibration_inputs, calibration_labels, test_inputs and test_labels; name one of them"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            parts = [
                Split(
                    arrays[f"{part}_inputs"].astype(np.float32, casting="same_kind", copy=False),
                    arrays[f"{part}_labels"].astype(np.int64, casting="same_kind", copy=False),
                )
                for part in ("calibration", "test")
            ]
    except DataError:
        raise
    except Exception as error:  # a damaged archive fails in many ways: zlib.error, BadZipFile, ...
        raise DataError(f"cannot read {path}: {error}; save it with numpy.savez and the four arrays") from error
    return DataSplits(path.stem, *parts)
