"""From images to tokens: one linear map per patch, or a few strided convolutions."""

from __future__ import annotations

from torch import Tensor, nn


class PatchStem(nn.Linear):
    """One linear map of each patch (arXiv 2010.11929, section 3.1)."""

    def __init__(self, channels: int, image_size: int, patch_size: int, width: int) -> None:
        super().__init__(channels * patch_size**2, width)
        self.channels, self.patch_size, self.side = channels, patch_size, image_size // patch_size

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.side**2 * self.in_features * self.out_features

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, patches, D]``."""
        p = self.patch_size
        patches = pixels.reshape(-1, self.channels, self.side, p, self.side, p).permute(0, 2, 4, 1, 3, 5)
        return super().forward(patches.reshape(-1, self.side**2, self.in_features))


class ConvolutionalStem(nn.Module):
    """3 × 3 convolutions of stride 2, as many as the patch size is halvings (arXiv 2106.14881).

    Trains in fewer epochs than patches do. The width doubles towards the last convolution; a
    normalisation makes features as large as the position embedding expects.
    """

    def __init__(self, channels: int, image_size: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.side, self.macs = image_size // patch_size, 0
        layers: list[nn.Module] = []
        size, before = image_size, channels
        while size > self.side:
            size //= 2
            after = max(width * self.side // size, 1) if size > self.side else width
            self.macs += size**2 * 9 * before * after
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
            before = after
        self.layers = nn.Sequential(*layers[:-1])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, patches, D]``."""
        tokens: Tensor = self.norm(self.layers(pixels).flatten(2).transpose(1, 2))
        return tokens


STEMS: dict[str, type[PatchStem] | type[ConvolutionalStem]] = {"patch": PatchStem, "convolution": ConvolutionalStem}
