"""A dense network made adaptive without labels: what is learned, going on after an interruption, and refusals."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptrt.models.adaptation import adapt
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.samples import Samples
from adaptrt.models.data.split import DataError
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from adaptrt.models.training import activations, teacher
from adaptrt.models.training.activations import ActivationError
from adaptrt.models.training.adapting import AdaptSettings, adapt_network, joint_phase
from adaptrt.models.training.phase import CheckpointError, TrainingError
from adaptrt.models.training.steps import StepPhase, run_steps

pytestmark = pytest.mark.slow("trains")

TEXT = TextEncoderConfig(width=32, depth=3, heads=2, ffn_width=64, vocabulary=50, length=12, task="embedding")
SETTINGS = AdaptSettings(
    acm=ACMConfig(learners=2),
    exits=ExitConfig((1,), "certainty"),
    pruning=PruningConfig((1,)),
    joint_steps=12,
    distil_steps=6,
    gate_steps=4,
    tokens=300,
    layer_batch=64,
    batch=8,
)


def quiet(_: Any) -> None:
    """Nobody looks."""


def dense_of(config: Any = TEXT) -> Network:
    torch.manual_seed(0)
    return Network.from_config(config).eval()


def samples_of(dense: Network, count: int = 60) -> Samples:
    torch.manual_seed(1)
    return Samples.of(dense, {name: tensor.numpy() for name, tensor in dense.example_inputs(count).items()})


def test_everything_running_is_nearly_the_dense_network(tmp_path: Path) -> None:
    dense = dense_of()
    samples = samples_of(dense)
    adaptive = adapt_network(dense, samples, SETTINGS, tmp_path, quiet)
    inputs = samples.batch(np.arange(32))
    with torch.no_grad():
        wanted = dense.run(inputs, {})
        shares = {}
        for price in (0.0, 1.0):
            out = adaptive.run(inputs, {"price": torch.tensor([price])})
            shares[price] = float(out.macs_fraction.mean())
            near = float(teacher.likeness(out.outputs, wanted.outputs).mean())
            assert near > (0.98 if price == 0 else 0.3), price
    assert shares[1.0] < 0.7 * shares[0.0]
    log = json.loads((tmp_path / "losses.json").read_text())
    assert set(log) == {"joint", *(f"{kind}{block}" for kind in ("distil", "gate") for block in range(3))}


def test_a_classifier_of_pictures(tmp_path: Path) -> None:
    dense = dense_of(ViTConfig(width=32, depth=2, heads=2, ffn_width=64))
    settings = dataclasses.replace(SETTINGS, exits=ExitConfig((1,)), pruning=PruningConfig((0,)))
    adaptive = adapt_network(dense, samples_of(dense), settings, tmp_path, quiet)
    assert {family.name for family in adaptive.families} == {"acm", "pruning", "exits"}


class StoppedError(Exception):
    """An interruption."""


@pytest.mark.parametrize("phase", ["distil1", "gate2", "joint"])
def test_an_interrupted_run_ends_as_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    monkeypatch.setattr("adaptrt.models.training.steps.CHECKPOINT_SECONDS", 0.0)
    dense = dense_of()
    samples = samples_of(dense)
    whole = adapt_network(dense, samples, SETTINGS, tmp_path / "whole", quiet)

    def stop(progress: Any) -> None:
        if progress.phase == phase and progress.step == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        adapt_network(dense, samples, SETTINGS, tmp_path / "parts", stop)
    again = adapt_network(dense, samples, SETTINGS, tmp_path / "parts", quiet)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    dense = dense_of()
    samples = samples_of(dense)
    adapt_network(dense, samples, SETTINGS, tmp_path, quiet)
    with pytest.raises(CheckpointError, match="other settings"):
        adapt_network(dense, samples, dataclasses.replace(SETTINGS, seed=1), tmp_path, quiet)


def test_the_time_sets_the_steps_and_too_little_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptrt.models.training.time_plan._seconds", lambda *_: 100.0)
    dense = dense_of()
    settings = dataclasses.replace(SETTINGS, hours=0.7)
    adapt_network(dense, samples_of(dense), settings, tmp_path / "enough", quiet)
    assert json.loads((tmp_path / "enough" / "plan.json").read_text())["joint_steps"] in (21, 22)
    assert json.loads((tmp_path / "enough" / "layers.json").read_text()) == {"distil_steps": 1, "gate_steps": 1}
    with pytest.raises(TrainingError, match=r"got 0.1 hours, expected at least 0.6"):
        adapt_network(dense, samples_of(dense), dataclasses.replace(settings, hours=0.1), tmp_path / "short", quiet)


def test_too_few_samples(tmp_path: Path) -> None:
    dense = dense_of()
    with pytest.raises(ValueError, match="got 5 samples, expected at least one batch of 8"):
        adapt_network(dense, samples_of(dense, 5), SETTINGS, tmp_path, quiet)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"acm": None, "exits": None, "pruning": None}, "no family"),
        ({"pruning": PruningConfig((1,), "fixed")}, "expected 'price'"),
        ({"acm": ACMConfig(gate="argmax")}, "price gates"),
        ({"batch": 10}, "a multiple of 4 prices"),
    ],
)
def test_settings_that_do_not_fit(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(SETTINGS, **change)


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    weight = torch.nn.Linear(1, 1)
    phase = StepPhase(
        "odd", weight, [{"params": [*weight.parameters()], "lr": 0.1}], 2, lambda *_: [weight.weight.sum() / 0]
    )
    with pytest.raises(TrainingError, match="step 1 of phase odd"):
        run_steps(phase, seed=0, checkpoint=tmp_path / "odd.pt", report=quiet)
    assert not (tmp_path / "odd.pt").exists() and weight.weight.isfinite().all()


# ---- activations ----


def test_activations_are_what_reaches_the_ffns(tmp_path: Path) -> None:
    from adaptrt.models.adaptation import layer_inputs

    dense = dense_of()
    samples = samples_of(dense, 40)
    kept = activations.record(tmp_path / "a", dense, samples, tokens=150, batch=8)
    assert len(kept) == 150
    first = list(layer_inputs(dense, samples.batch(samples.order(8, 0, 0)[0])))
    for block in range(3):
        stored = np.load(tmp_path / "a" / f"block{block}.npy")
        wanted = first[block].ffn.numpy()[:150]
        np.testing.assert_allclose(stored[: len(wanted)], wanted, atol=2e-3, rtol=1e-3)
        drawn = kept.draw(block, 20, torch.Generator().manual_seed(0)).numpy()
        assert all((np.abs(stored.astype(np.float32) - row).max(1) == 0).any() for row in drawn)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is mapped")
def test_activations_are_mapped_while_they_are_read_only(tmp_path: Path) -> None:
    dense = dense_of()
    kept = activations.record(tmp_path / "a", dense, samples_of(dense), tokens=100)
    held = kept.of_block(1)
    assert "block1.npy" in Path("/proc/self/maps").read_text()
    del held
    kept.draw(1, 20, torch.Generator().manual_seed(0))
    assert "block1.npy" not in Path("/proc/self/maps").read_text()


def test_no_room_for_activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = dense_of()
    with pytest.raises(ActivationError, match="GB free at"):
        activations.record(tmp_path / "a", dense, samples_of(dense), tokens=10**13)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adaptrt.models.training.activations.write_atomically", full)
    with pytest.raises(ActivationError, match="No space left"):
        activations.record(tmp_path / "a", dense, samples_of(dense), tokens=100)
    assert not (tmp_path / "a").exists()


# ---- samples ----


def test_batches_are_cut_to_their_longest_text() -> None:
    dense = dense_of()
    samples = samples_of(dense, 64)
    order = samples.order(8, 0, 0)
    assert sorted(np.concatenate(order).tolist()) == list(range(64))
    assert [rows.tolist() for rows in samples.order(8, 0, 0)] == [rows.tolist() for rows in order]
    assert [rows.tolist() for rows in samples.order(8, 0, 1)] != [rows.tolist() for rows in order]
    for rows in order:
        batch = samples.batch(rows)
        real = samples.arrays["mask"][rows].sum(1).max()
        assert batch["tokens"].shape == (8, real) and batch["mask"].dtype == torch.bool


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: arrays.pop("mask"), "got samples of tokens, expected tokens, mask"),
        (lambda arrays: arrays.update(mask=arrays["mask"][:3]), "expected as many of each input"),
        (lambda arrays: arrays.update(tokens=arrays["tokens"][:, :, None]), r"got tokens of shape \[6, 12, 1\]"),
    ],
)
def test_samples_that_do_not_fit(change: Any, said: str) -> None:
    dense = dense_of()
    arrays = {name: tensor.numpy() for name, tensor in dense.example_inputs(6).items()}
    change(arrays)
    with pytest.raises(DataError, match=said):
        Samples.of(dense, arrays)


# ---- the distance from the teacher ----


def test_distances() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert float(teacher.distance({"logits": logits}, {"logits": logits})) == pytest.approx(0, abs=1e-6)
    assert float(teacher.distance({"logits": logits}, {"logits": logits.flip(1)})) > 0.3
    assert teacher.likeness({"logits": logits}, {"logits": logits.flip(1)}).tolist() == [0, 0]
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    other = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    assert float(teacher.distance({"sentence_embedding": vectors}, {"sentence_embedding": other})) == pytest.approx(0.5)
    assert teacher.likeness({"sentence_embedding": vectors}, {"sentence_embedding": other}).tolist() == [0, 1]


def test_padding_does_not_count() -> None:
    hidden, other = torch.ones(2, 3, 4), torch.ones(2, 3, 4)
    other[:, 2] = -1
    real = torch.tensor([[True, True, False], [True, True, False]])
    assert float(teacher.distance({"last_hidden_state": hidden}, {"last_hidden_state": other}, real)) < 1e-6
    assert float(teacher.distance({"last_hidden_state": hidden}, {"last_hidden_state": other})) > 0.5
    assert teacher.likeness({"last_hidden_state": hidden}, {"last_hidden_state": other}, real).tolist() == [1, 1]


def test_the_joint_loss_falls_with_the_hidden_states(tmp_path: Path) -> None:
    del tmp_path
    dense = dense_of()
    samples = samples_of(dense)
    families = {"acm": SETTINGS.acm, "exits": SETTINGS.exits, "pruning": SETTINGS.pruning}
    adaptive = adapt(dense, samples.batch(np.arange(16)), **families).train()  # type: ignore[arg-type]
    phase = joint_phase(dense, adaptive, samples, SETTINGS, 4)

    def loss() -> float:
        torch.manual_seed(0)
        return sum(float(part.detach()) for part in phase.losses(0, torch.Generator().manual_seed(0)))

    near = loss()
    with torch.no_grad():
        for block in adaptive.blocks:
            block.ffn.learners.w2.mul_(-5)
    assert loss() > near
