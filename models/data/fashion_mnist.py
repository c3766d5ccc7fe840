"""Fashion-MNIST: 70,000 grey images of clothes, 28 × 28 pixels, ten classes.

Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747; Debian packages the files as ``dataset-fashion-mnist``.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adaptrt.models.data.split import DataError, DataSplits, Split

FOLDER_VARIABLE = "ADAPTRT_FASHION_MNIST"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", 60_000),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", 10_000),
}
_SIDE = 28
_CALIBRATION = 4_000
_UNSIGNED_BYTES = 8  # the type code of idx files
_REMEDY = f"install Debian's dataset-fashion-mnist again, or set {FOLDER_VARIABLE} to a folder with intact files"


def fashion_mnist(folder: Path | None = None) -> DataSplits:
    """Read the data: 56,000 images for training, 4,000 for calibration, the 10,000 published ones for tests.

    Calibration images are drawn from the published training part with a fixed seed, as many of each class.

    Args:
        folder: Where the four ``.gz`` files lie; None takes the folder named by the environment variable
            ``ADAPTRT_FASHION_MNIST``, or Debian's.

    Raises:
        DataError: A file is missing, truncated or of another shape.
    """
    if folder is None:
        named = os.environ.get(FOLDER_VARIABLE)
        folder = Path(named) if named else DEBIAN_FOLDER
    images, labels = _read_part(folder, "train")
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = [order[labels[order] == label][: _CALIBRATION // len(CLASSES)] for label in range(len(CLASSES))]
    calibration = np.sort(np.concatenate(by_class))
    training = np.setdiff1d(np.arange(len(labels)), calibration)
    return DataSplits(
        "fashion",
        train=Split(images[training], labels[training]),
        calibration=Split(images[calibration], labels[calibration]),
        test=Split(*_read_part(folder, "test")),
    )


def _read_part(folder: Path, part: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    image_file, label_file, count = _FILES[part]
    pixels = _read_idx(folder / image_file, (count, _SIDE, _SIDE))
    labels = _read_idx(folder / label_file, (count,)).astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise DataError(f"{folder / label_file} has label {labels.max()}, expected 0 to {len(CLASSES) - 1}; {_REMEDY}")
    return np.divide(pixels[:, None], np.float32(255), dtype=np.float32), labels


def _read_idx(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read one file of the idx format: two zero bytes, type, rank, big-endian sizes, values.

    At most one byte more than the file should hold is unpacked, whatever its header or length says.
    """
    header = 4 + 4 * len(shape)
    wanted = header + int(np.prod(shape))
    try:
        with gzip.open(path) as file:
            content = file.read(wanted + 1)
    except FileNotFoundError:
        raise DataError(
            f"got no {path}, expected a file of Fashion-MNIST; install Debian's dataset-fashion-mnist, or set "
            f"{FOLDER_VARIABLE} to a folder that has it"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; {_REMEDY}") from error
    magic = bytes((0, 0, _UNSIGNED_BYTES, len(shape)))
    if content[:4] != magic:
        raise DataError(f"{path} begins with bytes {content[:4].hex(' ')!r}, expected {magic.hex(' ')!r}; {_REMEDY}")
    sizes = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4")) if len(content) >= header else ()
    if len(content) != wanted or sizes != shape:
        got = f"at least {len(content)}" if len(content) > wanted else str(len(content))
        raise DataError(
            f"{path} holds {got} bytes with sizes {list(sizes)}, expected {wanted} bytes with sizes {list(shape)}; "
            f"{_REMEDY}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
