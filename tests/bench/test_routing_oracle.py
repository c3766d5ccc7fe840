"""A router beside the best routes: the hull, forced routes, and the order that the figures must have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from adaptrt.bench.errors import BenchError
from adaptrt.bench.routing_oracle import RouteTrials, least_loss, main, search
from adaptrt.models import ACMConfig, Network, ViTConfig, save_model
from adaptrt.models.adaptation import adapt
from adaptrt.models.data.split import Split
from adaptrt.models.families.routed_ffn import RoutedFFNConfig
from adaptrt.models.tasks import CLASSIFICATION

SHAPE = ViTConfig(image_size=8, patch_size=4, width=8, depth=2, heads=2, ffn_width=16, classes=3)


@pytest.fixture
def split() -> Split:
    generator = np.random.default_rng(0)
    return Split(generator.random((6, 1, 8, 8), dtype=np.float32), generator.integers(0, 3, 6))


@pytest.fixture
def networks(split: Split) -> tuple[Network, Network]:
    torch.manual_seed(0)
    dense = Network.from_config(SHAPE).eval()
    for parameter in dense.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    routed = adapt(dense, {"pixels": torch.from_numpy(split.inputs)}, routed=RoutedFFNConfig(0.25)).eval()
    for gate in routed.gates():
        nn.init.normal_(gate.score.weight, std=0.7)  # type: ignore[union-attr, arg-type]
    return dense, routed


def test_least_loss_is_on_the_hull() -> None:
    loss = np.array([[3.0, 2.0], [1.0, 2.0], [1.0, 0.0]])  # routes by samples
    work = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    assert least_loss(loss, work, 0.0) == 2.5
    assert least_loss(loss, work, 1.0) == 0.5  # more work than any needs
    assert least_loss(loss, work, 0.75) == 0.5  # the first stops half-way, the second goes on
    assert least_loss(loss, work, 0.25) == pytest.approx(1.5)
    assert least_loss(loss, work, 0.5) < loss[1].mean()


def test_forced_routes_are_those_that_are_counted(networks: tuple[Network, Network], split: Split) -> None:
    dense, routed = networks
    trials = RouteTrials(routed, split, CLASSIFICATION)
    assert len(trials.patterns) == 9
    with torch.no_grad():
        logits = dense.run({"pixels": torch.from_numpy(split.inputs)}, {}).logits.numpy()
    wanted = CLASSIFICATION.judge({"logits": logits}, split.labels).loss
    rows = list(range(6))
    loss, work = trials.along(np.full((2, 6, 1), 2, np.int32), rows)
    np.testing.assert_allclose(loss, wanted, atol=1e-5)
    own_loss, own_work, routes = trials.at_price(0.5, rows)
    assert len(np.unique(routes)) > 1
    again_loss, again_work = trials.along(routes, rows)
    np.testing.assert_allclose(again_loss, own_loss, atol=1e-6)
    np.testing.assert_allclose(again_work, own_work, atol=1e-7)
    assert (own_work < work).all()
    assert not np.allclose(trials.along(np.zeros_like(routes), rows)[0], own_loss, atol=1e-3)


def test_the_oracle_is_the_best(networks: tuple[Network, Network], split: Split) -> None:
    told: list[float] = []
    trials = RouteTrials(networks[1], split, CLASSIFICATION)
    result = search(trials, "tiny", (0.3, 0.5, 0.7), token_samples=2, on_done=told.append)
    assert told[-1] == 1 and (result.routes, result.samples) == (9, 6)
    for row in result.rows:
        assert row.sample_oracle <= row.single + 1e-9 and row.gap == row.router - row.sample_oracle
        assert row.token_oracle is not None and 0 < (row.token_oracle_work or 0) <= 1.1
    assert len({row.work for row in result.rows}) == 3


def test_from_the_command_line(networks: tuple[Network, Network], split: Split, tmp_path: Path) -> None:
    dense, routed = networks
    save_model(tmp_path / "model", routed, dense, None, torch.float32)
    np.savez(tmp_path / "data.npz", **{
        f"{part}_{name}": array
        for part in ("calibration", "test")
        for name, array in (("inputs", split.inputs), ("labels", split.labels))
    })  # fmt: skip
    words = [str(tmp_path / "model"), "--data", str(tmp_path / "data.npz"), "--token-samples", "0", "--price", "0.5"]
    run = CliRunner().invoke(main, [*words, "--json", str(tmp_path / "oracle.json")], catch_exceptions=False)
    assert run.exit_code == 0 and "sample oracle" in run.output and (tmp_path / "oracle.json").is_file()


def test_networks_without_routes_are_refused(networks: tuple[Network, Network], split: Split) -> None:
    acm = adapt(networks[0], {"pixels": torch.from_numpy(split.inputs)}, acm=ACMConfig(2))
    with pytest.raises(BenchError, match="expected some; adapt one with --families routes"):
        RouteTrials(acm, split, CLASSIFICATION)
