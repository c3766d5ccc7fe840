"""Model folders and data files: what goes in comes out, what is damaged is named."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adaptrt.models import ACMConfig, ModelFolderError, Network, load_folder, load_model, registry, save_model
from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.adapters.resnet import ResNet, ResNetConfig, with_exits
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.data.split import DataError, Split, load_data
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.folder import architectures
from adaptrt.models.staged_network import StagedNetwork
from tests.models.adapters.pretrained.tiny_models import pretrained_network
from tests.models.conftest import TINY, with_acm

EVERYTHING = {
    "acm": ACMConfig(learners=2, gate_width=4),
    "pruning": PruningConfig((0, 1)),
    "exits": ExitConfig((1,), "certainty"),
    "hard_budgets": True,
}
TEXT = TextEncoderConfig(width=16, depth=2, heads=2, ffn_width=32, classes=3, vocabulary=20, length=6)


def pair(architecture: str) -> tuple[AdaptableNetwork, AdaptableNetwork]:
    """An adaptive model with all that its architecture has, and a dense one."""
    torch.manual_seed(0)
    if architecture == "resnet":
        dense = ResNet(ResNetConfig(image_size=8, widths=(4, 6), blocks=(1, 1), classes=3, mean=0.3)).eval()
        return with_exits(dense, ExitConfig((1,), "patience")), dense
    if architecture == "text":
        return Network.from_config(dataclasses.replace(TEXT, **EVERYTHING)), Network.from_config(TEXT)  # type: ignore[arg-type]
    if architecture == "pretrained":
        dense = pretrained_network("bert", "BertForSequenceClassification")
        return dense.with_families([EVERYTHING[name] for name in ("acm", "pruning", "exits")]), dense  # type: ignore[misc]
    if architecture == "pretrained-convolutional":
        dense = pretrained_network("resnet_basic", image_size=24)
        return dense.with_families([ExitConfig((1, 3), "certainty")]), dense
    assert architecture == "vit"
    vit = dataclasses.replace(TINY, class_token=True)
    return Network.from_config(dataclasses.replace(vit, **EVERYTHING)), Network.from_config(vit)  # type: ignore[arg-type]


def logits(model: StagedNetwork, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    knobs = {spec.name: torch.full(spec.shape, 0.4) for spec in model.knob_specs() if spec.name == "price"}
    with torch.no_grad():
        return torch.stack([stage.logits for stage in model.run_stages(inputs, knobs)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(
        tmp_path / "tiny", Network.from_config(with_acm(learners=2)), Network.from_config(TINY), "digits", torch.float32
    )
    return tmp_path / "tiny"


@pytest.mark.parametrize("architecture", list(architectures()))
def test_a_saved_model_comes_back(architecture: str, tmp_path: Path) -> None:
    models = pair(architecture)
    save_model(tmp_path, models[0], models[1], "digits", torch.float32)
    loaded = load_folder(tmp_path, "tiny")
    assert (loaded.name, loaded.data_name) == ("tiny", "digits") and loaded.dense is not None
    inputs = models[0].example_inputs(3)
    for found, wanted in zip((loaded.model, loaded.dense), models, strict=True):
        assert isinstance(found, type(wanted)) and found.config == wanted.config and not found.training
        assert torch.equal(logits(found, inputs), logits(wanted.eval(), inputs))
    assert loaded.model.adaptive and not loaded.dense.adaptive


def test_weights_are_rounded_and_statistics_are_not(tmp_path: Path) -> None:
    network, dense = pair("resnet")
    assert isinstance(network, ResNet)
    norm = network.stem[1]
    norm.running_var.fill_(1e5)  # infinite in float16
    norm.num_batches_tracked.fill_(70_001)
    save_model(tmp_path, network, dense, None, torch.float16)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights["stem.0.weight"].dtype == torch.float16
    found = load_folder(tmp_path, "tiny").model.state_dict()
    assert found["stem.1.running_var"].tolist() == [1e5] * 4 and int(found["stem.1.num_batches_tracked"]) == 70_001
    torch.testing.assert_close(found["stem.0.weight"], network.state_dict()["stem.0.weight"], atol=1e-3, rtol=1e-3)
    assert all(value.dtype == torch.float32 for value in found.values() if value.is_floating_point())


def test_the_dense_model_is_optional(folder: Path) -> None:
    (folder / "dense.safetensors").unlink()
    assert load_folder(folder, "tiny").dense is None


def test_a_model_saved_without_a_dense_one_leaves_no_other_models(folder: Path) -> None:
    save_model(folder, Network.from_config(with_acm(learners=2)), None, None, torch.float32)
    loaded = load_folder(folder, "tiny")
    assert loaded.dense is None and loaded.data_name is None


def test_the_shipped_models_configuration_is_complete() -> None:
    loaded = load_model("digits")
    assert isinstance(loaded.model, Network)
    config = json.loads((Path(__file__).parents[2] / "models/weights/digits/config.json").read_text())
    assert config == {
        "architecture": "vit",
        "data": "digits",
        "vit": json.loads(json.dumps(dataclasses.asdict(loaded.model.config))),
    }


def test_weights_of_another_architecture_are_refused(folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "resnet", *pair("resnet"), None, torch.float32)
    (tmp_path / "resnet" / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelFolderError, match=r"cannot read weights .*model.safetensors: Missing key") as caught:
        load_folder(tmp_path / "resnet", "tiny")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelFolderError, match=f"has no {file}; train with"):
        load_model(str(folder))


def test_truncated_weights_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelFolderError, match=r"cannot read weights .*model\.safetensors"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "mlp"}, "architecture 'mlp', expected 'vit' or 'text' or 'pretrained' or 'resnet'"),
        ({"architecture": ["vit"]}, r"architecture \['vit'\], expected 'vit' or"),
        ({"vit": {"colour": 1}}, "got 'colour' in 'vit', which it does not have; leave it out"),
        ({"vit": {"acm": {"learner": 2}}}, "got 'acm.learner' in 'vit', which it does not have; leave it out"),
        ({"vit": {"others": {"routed_ffn": {"smal": 1}}}}, "got 'smal' for 'routed_ffn', expected some of small"),
        ({"architecture": "resnet"}, "it has no 'resnet'; write it again"),
        ({"vit": {"depth": "two"}}, "Expected `int`, got `str`"),
        ({"vit": {"heads": 0}}, "expected sizes of at least 1"),
        ({"data": 5}, "cannot use"),
        ({"architecture": None, "architectures": ["BertModel"]}, "expected 'vit' or"),
        ({"vit": {"acm": {"gate": "coin"}}}, "got gate 'coin'"),
        ({"vit": {"exits": {"after": [2, 1]}}}, "expected ascending numbers"),
        (
            {"vit": {"acm": None}},
            "describes a model with nothing adaptive in it, expected one with acm",
        ),
    ],
)
def test_an_unusable_configuration_is_named(folder: Path, change: dict[str, object], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelFolderError, match=message) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_a_configuration_that_is_no_object_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelFolderError, match="got a list, expected an object with an architecture"):
        load_model(str(folder))


def test_a_checkpoint_of_transformers_is_told_how_to_become_a_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    with pytest.raises(ModelFolderError, match=r"got a checkpoint of transformers in .*`adaptrt adapt`") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(ModelFolderError, match=r"got model 'digitz', expected a ready model \(digits, fashion\)"):
        load_model("digitz")


def test_digits_are_split_in_three_that_share_nothing() -> None:
    data = load_data("digits")
    assert data.train is not None
    parts = [data.train, data.calibration, data.test]
    assert sum(len(part) for part in parts) == 1797
    images = [{image.tobytes() for image in part.inputs} for part in parts]
    assert not (images[0] & images[1] or images[0] & images[2] or images[1] & images[2])
    for part in parts:
        assert part.inputs.shape[1:] == (1, 8, 8) and part.inputs.dtype == np.float32
        assert part.inputs.min() == 0 and part.inputs.max() == 1
        assert np.bincount(part.labels, minlength=10).min() > 0.08 * len(part)


def test_data_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    arrays = {"calibration_inputs": np.zeros((3, 1, 4, 4)), "calibration_labels": np.zeros(3, np.int32)}
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="test_inputs"):
        load_data(str(path))
    np.savez(path, **arrays, test_inputs=np.ones((2, 1, 4, 4)), test_labels=np.ones(2))
    with pytest.raises(DataError, match="expected whole numbers, or fractions"):
        load_data(str(path))
    np.savez(path, **arrays, test_inputs=np.ones((2, 1, 4, 4)), test_labels=np.ones(2, np.uint8))
    data = load_data(str(path))
    assert (len(data.calibration), len(data.test), data.train) == (3, 2, None)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot read"):
        load_data(str(path))
    with pytest.raises(DataError, match="expected one of digits, fashion or an existing .npz"):
        load_data("mnist")


def test_labels_must_match_inputs() -> None:
    with pytest.raises(DataError, match="got 2 inputs and 3 labels"):
        Split(np.zeros((2, 1), np.float32), np.zeros(3, np.int64))


def test_a_ready_model_without_its_weights_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "weights_folder", lambda name: tmp_path / name)
    with pytest.raises(ModelFolderError, match="adaptrt train fashion --output FOLDER"):
        registry.load_model("fashion")
