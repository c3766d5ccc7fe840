"""Data sets, always in three parts: training, calibration (never trained on) and test (never tuned on)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt import AdaptrtError

FOLLOWS_DENSE = "follows_dense"
"""In a file of samples: whether their labels are a dense network's answers."""


class DataError(AdaptrtError):
    """A data set that is missing or unusable."""


@dataclass(frozen=True)
class Split:
    """Inputs with their labels.

    Attributes:
        inputs: What the model takes, first axis the samples; images are float32 ``[B, C, H, W]`` in 0..1.
        labels: What a task judges by: int64 ``[B]`` of classifiers, ``[B, tokens]`` where tokens are classified,
            fractions ``[B, width]`` where a vector is wanted; for a network of the user's own whatever its judge takes,
            numbers ``[B, ...]``.
        others: Further inputs by name, of models that take several (a text encoder's ``mask``); first axis as above.
        name: Of ``inputs``; None: the model's first input, whatever it is called.

    Raises:
        DataError: Shapes or values are not these.
    """

    inputs: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    others: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    name: str | None = None

    def __post_init__(self) -> None:
        if self.inputs.ndim < 2 or self.labels.ndim < 1:
            raise DataError(
                f"got inputs of shape {list(self.inputs.shape)} and labels of shape {list(self.labels.shape)}, "
                "expected inputs with samples as their first axis and one label for each; reshape them"
            )
        every = [self.inputs, *self.others.values()]
        if any(array.dtype.kind not in "biuf" for array in every):
            raise DataError(f"got inputs of type {', '.join(str(array.dtype) for array in every)}, expected numbers")
        if not all(np.isfinite(array).all() for array in [*every, self.labels]) or self._negative_class():
            raise DataError("got NaN or infinite inputs or negative labels, expected finite ones; mend the data")
        if any(len(array) != len(self.labels) for array in every) or not len(self.labels):
            raise DataError(
                f"got {', '.join(str(len(array)) for array in every)} inputs and {len(self.labels)} labels, expected "
                "as many of both, at least 1"
            )

    def _negative_class(self) -> bool:
        """Whether a label is no class; only one whole number for each sample is meant as one."""
        return self.labels.ndim == 1 and self.labels.dtype.kind in "iu" and bool(self.labels.min(initial=0) < 0)

    def __len__(self) -> int:
        return len(self.labels)

    def named(self, first: str) -> dict[str, npt.NDArray[Any]]:
        """All inputs by name; ``first`` is the name of ``inputs`` where they have none of their own."""
        return {self.name or first: self.inputs, **self.others}

    def part(self, samples: slice | npt.NDArray[np.int64]) -> Split:
        """Some of the samples."""
        others = {name: array[samples] for name, array in self.others.items()}
        return Split(self.inputs[samples], self.labels[samples], others, self.name)


@dataclass(frozen=True)
class DataSplits:
    """One data set.

    Attributes:
        name: What it is called.
        calibration: What knobs are chosen with.
        test: What quality is reported of.
        train: None where only the two others were given.
        follows_dense: Whether the labels are the dense network's answers: qualities then say how near these are.
    """

    name: str
    calibration: Split
    test: Split
    train: Split | None = None
    follows_dense: bool = False


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
    from adaptrt.models.data.fashion_mnist import fashion_mnist

    return fashion_mnist()


DATA_SETS: dict[str, Callable[[], DataSplits]] = {"digits": digits, "fashion": _fashion}


def load_data(name: str) -> DataSplits:
    """Load a data set by name, or from an ``.npz`` file.

    The file holds ``calibration_inputs``, ``calibration_labels``, ``test_inputs``, ``test_labels``. For a model of
    several inputs each has an array of its own, named after it: ``calibration_tokens``, ``calibration_mask``.

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
                _split({name.removeprefix(part): arrays[name] for name in arrays.files if name.startswith(part)}, part)
                for part in ("calibration_", "test_")
            ]
            follows_dense = FOLLOWS_DENSE in arrays.files and bool(arrays[FOLLOWS_DENSE])
    except DataError:
        raise
    except Exception as error:  # a damaged archive fails in many ways: zlib.error, BadZipFile, ...
        raise DataError(f"cannot read {path}: {error}; save it with numpy.savez and the four arrays") from error
    calibration, test = parts
    return DataSplits(path.stem, calibration, test, follows_dense=follows_dense)


def _split(arrays: dict[str, npt.NDArray[Any]], part: str) -> Split:
    """One part of a file, its arrays without the part's name."""
    listed = ", ".join(f"{part}{name}" for name in arrays) or "none that begins so"
    if "labels" not in arrays or len(arrays) < 2 or ("inputs" in arrays and len(arrays) > 2):
        raise DataError(
            f"got the arrays {listed}, expected {part}labels and either {part}inputs or one array for each of the "
            f"model's inputs, such as {part}tokens; save them with numpy.savez"
        )
    labels = arrays.pop("labels")
    if labels.dtype.kind in "iu":
        labels = labels.astype(np.int64, casting="same_kind", copy=False)
    elif labels.dtype.kind == "f" and labels.ndim > 1:  # targets of a network's own
        labels = labels.astype(np.float32, copy=False)
    else:
        raise DataError(
            f"got {part}labels of type {labels.dtype} and shape {list(labels.shape)}, expected whole numbers, or "
            "fractions [samples, ...] that a network's own judge takes; convert them"
        )
    single = {name: _computed(array) for name, array in arrays.items()}
    first, *rest = single
    name = None if first == "inputs" else first
    return Split(single[first], labels, {other: single[other] for other in rest}, name)


def _computed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Fractions in the precision that graphs compute in; whole numbers and truths as they are."""
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
