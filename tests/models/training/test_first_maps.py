"""Maps of early vectors and dropped tokens start at the least squares of what the dense network computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from adaptrt.models import Network, ViTConfig
from adaptrt.models.adaptation import adapt
from adaptrt.models.data.samples import Samples
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.training.first_maps import LeastSquares, fit_first_maps

SHAPE = ViTConfig(
    image_size=8, patch_size=2, width=16, depth=3, heads=2, ffn_width=32, classes=3, class_token=False, task="embedding"
)


@pytest.fixture
def dense() -> Network:
    torch.manual_seed(0)
    model = Network.from_config(SHAPE).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def samples() -> Samples:
    return Samples({"pixels": torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()})


def far(model: Network, dense: Network, samples: Samples, price: float) -> list[float]:
    """Mean distance of every stage's vector from the dense network's."""
    inputs = {"pixels": torch.from_numpy(samples.arrays["pixels"][200:])}
    with torch.no_grad():
        wanted = dense.run(inputs, {}).outputs["sentence_embedding"]
        out = model.eval().run(inputs, {"price": torch.tensor([price])})
    found: list[Tensor] = [stage.outputs["sentence_embedding"] for stage in out.stages]
    return [float((each - wanted).square().sum(1).mean()) for each in found]


def test_least_squares_finds_a_linear_map() -> None:
    wanted, found = nn.Linear(6, 4), nn.Linear(6, 4)
    fit, generator = LeastSquares(6, 4), torch.Generator().manual_seed(2)
    for _ in range(3):
        x = torch.randn(500, 6, generator=generator)
        fit.add(x, wanted(x).detach())
    fit.write_to(found)
    torch.testing.assert_close(found.weight, wanted.weight, atol=5e-3, rtol=0)
    torch.testing.assert_close(found.bias, wanted.bias, atol=5e-3, rtol=0)


def test_early_vectors_and_means_of_few_tokens_are_nearer_then(dense: Network, samples: Samples) -> None:
    families = {"pruning": PruningConfig((0,), averages_dropped=True), "exits": ExitConfig((1, 2), "certainty")}
    model = adapt(dense, samples.batch(samples.order(32, 0, 0)[0]), **families)  # type: ignore[arg-type]
    before, cut_before = far(model, dense, samples, 0.0), far(model, dense, samples, 1.0)
    told: list[float] = []
    model.train()
    fit_first_maps(model, samples, progress=told.append)
    assert model.training and told[-1] == 1 and told == sorted(told)
    after, cut_after = far(model, dense, samples, 0.0), far(model, dense, samples, 1.0)
    assert after[0] < 0.7 * before[0] and after[1] < 0.7 * before[1]
    assert after[2] == before[2] < 1e-9  # the last head needs no map, and everything runs
    assert cut_after[2] < 0.7 * cut_before[2]


def test_networks_without_maps_stay_as_they_are(dense: Network, samples: Samples) -> None:
    model = dense.with_families([PruningConfig((0,))])
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    fit_first_maps(model, samples)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
