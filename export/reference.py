"""What the torch model computed: the record that a graph is compared with, and its file ``golden.npz``."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from adaptrt.export.errors import ExportError

if TYPE_CHECKING:
    from adaptrt.models.vit import ViT

Floats = npt.NDArray[np.float32]
GOLDEN_FILE = "golden.npz"  # its name in a bundle
_LARGEST_GOLDEN = 256 * 2**20  # bytes, unpacked


@dataclass(frozen=True)
class Reference:
    """One run of the torch model.

    Attributes:
        price: The price it ran at.
        inputs: ``[B, C, H, W]``.
        logits: ``[B, classes]``.
        macs_fraction: ``[B]``.
        k: Learners run, int32 ``[L, B * T]``, one row per gate.
        margin: Distance of each comparison from a tie, ``[L, B * T, M]``; M is N, or 1 for an argmax gate.
    """

    price: float
    inputs: Floats
    logits: Floats
    macs_fraction: Floats
    k: npt.NDArray[np.int32]
    margin: Floats


def run_reference(model: ViT, inputs: Floats, price: float) -> Reference:
    """Run the torch model in evaluation mode."""
    import torch

    with torch.no_grad():
        out = model(torch.from_numpy(inputs), torch.tensor([price], dtype=torch.float32))
    return Reference(
        price,
        inputs,
        out.logits.numpy(),
        out.macs_fraction.numpy(),
        np.stack([decision.k.numpy() for decision in out.decisions]),
        np.stack([decision.margin.numpy() for decision in out.decisions]),
    )


def encode_golden(references: Sequence[Reference]) -> bytes:
    """Pack references over the same inputs into the bytes of an ``.npz`` file."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        prices=np.array([r.price for r in references], np.float32),
        inputs=references[0].inputs,
        logits=np.stack([r.logits for r in references]),
        macs_fraction=np.stack([r.macs_fraction for r in references]),
        k=np.stack([r.k for r in references]),
        margin=np.stack([r.margin for r in references]),
    )
    return buffer.getvalue()


def read_golden(path: Path) -> list[Reference]:
    """Read ``golden.npz``.

    Raises:
        ExportError: It is missing, damaged, too large or its arrays do not fit together.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _LARGEST_GOLDEN:
            raise ValueError(f"{size} bytes unpacked, expected at most {_LARGEST_GOLDEN}")
        with np.load(path, allow_pickle=False) as arrays:
            a = {name: arrays[name] for name in ("prices", "inputs", "logits", "macs_fraction", "k", "margin")}
        _check_golden(a)
        runs = len(a["prices"])
        return [
            Reference(
                float(a["prices"][i]),
                a["inputs"],
                a["logits"][i],
                a["macs_fraction"][i],
                a["k"][i],
                a["margin"][i],
            )
            for i in range(runs)
        ]
    except Exception as error:  # a damaged archive fails in many ways: zlib.error, BadZipFile, ...
        raise ExportError(f"cannot read {path}: {error}; export the bundle again") from error


def _check_golden(arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Check that the arrays of a golden file fit together.

    Raises:
        ValueError: They do not.
    """
    for name, array in arrays.items():
        wanted = "int32" if name == "k" else "float32"
        if array.dtype.name != wanted:
            raise ValueError(f"{name} has dtype {array.dtype}, expected {wanted}")
    runs, samples = len(arrays["prices"]), len(arrays["inputs"])
    k = arrays["k"]
    if not runs or not samples or k.ndim != 3 or not k.shape[1] or k.shape[2] % samples:
        raise ValueError(f"{runs} runs of {samples} samples with k of shape {k.shape}, expected [runs, gates, tokens]")
    shapes = {
        "logits": (runs, samples, *arrays["logits"].shape[2:3]),
        "macs_fraction": (runs, samples),
        "k": (runs, *k.shape[1:]),
        "margin": (*k.shape, *arrays["margin"].shape[3:4]),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} has shape {arrays[name].shape}, expected {shape} of finite numbers")
