"""Model folders and data files: what goes in comes out, what is damaged is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptrt.models import ModelFolderError, ViT, load_folder, load_model, save_model
from adaptrt.models.data import DataError, Split, load_data
from tests.models.conftest import TINY, with_acm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "tiny", ViT(with_acm(learners=2)), ViT(TINY), "digits", torch.float32)
    return tmp_path / "tiny"


def test_a_saved_model_comes_back(folder: Path) -> None:
    loaded = load_folder(folder, "tiny")
    torch.manual_seed(0)
    wanted = ViT(with_acm(learners=2)).eval()
    images, price = torch.rand(3, 1, 4, 4), torch.tensor([0.4])
    assert loaded.data_name == "digits" and loaded.dense is not None and not loaded.model.training
    assert torch.equal(loaded.model(images, price).logits, wanted(images, price).logits)


def test_the_dense_model_is_optional(folder: Path) -> None:
    (folder / "dense.safetensors").unlink()
    assert load_folder(folder, "tiny").dense is None


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
        ({"architecture": "resnet"}, "architecture 'resnet', expected 'vit'"),
        ({"vit": {"depth": "two"}}, "Expected `int`, got `str`"),
        ({"vit": {"heads": 0}}, "expected sizes of at least 1"),
        ({"data": 5}, "cannot use"),
        ({"vit": {"acm": None}}, "describes a dense model"),
    ],
)
def test_an_unusable_configuration_is_named(folder: Path, change: dict[str, object], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelFolderError, match=message):
        load_model(str(folder))


def test_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(ModelFolderError, match=r"got model 'digitz', expected a ready model \(digits\)"):
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
    with pytest.raises(DataError, match="Cannot cast"):
        load_data(str(path))
    np.savez(path, **arrays, test_inputs=np.ones((2, 1, 4, 4)), test_labels=np.ones(2, np.uint8))
    data = load_data(str(path))
    assert (len(data.calibration), len(data.test), data.train) == (3, 2, None)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot read"):
        load_data(str(path))
    with pytest.raises(DataError, match="expected one of digits or an existing .npz"):
        load_data("mnist")


def test_labels_must_match_inputs() -> None:
    with pytest.raises(DataError, match="got 2 inputs and 3 labels"):
        Split(np.zeros((2, 1), np.float32), np.zeros(3, np.int64))
