"""Many samples without labels: what a network adapts on, batch by batch, texts cut to the longest of their batch."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adaptrt.models.data.padding import Rows, lengths, mask_name
from adaptrt.models.data.split import DataError
from adaptrt.models.staged_network import StagedNetwork

Array = npt.NDArray[np.generic]

_WINDOW = 16
"""Batches whose texts are sorted by length together: short ones need not be computed as long as the longest."""


class Samples:
    """Inputs of a network by name, first axis the samples.

    Args:
        arrays: As the network takes them, a whole data set each; memory maps stay on disk.
        mask: The input that marks what is real of a text, with the named axis that is cut; None: all have one size.

    Raises:
        DataError: There are none, or their numbers differ.
    """

    def __init__(self, arrays: Mapping[str, Array], mask: str | None = None) -> None:
        counts = {name: len(array) for name, array in arrays.items()}
        if not counts or len(set(counts.values())) != 1 or not min(counts.values()):
            raise DataError(f"got samples {counts}, expected as many of each input, at least 1")
        self.arrays, self.mask = dict(arrays), mask
        self.lengths = None if mask is None else lengths(arrays[mask])

    @classmethod
    def of(cls, network: StagedNetwork, arrays: Mapping[str, Array]) -> Samples:
        """The samples of a network's inputs, which say by themselves what marks padding.

        Raises:
            DataError: An input is missing or unknown, or has another shape.
        """
        specs = {spec.name: spec for spec in network.input_specs()}
        if set(arrays) != set(specs):
            raise DataError(f"got samples of {', '.join(sorted(arrays))}, expected {', '.join(specs)}")
        for name, spec in specs.items():
            shape = arrays[name].shape
            sizes = [
                have for want, have in zip(spec.shape, shape, strict=False) if isinstance(want, int) and want != have
            ]
            if len(shape) != len(spec.shape) or sizes:
                raise DataError(f"got {name} of shape {list(shape)}, expected {list(spec.shape)}")
        return cls(arrays, mask_name(list(specs.values()), network.token_axis))

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batch(self, rows: Rows) -> dict[str, Tensor]:
        """Some of the samples, texts cut to the longest of them."""
        end = None if self.lengths is None else int(max(self.lengths[rows].max(), 1))
        batch = {}
        for name, array in self.arrays.items():
            part = np.ascontiguousarray(array[rows] if end is None or array.ndim < 2 else array[rows, :end])
            batch[name] = torch.from_numpy(part)
        return batch

    def order(self, batch: int, seed: int, epoch: int) -> list[Rows]:
        """The batches of one pass, of full size: drawn at random, and of texts with such of about their length."""
        generator = np.random.default_rng(crc32(f"{seed}/{epoch}".encode()))
        rows = generator.permutation(len(self))
        if self.lengths is not None:
            window = batch * _WINDOW
            parts = [rows[start : start + window] for start in range(0, len(rows), window)]
            rows = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
        batches = [rows[start : start + batch] for start in range(0, len(rows) - batch + 1, batch)]
        return [batches[index] for index in generator.permutation(len(batches))]
