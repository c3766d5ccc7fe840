"""Augmentation of small images: random affine maps, drawn from an explicit generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Ranges of a random affine map.

    Attributes:
        rotation: Largest angle, degrees.
        scale: Largest relative change of size, per axis.
        shift: Largest shift, pixels.
        shear: Largest shear.
        noise: Standard deviation of added noise (pixels are in 0..1).
        flip: Whether half of the images are mirrored left to right.
    """

    rotation: float = 8.0
    scale: float = 0.1
    shift: float = 0.6
    shear: float = 0.1
    noise: float = 0.02
    flip: bool = False

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Transform each image of ``[B, C, H, W]`` on its own; the border is filled with zeros."""

        def uniform(limit: float, *shape: int) -> Tensor:
            return (torch.rand(*shape, generator=generator) * 2 - 1) * limit

        count, size = pixels.shape[0], pixels.shape[-1]
        if not any((self.rotation, self.scale, self.shift, self.shear)):  # nothing to interpolate
            if self.flip:
                mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
                pixels = torch.where(mirrored, pixels.flip(3), pixels)
            return (pixels + torch.randn(pixels.shape, generator=generator) * self.noise).clamp(0, 1)
        angle = uniform(math.radians(self.rotation), count)
        stretch = 1 + uniform(self.scale, count, 2)
        shear = uniform(self.shear, count)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        matrix = torch.zeros(count, 2, 3)
        matrix[:, 0, 0] = cosine * stretch[:, 0]
        matrix[:, 0, 1] = -sine * stretch[:, 1] + shear
        matrix[:, 1, 0] = sine * stretch[:, 0]
        matrix[:, 1, 1] = cosine * stretch[:, 1]
        matrix[:, :, 2] = uniform(2 * self.shift / size, count, 2)
        if self.flip:
            matrix[:, :, 0] *= torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)[:, None]
        grid = functional.affine_grid(matrix, list(pixels.shape), align_corners=False)
        moved = functional.grid_sample(pixels, grid, align_corners=False)
        noise = torch.randn(moved.shape, generator=generator) * self.noise
        return (moved + noise).clamp(0, 1)
