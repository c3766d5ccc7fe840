"""The manifest of compiled kernels: what a launcher must know, and the hashes of the files it loads.

``build/kernels/manifest.json`` is written by ``compile.py``::

    {"format_version": 1, "triton": "3.9.0", "source_sha256": "...", "kernels": [{
        "op": "ConditionalMLPUp", "version": 1, "variant": "aligned16-large", "arch": 87,
        "dtype": "float16", "weights": "float16", "activations": "float16", "entry": "conditional_mlp_up",
        "ptx": {"file": "sm_87/....ptx", "sha256": "..."}, "cubin": {"file": "....cubin", "sha256": "..."},
        "threads": 256, "shared_bytes": 49152, "registers": 128, "spill_bytes": 0,
        "requires": {"D": 16, "h": 16}, "at_least": {"T": 512},
        "arguments": [{"name": "x", "kind": "input", "dtype": "float16"}, {"name": "T", "kind": "size"}, ...],
        "grid": [[{"size": "T", "per": 128}, {"size": "N", "per": 1}, {"size": "h", "per": 128}], [], []]}]}

- ``arguments``: all that is passed, in order. Tensors are pointers without gaps, sizes are int32.
- ``grid``: each extent is the product of ``ceil(size / per)`` over its factors; one of 0 means: do not launch.
- ``requires``: sizes that must be multiples. A kernel that requires anything asks pointers to be multiples of
  16, too, as those of every allocator and of TensorRT are.
- ``at_least``: sizes below which a kernel listed later is faster; it is right for all sizes.
- Kernels of one op, architecture, dtype and weights stand most special first; the first that holds is taken.
- ``activations`` is "int8" where products are of bytes on both sides; without it they are of ``dtype``. Such kernels
  stand after those with int8 weights alone, which suit the same sizes.
- ``dtype`` is "int32" where an op has no numbers of its own, and such a kernel serves every dtype.

This file needs nothing but Python's standard library.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from adaptrt.plugins_trt.errors import KernelError

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
_MAX_BYTES = 64 * 2**20  # of one file; the largest kernels have some hundred kilobytes
_KINDS = ("input", "size", "output")


@dataclass(frozen=True)
class ImageFile:
    """A compiled kernel's file, relative to the manifest's folder, and its SHA-256 in hex."""

    file: str
    sha256: str


@dataclass(frozen=True)
class KernelArgument:
    """One argument of a launch: a pointer ("input", "output"), or an int32 ("size", dtype None)."""

    name: str
    kind: str
    dtype: str | None


@dataclass(frozen=True)
class Factor:
    """One factor of a grid extent: ``ceil(size / per)``."""

    size: str
    per: int


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel; the fields are the manifest's, see above."""

    op: str
    version: int
    variant: str
    arch: int
    dtype: str
    weights: str
    activations: str
    entry: str
    ptx: ImageFile
    cubin: ImageFile
    threads: int
    shared_bytes: int
    registers: int
    spill_bytes: int
    requires: Mapping[str, int]
    at_least: Mapping[str, int]
    arguments: tuple[KernelArgument, ...]
    grid: tuple[tuple[Factor, ...], ...]

    def suits(self, sizes: Mapping[str, int]) -> bool:
        """Whether this kernel is to be taken for these sizes; a size that is not given suits nobody's demand."""
        multiples = all(name in sizes and sizes[name] % multiple == 0 for name, multiple in self.requires.items())
        return multiples and all(name in sizes and sizes[name] >= least for name, least in self.at_least.items())

    def extents(self, sizes: Mapping[str, int]) -> tuple[int, int, int]:
        """The grid for these sizes; an extent of 0 means that there is nothing to launch."""
        x, y, z = (math.prod(-(-sizes[factor.size] // factor.per) for factor in factors) for factors in self.grid)
        return x, y, z


@dataclass(frozen=True)
class Manifest:
    """A validated manifest and the folder it lies in."""

    folder: Path
    triton: str
    source_sha256: str
    kernels: tuple[Kernel, ...]

    def find(
        self,
        op: str,
        arch: int,
        dtype: str,
        sizes: Mapping[str, int],
        weights: str | None = None,
        activations: str | None = None,
    ) -> Kernel:
        """Give the kernel to launch.

        Args:
            op: Name of the op or part.
            arch: Compute capability, 87 for 8.7.
            dtype: Of the op's numbers; any where it has none.
            sizes: By name, at least those of the op's axes that matter.
            weights: Of the op's weights; None is as ``dtype``.
            activations: Of what its products read; None is as ``dtype``.

        Raises:
            KernelError: There is none.
        """
        of_op = [kernel for kernel in self.kernels if kernel.op == op]
        of_arch = [kernel for kernel in of_op if kernel.arch == arch]
        if not of_arch:
            have = ", ".join(sorted({f"{kernel.op} for {kernel.arch}" for kernel in of_op or self.kernels}))
            raise KernelError(f'got no kernel of {op} for {arch}, only {have}; make kernels ARCH="{arch}"')
        wanted = (dtype, weights or dtype, activations or dtype)
        for kernel in of_arch:
            dtypes = (kernel.dtype, kernel.weights, kernel.activations)
            if dtypes in (wanted, ("int32",) * 3) and kernel.suits(sizes):
                return kernel
        have = ", ".join(sorted({_kind(kernel.dtype, kernel.weights, kernel.activations) for kernel in of_arch}))
        raise KernelError(f"got no kernel of {op} for {_kind(*wanted)}, only {have}")

    def read(self, image: ImageFile) -> bytes:
        """Read a kernel's file.

        Raises:
            KernelError: It is missing, or no longer what the manifest was written for.
        """
        return _read_image(self.folder, image)


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest and every file it names.

    Raises:
        KernelError: It is missing, of a newer format, not of this form, or a file's hash differs.
    """
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise KernelError(f"got no {path}, expected the compiled kernels; make kernels") from None
    except (OSError, ValueError, RecursionError) as error:
        raise KernelError(f"cannot read {path} ({' '.join(str(error).split())[:200]}); make kernels again") from None
    if not isinstance(content, dict):
        raise KernelError(f"{path} holds no object; make kernels again")
    version = content.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        remedy = "a newer adaptrt reads it" if isinstance(version, int) and version > FORMAT_VERSION else "make kernels"
        raise KernelError(f"{path} has format_version {version!r}, expected {FORMAT_VERSION}; {remedy}")
    try:
        kernels = tuple(_kernel(entry) for entry in _list(content["kernels"]))
        manifest = Manifest(folder, _text(content["triton"]), _text(content["source_sha256"]), kernels)
    except KeyError as error:
        raise KernelError(f"{path} lacks {error.args[0]!r}; make kernels again") from None
    except (TypeError, ValueError) as error:
        raise KernelError(f"{path} is not of the form expected: {error}; make kernels again") from None
    for kernel in manifest.kernels:
        manifest.read(kernel.ptx)
        manifest.read(kernel.cubin)
    return manifest


def _kind(dtype: str, weights: str, activations: str) -> str:
    """How a message calls a kind of kernels."""
    products = "" if activations == dtype else f" and {activations} activations"
    return f"{dtype} with {weights} weights{products}"


def _kernel(entry: Any) -> Kernel:
    entry = _object(entry)
    grid = tuple(
        tuple(Factor(_text(_object(factor)["size"]), _number(_object(factor)["per"], 1)) for factor in _list(factors))
        for factors in _list(entry["grid"])
    )
    if len(grid) != 3:
        raise ValueError(f"a grid has {len(grid)} extents")
    kernel = Kernel(
        op=_text(entry["op"]),
        version=_number(entry["version"], 1),
        variant=_text(entry["variant"]),
        arch=_number(entry["arch"], 1),
        dtype=_text(entry["dtype"]),
        weights=_text(entry["weights"]),
        activations=_text(entry.get("activations", entry["dtype"])),
        entry=_text(entry["entry"]),
        ptx=_image(entry["ptx"]),
        cubin=_image(entry["cubin"]),
        threads=_number(entry["threads"], 1),
        shared_bytes=_number(entry["shared_bytes"], 0),
        registers=_number(entry["registers"], 0),
        spill_bytes=_number(entry["spill_bytes"], 0),
        requires={name: _number(multiple, 1) for name, multiple in _object(entry["requires"]).items()},
        at_least={name: _number(least, 0) for name, least in _object(entry["at_least"]).items()},
        arguments=tuple(_argument(_object(argument)) for argument in _list(entry["arguments"])),
        grid=grid,
    )
    sizes = {argument.name for argument in kernel.arguments if argument.kind == "size"}
    named = {factor.size for factors in grid for factor in factors} | {*kernel.requires, *kernel.at_least}
    if not named <= sizes:
        raise ValueError(
            f"{kernel.entry} names {', '.join(sorted(named - sizes))}, which is no size among its arguments"
        )
    return kernel


def _argument(entry: dict[str, Any]) -> KernelArgument:
    kind = _text(entry["kind"])
    if kind not in _KINDS:
        raise ValueError(f"an argument has kind {kind!r}")
    return KernelArgument(_text(entry["name"]), kind, None if kind == "size" else _text(entry["dtype"]))


def _image(entry: Any) -> ImageFile:
    image = ImageFile(_text(_object(entry)["file"]), _text(_object(entry)["sha256"]))
    path = PurePosixPath(image.file)
    if path.is_absolute() or ".." in path.parts or "\\" in image.file or "\0" in image.file or not path.parts:
        raise ValueError(f"file {image.file!r} is not inside the manifest's folder")
    return image


def _read_image(folder: Path, image: ImageFile) -> bytes:
    path = folder / image.file
    try:
        if folder.resolve() not in path.resolve().parents:
            raise KernelError(f"{path} leads out of {folder}; make kernels again")
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise KernelError(f"{path} has {size} bytes, expected at most {_MAX_BYTES}; make kernels again")
        content = path.read_bytes()
    except OSError as error:
        raise KernelError(
            f"cannot read {path} ({error.strerror}), which the manifest names; make kernels again"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != image.sha256:
        raise KernelError(
            f"{path} has SHA-256 {digest}, expected {image.sha256[:64]} of the manifest; make kernels again"
        )
    return content


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"got {type(value).__name__} where text belongs")
    return value


def _number(value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        raise ValueError(f"got {str(value)[:40]} where a whole number from {least} belongs")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"got {type(value).__name__} where a list belongs")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"got {type(value).__name__} where an object belongs")
    return value
