"""What reaches the dense network's FFNs, kept in a memory map: layers are then distilled each by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adaptrt import AdaptrtError, write_atomically
from adaptrt.models.adaptation import layer_inputs
from adaptrt.models.data.samples import Samples
from adaptrt.models.network import Network
from adaptrt.models.training.devices import device_of, moved

TOKENS = 200_000
"""Tokens kept of each block at most: 150 MB for a width of 384."""
_DONE = "activations.json"
_SPARE = 1.1


class ActivationError(AdaptrtError):
    """Activations that cannot be kept."""


class Activations:
    """The inputs of every block's FFN, float16 ``[tokens, width]``; targets are computed anew from them.

    A file is mapped while rows are drawn from it and no longer: pages that were read count as the process's memory as
    long as they are mapped, and in the end that would be all of them.

    Args:
        arrays: By the block's number, as many tokens of each: in memory, or the files that ``record`` wrote.
        folder: Where these are; None: they are in memory.
    """

    def __init__(self, arrays: Mapping[int, npt.NDArray[np.float16] | Path], folder: Path | None = None) -> None:
        self._arrays, self.folder = dict(arrays), folder
        self._length = len(self.of_block(next(iter(self._arrays))))

    @classmethod
    def of(cls, folder: Path, blocks: Iterable[int]) -> Activations:
        """Those of some blocks, from the folder that ``record`` put them in."""
        return cls({block: _file(folder, block) for block in blocks}, folder)

    def __len__(self) -> int:
        return self._length

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks' numbers."""
        return tuple(self._arrays)

    def of_block(self, block: int) -> npt.NDArray[np.float16]:
        """All of one block, ``[tokens, width]``; let go of it soon."""
        kept = self._arrays[block]
        return np.load(kept, mmap_mode="r") if isinstance(kept, Path) else kept

    def draw(self, block: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Random tokens of one block, float32 ``[tokens, width]``, in order of place: disks like that."""
        rows = torch.randint(len(self), (tokens,), generator=generator).sort().values.numpy()
        return torch.from_numpy(self.of_block(block)[rows].astype(np.float32))


def record(
    folder: Path,
    dense: Network,
    samples: Samples,
    *,
    tokens: int = TOKENS,
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _share: None,
) -> Activations:
    """Run the dense network until so many tokens are kept, or the samples end; at once where that was done before.

    Args:
        folder: For the memory maps; interrupted or out of space, none of them stays.
        dense: In evaluation mode.
        samples: Its inputs.
        tokens: Kept of each block at most.
        batch: Samples at once.
        seed: Of the samples' order.
        progress: Told the share that is done.

    Raises:
        ActivationError: The disk has no room for them.
    """
    blocks, width = len(dense.blocks), int(dense.config.width)
    done, asked = folder / _DONE, {"tokens": tokens, "seed": seed, "samples": len(samples)}
    if done.exists() and json.loads(done.read_text()) == asked:
        return Activations.of(folder, range(blocks))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    needed, free = 2 * tokens * width * blocks, shutil.disk_usage(folder).free
    if needed * _SPARE > free:
        raise ActivationError(
            f"got {free / 1e9:.1f} GB free at {folder}, expected {needed * _SPARE / 1e9:.1f} GB for activations; free "
            "some space, name another --work folder, or ask for fewer with --tokens"
        )
    try:
        files = [_file(folder, number).open("wb") for number in range(blocks)]
        kept = 0
        try:
            for file in files:
                np.lib.format.write_array_header_1_0(file, _header(0, width))
            for rows in samples.order(min(batch, len(samples)), seed, 0):
                reaching = layer_inputs(dense, moved(samples.batch(rows), device_of(dense)))
                found = [inputs.ffn.to(torch.float16).cpu().numpy() for inputs in reaching]
                room = min(len(found[0]), tokens - kept)
                for file, part in zip(files, found, strict=True):
                    file.write(np.ascontiguousarray(part[:room]).tobytes())
                kept += room
                progress(kept / tokens)
                if kept == tokens:
                    break
            for file in files:
                file.seek(0)
                np.lib.format.write_array_header_1_0(file, _header(kept, width))
        finally:
            for file in files:
                file.close()
        write_atomically(done, json.dumps(asked).encode())
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise ActivationError(
                f"cannot keep activations in {folder}: {error.strerror or error}; free some space, name another --work "
                "folder, or ask for fewer with --tokens"
            ) from error
        raise
    progress(1.0)
    return Activations.of(folder, range(blocks))


def _file(folder: Path, block: int) -> Path:
    return folder / f"block{block}.npy"


def _header(tokens: int, width: int) -> dict[str, object]:
    """Of a file whose length is not known yet: numpy pads headers to multiples of 64 bytes, so it can be put right."""
    return {"descr": "<f2", "fortran_order": False, "shape": (tokens, width)}
