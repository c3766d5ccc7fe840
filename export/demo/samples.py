"""Samples that a demo offers: those that are given, or what the bundle's golden runs were made on."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.export.errors import ExportError
from adaptrt.export.parity.reference import GOLDEN_FILE, Reference, read_golden
from adaptrt.runtime.bundle.bundle_file import Bundle, TensorSpec
from adaptrt.runtime.bundle.bundle_files import read_preprocessing
from adaptrt.runtime.bundle.preprocessing_schema import TOKENIZER_ROLE, ImagePreprocessing
from adaptrt.runtime.errors import InputError
from adaptrt.runtime.preprocessing.image import read_picture

MOST_SAMPLES = 12
"""Of those that a demo takes from the golden runs."""
MOST_GIVEN = 100
_LONGEST_TEXT = 20_000
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""How the names of pictures end that every browser reads."""


@dataclass(frozen=True)
class Sample:
    """A picture's file, or a text.

    Attributes:
        content: Of the file; None for a text.
        suffix: How the file's name ends.
        text: Itself; None for a picture.
    """

    content: bytes | None = None
    suffix: str = ""
    text: str | None = None


def given_samples(given: Sequence[str], picture: TensorSpec | None) -> list[Sample]:
    """Samples of a user's: files of pictures; texts, and ``.txt`` files with one on each line.

    Args:
        given: As on the command line.
        picture: The input that pictures fill; None where the bundle takes texts.

    Raises:
        ExportError: A file is missing or no picture, or there are too many.
    """
    samples = (
        [_text(text) for one in given for text in _texts(one)]
        if picture is None
        else [_picture(Path(one), picture) for one in given]
    )
    if len(samples) > MOST_GIVEN:
        raise ExportError(f"got {len(samples)} samples, expected at most {MOST_GIVEN}; leave some out")
    return samples


def golden_samples(root: Path, bundle: Bundle, picture: TensorSpec | None) -> list[Sample]:
    """Samples of the data that a bundle was calibrated with, of as many classes as there are; none of noise.

    Texts are what the tokenizer makes of their numbers, which needs the package ``tokenizers``: without it there are
    none.

    Raises:
        ExportError: The golden runs are damaged.
    """
    if not bundle.data or not (root / GOLDEN_FILE).is_file():
        return []
    reference = read_golden(root / GOLDEN_FILE)[0]
    made = _pictures_of(reference, picture) if picture is not None else _texts_of(root, bundle, reference)
    samples: list[Sample] = []
    for sample in made:
        if sample not in samples:
            samples.append(sample)
        if len(samples) == MOST_SAMPLES:
            break
    return samples


def _picture(path: Path, spec: TensorSpec) -> Sample:
    recipe = spec.preprocessing
    assert recipe is not None
    if path.suffix.lower() not in _PICTURES:
        raise ExportError(
            f"got the sample {str(path)!r}, expected a picture that browsers read ({', '.join(_PICTURES)}); convert it"
        )
    try:
        read_picture(path, recipe)
    except InputError as error:
        raise ExportError(str(error)) from None
    return Sample(path.read_bytes(), path.suffix.lower())


def _texts(given: str) -> list[str]:
    if not given.lower().endswith(".txt"):
        return [given]
    try:
        lines = Path(given).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ExportError(f"cannot read {given!r} ({reason}), expected a text on each line; check the file") from None
    return [line for line in lines if line.strip()]


def _text(text: str) -> Sample:
    if len(text) > _LONGEST_TEXT:
        raise ExportError(f"got a text of {len(text)} characters, expected at most {_LONGEST_TEXT}; shorten it")
    return Sample(text=text)


def _pictures_of(reference: Reference, spec: TensorSpec) -> Iterator[Sample]:
    recipe = spec.preprocessing
    assert recipe is not None
    inputs = reference.inputs[spec.name]
    for number in _of_all_classes(reference, len(inputs)):
        yield Sample(_png(_pixels(inputs[number], recipe)), ".png")


def _pixels(image: npt.NDArray[Any], recipe: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    """The pixels nearest to an input ``[C, H, W]``: ``[H, W, C]``."""
    mean, std = (np.array(value, np.float64).reshape(-1, 1, 1) for value in (recipe.mean, recipe.std))
    exact = (image.astype(np.float64) * std + mean) / recipe.scale
    if recipe.order == "bgr":
        exact = exact[::-1]
    return np.asarray(exact.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def _texts_of(root: Path, bundle: Bundle, reference: Reference) -> Iterator[Sample]:
    recipe = bundle.text
    assert recipe is not None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return
    (entry,) = (entry for entry in bundle.files if entry.role == TOKENIZER_ROLE)
    tokenizer = Tokenizer.from_str(read_preprocessing(root, entry).decode())
    ids = reference.inputs[recipe.inputs["ids"]]
    real = reference.inputs[recipe.inputs["mask"]] != 0 if "mask" in recipe.inputs else ids != recipe.padding_id
    for number in _of_all_classes(reference, len(ids)):
        text = tokenizer.decode(ids[number][real[number]].tolist(), skip_special_tokens=True).strip()
        if text:
            yield Sample(text=text)


def _of_all_classes(reference: Reference, samples: int) -> list[int]:
    """The samples, one of each class before a second of any; in their order where the network is no classifier."""
    logits = reference.stages[-1].outputs.get("logits")
    if logits is None or logits.ndim != 2:
        return list(range(samples))
    labels = logits.argmax(axis=1)
    rank = [int((labels[:number] == label).sum()) for number, label in enumerate(labels)]
    return sorted(range(samples), key=lambda number: (rank[number], int(labels[number])))
