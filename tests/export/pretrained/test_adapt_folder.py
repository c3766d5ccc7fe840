"""From a transformers folder and files to a bundle that takes texts and pictures: small random models, no labels."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adaptrt import AdaptrtError
from adaptrt.export.errors import ExportError
from adaptrt.export.exporter import export_bundle
from adaptrt.export.pretrained.adapt_folder import AdaptReport, AdaptRequest, adapt_folder, chosen_families
from adaptrt.models import load_folder, load_pretrained
from adaptrt.models.data.split import DataError, load_data
from adaptrt.models.training.phase import CheckpointError
from adaptrt.runtime import Budget, load

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow("adapts and exports checkpoints")

_SENTENCES = "the a of and to in is good bad film dog cat runs sleeps eats"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_SENTENCES.split()]
SETTINGS = {"joint_steps": 6, "distil_steps": 4, "gate_steps": 4, "tokens": 300, "layer_batch": 64, "batch": 8}


def quiet(_: Any) -> None:
    """Nobody looks."""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of texts with a tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoints") / "classifier"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=20).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=20,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of pictures with its processor."""
    folder = tmp_path_factory.mktemp("checkpoints") / "pictures"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8,
        num_labels=3,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 16, "width": 16},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def texts(count: int = 80) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS[5:], k=draw.randint(2, 12))) for _ in range(count)]


def adapted(model: Path, data: Path, folder: Path, **more: Any) -> AdaptReport:
    request = AdaptRequest(str(model), data, folder / "out", folder / "work", settings=SETTINGS, **more)
    return adapt_folder(request, quiet)


def test_texts_without_labels(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(texts()))
    found = adapted(classifier, tmp_path / "texts.txt", tmp_path)
    assert (found.task, found.families, found.labelled) == ("classification", ("acm", "pruning", "exits"), False)
    assert (found.samples, found.held_out, found.cut) == (64, 8, 0)
    source = load_folder(found.folder, "texts")
    assert source.data_name is not None
    data = load_data(source.data_name)
    assert data.follows_dense and len(data.test) == 8
    report = export_bundle(source, tmp_path / "bundle", calibration=data, points=3, evaluations=15)
    assert report.parity.passed and report.quality_metric == "agreement with the dense model"
    model = load(tmp_path / "bundle")
    assert model.bundle.class_names == ["negative", "positive"]
    inputs = model.preprocess.text(["the good film", "a dog sleeps and eats the bad film"])
    whole = model.run(inputs, budget=Budget.full())
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    wanted = tokenizer(["the good film", "a dog sleeps and eats the bad film"], padding=True, return_tensors="np")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        np.testing.assert_array_equal(inputs[name], wanted[name])
    cheap = model.run(inputs, budget=Budget.fraction(0.2))
    assert cheap.macs_fraction.mean() < whole.macs_fraction.mean()


