"""A small model and small data, so that the tests of training take seconds."""

import numpy as np
import pytest
import torch

from adaptrt.models import ACMConfig, Network, ViTConfig
from adaptrt.models.data.split import DataSplits, Split

TINY = ViTConfig(image_size=4, patch_size=2, width=16, depth=2, heads=2, ffn_width=32, classes=3)


def with_acm(**changes: object) -> ViTConfig:
    import dataclasses

    return dataclasses.replace(TINY, acm=ACMConfig(gate_width=4, **changes))  # type: ignore[arg-type]


@pytest.fixture
def dense() -> Network:
    torch.manual_seed(0)
    return Network.from_config(TINY).eval()


@pytest.fixture(params=["price", "argmax", "price with projections", "argmax with projections"])
def adaptive(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    gate, _, projections = str(request.param).partition(" with ")
    return Network.from_config(with_acm(learners=4, gate=gate, projections=bool(projections))).eval()


@pytest.fixture
def stripes() -> DataSplits:
    """Three kinds of 4 × 4 images: stripes across, stripes down, noise."""
    generator = np.random.default_rng(0)

    def split(count: int) -> Split:
        labels = generator.integers(0, 3, count)
        images = generator.random((count, 1, 4, 4), dtype=np.float32) * 0.3
        images[labels == 0, :, ::2] += 0.7
        images[labels == 1, :, :, ::2] += 0.7
        return Split(images, labels.astype(np.int64))

    return DataSplits("stripes", train=split(96), calibration=split(48), test=split(48))
