"""Tile sizes, warps and pipeline depth of every kernel, per family of architectures.

A choice is a `Configuration`: the constants of the kernel, and the sizes from which on it is better than
those after it. Lists go from most special to most general; the last one takes everything.

How the tiles of the two GEMMs were chosen (by calculation and by what the assembler reports: registers,
spills, shared memory; they have not been timed on every family, see README.md):

- Hopper, large batches: 128 x 128 x 64, 8 warps, 3 stages. Two warpgroups issue wgmma m64n128k16 from shared
  memory. 96 KB of stages and at most 128 registers a thread let two CTAs share an SM; a depth of 768 is 12
  steps only, and the second CTA computes while the first one fills its pipeline, applies GELU and stores.
  128 x 256 x 64 moves a quarter less through shared memory per FLOP but has an SM for itself, and at 8,192
  tokens and 768 outputs it makes 192 tiles, one and a half waves of 132 SMs; 128 x 128 makes 384, 2.9
  waves.
- Hopper, smaller batches: the time of Down is that of its deepest tile once all tiles are at work together.
  64 rows instead of 128, and for Down 64 columns, give 300 tiles at 1,576 tokens and 768 outputs where 128 x
  128 gives 78. Steps of 128 halve the number of steps in that deepest tile.
- Ampere (Orin, 16 SMs): mma.sync from registers. 128 x 128 x 32, 8 warps (4 spill), 4 stages, 48 KB; smaller
  batches 64 x 64 x 64. Orin has an eighth of an H100's SMs, so the larger tiles pay from fewer tokens on.
- Blackwell, data centre and Thor: as Hopper, the sums in tensor memory. Blackwell, consumer: shared memory
  of 100 KB and mma.sync, hence as Ampere.
- int8 weights and activations: one tile for all, not timed; products of bytes are deeper per instruction, hence steps
  of 128.
- float32 is computed exactly, without TF32, by FMA units: 64 x 64 x 16, bound by those whatever the tile.
- The gated up-projection has two sums a tile, hence half the columns of the other's tiles, and as many registers.
- Sizes that are no multiples of 16 cannot be copied asynchronously in 16-byte pieces; that is a way to be
  right, not fast, and has one small tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from adaptrt.plugins_trt.errors import KernelError


@dataclass(frozen=True)
class Configuration:
    """How one kernel is compiled.

    Attributes:
        name: What distinguishes it from the others of its kernel.
        blocks: The kernel's compile-time constants.
        warps: Warps of a CTA.
        stages: Steps whose operands are in shared memory at one time.
        at_least: Sizes from which on it is the better choice; it is right for any.
    """

    name: str
    blocks: Mapping[str, int]
    warps: int
    stages: int
    at_least: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def suits(self, sizes: Mapping[str, int]) -> bool:
        """Whether all sizes are large enough."""
        return all(sizes[name] >= least for name, least in self.at_least.items())


FAMILIES: dict[int, str] = {
    80: "ampere",
    86: "ampere",
    87: "ampere",
    89: "ampere",
    90: "hopper",
    100: "blackwell",
    103: "blackwell",
    110: "blackwell",
    120: "blackwell-consumer",
    121: "blackwell-consumer",
}
"""Compute capabilities that the kernels are made for, 87 for 8.7."""


def _up(
    name: str, tile: tuple[int, int, int], warps: int, stages: int, *, tokens: int = 0, group: int = 8
) -> Configuration:
    blocks = dict(zip(("BLOCK_T", "BLOCK_H", "BLOCK_D"), tile, strict=True))
    return Configuration(name, {**blocks, "GROUP_T": group}, warps, stages, {"T": tokens} if tokens else {})


def _half_as_wide(choice: Configuration) -> Configuration:
    """The same with half the columns of each of two sums."""
    return replace(choice, blocks={**choice.blocks, "BLOCK_H": choice.blocks["BLOCK_H"] // 2})


def _down(
    name: str, tile: tuple[int, int, int], warps: int, stages: int, *, tokens: int = 0, group: int = 8
) -> Configuration:
    blocks = dict(zip(("BLOCK_T", "BLOCK_E", "BLOCK_H"), tile, strict=True))
    return Configuration(name, {**blocks, "GROUP_T": group}, warps, stages, {"T": tokens} if tokens else {})


@dataclass(frozen=True)
class Configurations:
    """All configurations of one kernel.

    Attributes:
        general: Takes every size of every dtype that the others are not for.
        families: Those for aligned sizes in 16 bits, by family of architectures; the most special first, the last
            one takes every size. Empty: the kernel has ``general`` alone.
        exact: For float32.
        widened: For int8 weights.
        bytes_: For int8 weights and activations of aligned sizes.
        bytes_any: For those of any size.
        candidates: What ``make gpu-check TUNE=1`` times on the device at hand, to correct the table by.
    """

    general: Configuration
    families: Mapping[str, tuple[Configuration, ...]] = field(default_factory=lambda: MappingProxyType({}))
    exact: Configuration | None = None
    widened: Configuration | None = None
    bytes_: Configuration | None = None
    bytes_any: Configuration | None = None
    candidates: tuple[Configuration, ...] = ()

    def of(self, arch: int, dtype: str, weights: str, activations: str, *, aligned: bool) -> tuple[Configuration, ...]:
        """Give those for one case, the most special first; the last one takes every size.

        Args:
            arch: Compute capability, 87 for 8.7.
            dtype: Of the op's numbers.
            weights: Of the op's weights: ``dtype`` or "int8".
            activations: Of what products read: ``dtype``, or "int8" beside int8 weights.
            aligned: Whether the sizes that the record names are multiples of 16.

        Raises:
            KernelError: The architecture is unknown.
        """
        family = family_of(arch)
        of_bytes = self.bytes_ if aligned else self.bytes_any
        if activations == "int8" and of_bytes is not None:
            return (of_bytes,)
        if dtype == "float32" and self.exact is not None:
            return (self.exact,)
        if not aligned or not self.families:
            return (self.general,)
        if weights == "int8" and self.widened is not None:
            return (self.widened,)
        return self.families[family]


ORDER = Configurations(Configuration("tokens", {"BLOCK_T": 512, "BLOCK_N": 8}, 16, 1))
SELECT = Configurations(Configuration("tokens", {"BLOCK_T": 256, "BLOCK_D": 64}, 8, 1))

_EXACT = (64, 64, 16)  # float32
_WIDENED = (64, 64, 64)  # int8 weights
_BYTES = (64, 64, 128)  # int8 weights and activations: as many bytes a step as 64 numbers of 16 bits
_UNALIGNED = (64, 64, 32)
_UNALIGNED_BYTES = (64, 32, 32)  # twice the columns spill on sm_120

_UP = {
    "hopper": (
        _up("large", (128, 128, 64), 8, 3, tokens=4096),
        _up("small", (64, 128, 64), 4, 3),
    ),
    "ampere": (
        _up("large", (128, 128, 32), 8, 4, tokens=512),
        _up("small", (64, 64, 64), 4, 3),
    ),
    "blackwell": (
        _up("large", (128, 128, 64), 8, 3, tokens=2048),
        _up("small", (64, 128, 64), 4, 3),
    ),
    "blackwell-consumer": (
        _up("large", (128, 128, 32), 8, 4, tokens=2048),
        _up("small", (64, 64, 64), 4, 3),
    ),
}
_DOWN = {
    "hopper": (
        _down("large", (128, 128, 64), 8, 3, tokens=4096),
        _down("small", (64, 64, 128), 4, 3),
    ),
    "ampere": (
        _down("large", (128, 128, 32), 8, 4, tokens=1024),
        _down("small", (64, 64, 64), 4, 3),
    ),
    "blackwell": (
        _down("large", (128, 128, 64), 8, 3, tokens=2048),
        _down("small", (64, 64, 128), 4, 3),
    ),
    "blackwell-consumer": (
        _down("large", (128, 128, 32), 8, 4, tokens=4096),
        _down("small", (64, 64, 64), 4, 3),
    ),
}
UP = Configurations(
    general=_up("unaligned", _UNALIGNED, 8, 2),
    families=_UP,
    exact=_up("exact", _EXACT, 8, 2),
    widened=_up("widened", _WIDENED, 8, 3),
    bytes_=_up("bytes", _BYTES, 8, 3),
    bytes_any=_up("unaligned-bytes", _UNALIGNED_BYTES, 8, 2),
    candidates=(
        _up("128x128x64w8s3", (128, 128, 64), 8, 3),
        _up("128x128x64w4s3", (128, 128, 64), 4, 3),
        _up("128x128x64w8s4", (128, 128, 64), 8, 4),
        _up("128x256x64w8s3", (128, 256, 64), 8, 3),
        _up("256x128x64w8s3", (256, 128, 64), 8, 3),
        _up("128x64x64w4s4", (128, 64, 64), 4, 4),
        _up("64x256x64w4s3", (64, 256, 64), 4, 3),
        _up("64x128x64w4s3", (64, 128, 64), 4, 3),
        _up("64x128x64w4s4", (64, 128, 64), 4, 4),
        _up("64x64x64w4s4", (64, 64, 64), 4, 4),
        _up("128x128x32w4s4", (128, 128, 32), 4, 4),
    ),
)
GATED_UP = Configurations(
    general=_up("unaligned", _UNALIGNED, 8, 2),
    families={family: tuple(_half_as_wide(choice) for choice in choices) for family, choices in _UP.items()},
    exact=_up("exact", _EXACT, 8, 2),
    widened=_up("widened", _WIDENED, 8, 3),
    bytes_=_up("bytes", _BYTES, 8, 3),
    bytes_any=_up("unaligned-bytes", _UNALIGNED_BYTES, 8, 2),
    candidates=tuple(_half_as_wide(choice) for choice in UP.candidates),
)
DOWN = Configurations(
    general=_down("unaligned", _UNALIGNED, 8, 2),
    families=_DOWN,
    exact=_down("exact", _EXACT, 8, 2),
    widened=_down("widened", _WIDENED, 8, 3),
    bytes_=_down("bytes", _BYTES, 8, 3),
    bytes_any=_down("unaligned-bytes", _UNALIGNED_BYTES, 8, 2),
    candidates=(
        _down("128x128x64w8s3", (128, 128, 64), 8, 3),
        _down("128x128x64w4s3", (128, 128, 64), 4, 3),
        _down("128x128x64w8s4", (128, 128, 64), 8, 4),
        _down("128x256x64w8s3", (128, 256, 64), 8, 3),
        _down("128x64x64w4s4", (128, 64, 64), 4, 4),
        _down("64x128x64w4s4", (64, 128, 64), 4, 4),
        _down("64x128x128w4s3", (64, 128, 128), 4, 3),
        _down("64x64x128w4s3", (64, 64, 128), 4, 3),
        _down("64x64x64w4s4", (64, 64, 64), 4, 4),
        _down("64x64x64w4s6", (64, 64, 64), 4, 6),
        _down("128x128x32w4s4", (128, 128, 32), 4, 4),
    ),
)


def family_of(arch: int) -> str:
    """Give the family of an architecture.

    Raises:
        KernelError: There is none in the table.
    """
    if arch not in FAMILIES:
        known = ", ".join(map(str, FAMILIES))
        raise KernelError(f"got architecture {arch}, expected one of {known}; Orin is 87, Thor is 110")
    return FAMILIES[arch]