def test_labels_are_those_of_the_data(classifier: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = [{"text": text, "label": ["negative", "POSITIVE"][place % 2]} for place, text in enumerate(texts())]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = adapted(classifier, tmp_path / "rows.jsonl", tmp_path, families=("exits",))
    assert found.labelled and found.families == ("exits",)
    data = load_data(str(found.folder / "samples.npz"))
    assert not data.follows_dense and set(data.test.labels.tolist()) <= {0, 1}


def test_pictures_with_a_broken_one(pictures_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(40):
        pixels = draw.integers(0, 255, (20 + number % 3, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "05.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"05\.png.*--skip-broken"):
        adapted(pictures_model, folder, tmp_path)
    found = adapted(pictures_model, folder, tmp_path, skip_broken=True)
    assert len(found.skipped) == 1 and "05.png" in found.skipped[0]
    assert found.samples + 2 * found.held_out == 39
    source = load_folder(found.folder, "pictures")
    export_bundle(source, tmp_path / "bundle", calibration=load_data(str(source.data_name)), points=3, evaluations=15)
    model = load(tmp_path / "bundle")
    made = model.preprocess.images([folder / "00.png"])
    assert model.run(made).outputs["logits"].shape == (1, 3)


def test_the_result_does_not_need_the_checkpoint(classifier: Path, tmp_path: Path) -> None:
    """What was adapted equals what is loaded again, where the checkpoint's folder is gone."""
    import shutil

    copy = Path(shutil.copytree(classifier, tmp_path / "copy"))
    (tmp_path / "texts.txt").write_text("\n".join(texts()))
    found = adapted(copy, tmp_path / "texts.txt", tmp_path)
    shutil.rmtree(copy)
    source = load_folder(found.folder, "again")
    assert source.dense is not None
    inputs = source.model.example_inputs(3)
    original = load_pretrained(classifier).model
    with torch.no_grad():
        wanted = original.run_stages(inputs, {})[-1].outputs["logits"]
        given = source.dense.run_stages(inputs, {})[-1].outputs["logits"]
    torch.testing.assert_close(given, wanted)


def test_families_that_fit(classifier: Path) -> None:
    dense: Any = load_pretrained(classifier).model
    fitting = chosen_families(dense, None, None)
    assert fitting["acm"].learners == 2 and fitting["exits"].after == (1,) and fitting["pruning"].blocks == (1,)
    tokens: Any = load_pretrained(classifier, task="feature-extraction").model
    assert chosen_families(tokens, None, None)["pruning"] is None
    with pytest.raises(ExportError, match="cannot use the family 'tokens': .*token"):
        chosen_families(tokens, ("tokens",), None)
    with pytest.raises(ExportError, match="got families other, expected some of acm, exits, tokens, routes"):
        chosen_families(dense, ("other",), None)


def _lines(count: int) -> Any:
    def write(folder: Path, model: Path) -> tuple[Path, Path]:
        (folder / "few.txt").write_text("\n".join(texts(count)))
        return model, folder / "few.txt"

    return write


def _pictures(folder: Path, model: Path) -> tuple[Path, Path]:
    (folder / "data").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "data" / "a.png")
    return model, folder / "data"


def _no_tokenizer(folder: Path, model: Path) -> tuple[Path, Path]:
    import shutil

    copy = Path(shutil.copytree(model, folder / "copy"))
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (copy / name).unlink(missing_ok=True)
    return copy, _lines(80)(folder, model)[1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_lines(6), "got 6 samples, expected at least"),
        (lambda folder, _: (Path("no-such-folder"), folder), "expected a folder with config.json and weights"),
        (lambda folder, model: (model, folder / "none.txt"), "expected a file or folder that is there"),
        (_pictures, "got data of kind image, expected text"),
        (_no_tokenizer, "got data of kind text, expected"),
    ],
)
def test_what_is_refused(classifier: Path, tmp_path: Path, make: Any, said: str) -> None:
    model, data = make(tmp_path, classifier)
    with pytest.raises((AdaptrtError, ValueError), match=said) as refused:
        adapted(model, data, tmp_path)
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


def test_another_folder_is_not_replaced(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    (tmp_path / "texts.txt").write_text("\n".join(texts()))
    with pytest.raises(ExportError, match="is no model folder"):
        adapted(classifier, tmp_path / "texts.txt", tmp_path)
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"


def test_checkpoints_of_another_run_are_refused_before_the_dense_model_answers(
    classifier: Path, tmp_path: Path
) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("\n".join(texts()))
    adapted(classifier, data, tmp_path)
    told: list[str] = []
    request = AdaptRequest(
        str(classifier), data, tmp_path / "other", tmp_path / "work", settings={**SETTINGS, "joint_steps": 7}
    )
    with pytest.raises(CheckpointError, match="checkpoints of a run with other settings"):
        adapt_folder(request, quiet, lambda what, _share: told.append(what))
    assert "reading the data" in told and "answers of the dense model" not in told


def test_work_is_relative_to_the_texts_of_the_data(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(texts()))
    found = adapted(classifier, tmp_path / "texts.txt", tmp_path, families=("exits",))
    network = load_folder(found.folder, "texts").model
    assert 2 < network.work_tokens < 15 < network.tokens == 20
    with np.load(found.folder / "samples.npz") as held_out:
        inputs = {spec.name: torch.from_numpy(held_out[f"test_{spec.name}"]) for spec in network.input_specs()}
    with torch.no_grad():
        assert 0.7 < float(network.run(inputs, {}).macs_fraction.mean()) < 1.3
