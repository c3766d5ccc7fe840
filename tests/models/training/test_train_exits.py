"""Training of exit heads: alone or with their network, resumable, for networks of any kind."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.adapters.resnet import ResNet, ResNetConfig, with_exits
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.split import DataSplits, load_data
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import CRITERIA, ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from adaptrt.models.staged_network import StagedNetwork, StageOutput
from adaptrt.models.training.phase import CheckpointError, Progress
from adaptrt.models.training.train_exits import ExitTraining, exit_loss, train_network

pytestmark = pytest.mark.slow("trains")

SMALL = ResNetConfig(image_size=8, widths=(8, 16), blocks=(2, 1), mean=0.3, std=0.37)
TINY = ResNetConfig(image_size=4, widths=(4, 6), blocks=(1, 1), classes=3, mean=0.4, std=0.4)
SHORT = ExitTraining(epochs=2, batch=16, rate=1e-2)


def ignore(_: Progress) -> None:
    return None


def everything(network: nn.Module) -> dict[str, Tensor]:
    """Weights and statistics, copied."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before: dict[str, Tensor], network: nn.Module) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def outputs_on(network: StagedNetwork, inputs: Tensor) -> list[StageOutput]:
    with torch.no_grad():
        return network.run_stages({"pixels": inputs}, {})


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = load_data("digits")
    assert data.train is not None
    arrays = (data.train.inputs, data.train.labels, data.test.inputs, data.test.labels)
    return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]


@pytest.fixture
def tensors(stripes: DataSplits) -> tuple[Tensor, Tensor]:
    assert stripes.train is not None
    return torch.from_numpy(stripes.train.inputs), torch.from_numpy(stripes.train.labels)


def tiny(exits: ExitConfig | None = None) -> ResNet:
    torch.manual_seed(0)
    return ResNet(dataclasses.replace(TINY, exits=exits)).eval()


