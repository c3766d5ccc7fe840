"""Sizes of named axes in traces, by which they are told apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from adaptrt.export.own.declaration import BATCH, Declaration
from adaptrt.models.own import Named

_TRACED_BATCH = 3
_LEAST_TRACED = 11


def resized(inputs: Named, declaration: Declaration, sizes: dict[str, int]) -> Named:
    """Inputs cut, or repeated from the start, to given sizes of the named axes; others stay as they are."""
    tensors = {}
    for name, shape in declaration.shapes.items():
        tensor = inputs[name]
        for axis, size in enumerate(shape):
            if isinstance(size, str) and size in sizes and size != BATCH and tensor.shape[axis] != sizes[size]:
                tensor = tensor.index_select(axis, torch.arange(sizes[size]) % tensor.shape[axis])
        tensors[name] = tensor
    return tensors


def traced_sizes(declaration: Declaration) -> dict[str, int]:
    """A size for each named axis, near the example's: no two alike, for they are told apart by them."""
    sizes = {BATCH: _TRACED_BATCH}
    for axis, size in declaration.sizes.items():
        wanted = max(size, _LEAST_TRACED)
        while wanted in sizes.values() or not _is_prime(wanted):
            wanted -= 1
            if wanted < 2:
                wanted = next(n for n in itertools.count(_LEAST_TRACED) if _is_prime(n) and n not in sizes.values())
                break
        sizes[axis] = wanted
    return sizes


def unused_primes(sizes: dict[str, int]) -> Iterator[int]:
    """Sizes for what else there is: primes that no axis has, from 5 on."""
    return (number for number in itertools.count(5) if _is_prime(number) and number not in sizes.values())


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