def test_a_network_and_its_heads_learn_together(digits: tuple[Tensor, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResNet(dataclasses.replace(SMALL, exits=ExitConfig((1, 2), "certainty")))
    seen: list[Progress] = []
    training = ExitTraining(epochs=5, rate=1e-2, label_smoothing=0.1, head_weights=(0.5, 0.5, 1.0))
    train_network(network, {"pixels": digits[0]}, digits[1], training, tmp_path / "joint.pt", seen.append)
    found = outputs_on(network, digits[2])
    right = [out.logits.argmax(1) == digits[3] for out in found]
    assert right[-1].float().mean() > 0.9
    assert right[-1].float().mean() > right[0].float().mean() > 0.3
    for out, correct in zip(found, right, strict=True):  # surer of what is right, and about as sure as right
        assert out.confidence is not None
        assert out.confidence.mean() == pytest.approx(float(correct.float().mean()), abs=0.15)
        if 0 < correct.sum() < len(correct):
            assert out.confidence[correct].mean() > out.confidence[~correct].mean()
    assert {progress.phase for progress in seen} == {"joint"} and seen[-1].step == seen[-1].steps
    assert seen[-1].accuracy is not None and seen[-1].accuracy > 0.9 and not network.training


def test_heads_learn_on_a_frozen_backbone(digits: tuple[Tensor, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = ResNet(SMALL)
    train_network(dense, digits[0], digits[1], ExitTraining(epochs=4, rate=1e-2), tmp_path / "dense.pt", ignore)
    network = with_exits(dense, ExitConfig((1, 2)))
    before, untrained = everything(network), outputs_on(network, digits[2])
    training = ExitTraining(frozen_backbone=True, epochs=8, rate=1e-2)
    train_network(network, digits[0], digits[1], training, tmp_path / "heads.pt", ignore)
    assert changed(before, network) == {
        f"exit_heads.{head}.classifier.{part}" for head in (0, 1) for part in ("weight", "bias")
    }
    found = outputs_on(network, digits[2])
    assert torch.equal(found[-1].logits, untrained[-1].logits)
    accuracy = [float((out.logits.argmax(1) == digits[3]).float().mean()) for out in found]
    assert accuracy[-1] > 0.9 and accuracy[1] > 0.4
    assert accuracy[0] > float((untrained[0].logits.argmax(1) == digits[3]).float().mean())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_a_frozen_backbone_leaves_to_learn(criterion: str, tensors: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    network = tiny(ExitConfig((1,), criterion))
    network.stem.requires_grad_(False)  # its owner's wish stays
    before = everything(network)
    training = dataclasses.replace(SHORT, frozen_backbone=True)
    train_network(network, *tensors, training, tmp_path / "heads.pt", ignore)
    certainties = {f"{head}.certainty.{part}" for head in ("exit_heads.0", "head") for part in ("weight", "bias")}
    wanted = {"exit_heads.0.classifier.weight", "exit_heads.0.classifier.bias"}
    assert changed(before, network) == (wanted | certainties if criterion == "certainty" else wanted)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen and all(name.startswith("stem.") for name in frozen)
    assert all(
        parameter.grad is None for name, parameter in network.named_parameters() if name not in wanted | certainties
    )


def test_an_interrupted_training_resumes_to_the_same_weights(tensors: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 8:  # in the second epoch of six steps
            raise KeyboardInterrupt

    whole, parts = tiny(ExitConfig((1,))), tiny(ExitConfig((1,)))
    train_network(whole, *tensors, SHORT, tmp_path / "whole.pt", ignore)
    with pytest.raises(KeyboardInterrupt):
        train_network(parts, *tensors, SHORT, tmp_path / "parts.pt", interrupt)
    assert not parts.training and all(parameter.requires_grad for parameter in parts.parameters())
    steps: list[int] = []
    resumed = tiny(ExitConfig((1,)))
    train_network(resumed, *tensors, SHORT, tmp_path / "parts.pt", lambda progress: steps.append(progress.step))
    assert steps == list(range(7, 13))
    assert not changed(everything(whole), resumed)


def text_samples(count: int) -> tuple[dict[str, Tensor], Tensor]:
    """Texts whose class is the word that stands at a random place behind the class token."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (count,), generator=generator)
    lengths = torch.randint(2, 9, (count, 1), generator=generator)
    words = torch.randint(4, 20, (count, 8), generator=generator)
    words.scatter_(1, (1 + torch.rand(count, 1, generator=generator) * (lengths - 1)).long(), 1 + labels[:, None])
    words[:, 0] = 0
    return {"tokens": words, "mask": torch.arange(8) < lengths}, labels


@pytest.mark.parametrize("frozen", [False, True])
def test_a_text_encoder_with_all_families_learns(frozen: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network.from_config(
        TextEncoderConfig(
            width=32,
            depth=2,
            heads=2,
            ffn_width=64,
            classes=3,
            vocabulary=20,
            length=8,
            acm=ACMConfig(learners=2, gate_width=4),
            pruning=PruningConfig((1,)),
            exits=ExitConfig((1,), "entropy"),
        )
    )
    inputs, labels = text_samples(256)
    training = ExitTraining(frozen_backbone=frozen, epochs=12, rate=5e-3)
    before = everything(network)
    train_network(network, inputs, labels, training, tmp_path / "text.pt", ignore)
    with torch.no_grad():
        stages = network.run_stages(inputs, {"price": torch.zeros(1)})
    accuracy = [float((out.logits.argmax(1) == labels).float().mean()) for out in stages]
    if frozen:
        assert {name.split(".")[0] for name in changed(before, network)} == {"exit_heads", "exit_norms"}
        assert accuracy[0] > 0.5
    else:
        assert min(accuracy) > 0.9


@pytest.mark.parametrize("class_token", [False, True])
def test_a_vision_transformer_that_prunes_and_exits_learns(
    class_token: bool, tensors: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=4,
        patch_size=2,
        width=16,
        depth=2,
        heads=2,
        ffn_width=32,
        classes=3,
        class_token=class_token,
        pruning=PruningConfig((0,)),
        exits=ExitConfig((1,)),
    )
    network = Network.from_config(config)
    training = ExitTraining(epochs=15, batch=16, rate=5e-3)
    knobs = {"price": torch.tensor([0.3])}
    train_network(network, *tensors, training, tmp_path / "vit.pt", ignore, knobs=knobs)
    with torch.no_grad():
        stages = network.run_stages({"pixels": tensors[0]}, knobs)
    assert min(float((out.logits.argmax(1) == tensors[1]).float().mean()) for out in stages) > 0.8


def test_the_loss_by_hand() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 2, 1, 1])
    outputs = [
        StageOutput({"logits": torch.randn(4, 3)}, torch.zeros(4), torch.zeros(4), {}, [], certainty)
        for certainty in (torch.randn(4), torch.randn(4), None)
    ]
    wanted = torch.zeros(())
    for out, weight in zip(outputs, (0.5, 0.25, 1.0), strict=True):
        wanted += weight * functional.nll_loss(out.logits.log_softmax(1), labels)
        if out.certainty is not None:
            right = out.logits.argmax(1) == labels
            assurance = torch.where(right, torch.sigmoid(out.certainty), 1 - torch.sigmoid(out.certainty))
            wanted -= 3 * assurance.log().mean()
    torch.testing.assert_close(
        exit_loss(outputs, labels, (0.5, 0.25, 1.0), certainty_weight=3.0), torch.as_tensor(wanted)
    )
    smooth = exit_loss(outputs[2:], labels, (1.0,), label_smoothing=0.3)
    spread = 0.7 * functional.one_hot(labels, 3) + 0.1
    torch.testing.assert_close(smooth, -(spread * outputs[2].logits.log_softmax(1)).sum(1).mean())


def test_samples_that_do_not_fit_are_refused(tensors: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    inputs, labels = tensors
    network, path = tiny(ExitConfig((1,))), tmp_path / "any.pt"
    before = everything(network)
    unusable: list[tuple[dict[str, Tensor] | Tensor, Tensor, str]] = [
        (inputs[:5], labels, "expected as many of all"),
        (inputs, labels.float(), "labels int64"),
        (inputs, labels[:, None], "labels int64"),
        ({"images": inputs}, labels, "got inputs images, expected pixels"),
        (inputs, labels + 1, "got labels from 1 to 3, expected 0 to 2"),
        (inputs, labels - 1, "got labels from -1 to 1, expected 0 to 2"),
    ]
    for given, target, message in unusable:
        with pytest.raises(ValueError, match=message):
            train_network(network, given, target, SHORT, path, ignore)
    with pytest.raises(ValueError, match=r"got 3 head weights, expected 2: .*after_block_1.*final"):
        train_network(network, inputs, labels, dataclasses.replace(SHORT, head_weights=(1, 1, 1)), path, ignore)
    with pytest.raises(ValueError, match="network without exits to train on a frozen backbone"):
        train_network(tiny(), inputs, labels, dataclasses.replace(SHORT, frozen_backbone=True), path, ignore)
    with pytest.raises(CheckpointError, match="got 5 samples, expected at least one batch of 16"):
        train_network(network, inputs[:5], labels[:5], SHORT, path, ignore)
    with pytest.raises(CheckpointError, match="got 0 samples"):
        train_network(network, inputs[:0], labels[:0], SHORT, path, ignore)
    text = Network.from_config(
        TextEncoderConfig(width=8, depth=1, heads=1, ffn_width=8, classes=3, vocabulary=9, length=4)
    )
    with pytest.raises(ValueError, match="got one tensor of inputs, expected a dictionary with tokens, mask"):
        train_network(text, inputs, labels, SHORT, path, ignore)
    assert not path.exists() and not changed(before, network)


def test_a_damaged_checkpoint_is_named(tensors: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "heads.pt"
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot go on from .*heads.pt"):
        train_network(tiny(ExitConfig((1,))), *tensors, SHORT, path, ignore)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "got 0 epochs"),
        ({"batch": 0}, "batches of 0"),
        ({"rate": float("nan")}, "finite rates and weights"),
        ({"head_weights": (1.0, -1.0)}, "finite rates and weights"),
        ({"label_smoothing": 1.0}, "got label smoothing 1.0"),
    ],
)
def test_trainings_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExitTraining(**change)  # type: ignore[arg-type]
