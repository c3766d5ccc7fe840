"""Convolutional networks from a transformers folder and pictures to a bundle that takes a picture under a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adaptrt.export.errors import ExportError
from adaptrt.export.exporter import export_bundle
from adaptrt.export.graph.trace import trace_dense
from adaptrt.export.parity.graph_macs import check_dense_macs
from adaptrt.export.pretrained.adapt_folder import AdaptReport, AdaptRequest, adapt_folder, chosen_families
from adaptrt.export.pretrained.dense_source import full_inputs, load_dense
from adaptrt.export.pretrained.estimate import make_candidates
from adaptrt.models import load_folder, load_pretrained, save_model
from adaptrt.models.adaptation import adapt
from adaptrt.models.adapters.resnet import ResNet, ResNetConfig
from adaptrt.models.data.split import load_data
from adaptrt.models.families.exit_head import CRITERIA, ExitConfig
from adaptrt.runtime import Budget, load
from tests.models.adapters.pretrained.tiny_models import CONVOLUTIONAL, pretrained_network, saved

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow("adapts and exports convolutional networks")

SIZE = 24
PROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"shortest_edge": SIZE},
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
SETTINGS = {"joint_steps": 8, "batch": 8}


def quiet(_: Any) -> None:
    """Nobody looks."""


def checkpoint(folder: Path, family: str) -> Path:
    saved(folder, family, id2label={0: "ant", 1: "bee", 2: "cow", 3: "dog", 4: "eel"})
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a colour each, with noise."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(60):
        colour = draw.integers(0, 255, 3)
        noise = draw.normal(0, 5 + number, (28 + number % 5, 34, 3))
        Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")
    return folder


def adapted(model: Path, data: Path, folder: Path, **more: Any) -> AdaptReport:
    request = AdaptRequest(str(model), data, folder / "out", folder / "work", settings=SETTINGS, **more)
    return adapt_folder(request, quiet)


def by_transformers(folder: Path, picture: Path) -> np.ndarray:
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.ConvNextImageProcessorPil(
        **{name: value for name, value in PROCESSOR.items() if name != "image_processor_type"}
    )
    with torch.no_grad():
        pixels = processor(Image.open(picture), return_tensors="pt")
        given: np.ndarray = model(**pixels).logits.numpy()
    return given


@pytest.mark.parametrize("family", ["resnet_bottleneck", "convnextv2"])
def test_from_a_folder_to_an_answer_under_a_budget(family: str, pictures: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint", family)
    found = adapted(folder, pictures, tmp_path)
    assert (found.task, found.families, found.labelled) == ("classification", ("exits",), False)
    assert (found.samples, found.held_out) == (48, 6)
    source = load_folder(found.folder, "tiny")
    data = load_data(str(source.data_name))
    report = export_bundle(source, tmp_path / "bundle", calibration=data, points=5, evaluations=20)
    assert report.parity.passed and report.quality_metric == "agreement with the dense model"
    bundle = load(tmp_path / "bundle")
    assert bundle.bundle.class_names == ["ant", "bee", "cow", "dog", "eel"] and bundle.bundle.knobs
    first = sorted(pictures.iterdir())[0]
    made = bundle.preprocess.images(sorted(pictures.iterdir())[:8])
    assert made["pixel_values"].shape == (8, 3, SIZE, SIZE)
    whole, less = bundle.run(made, budget=Budget.full()), bundle.run(made, budget=Budget.fraction(0.8))
    assert less.macs_fraction.mean() < whole.macs_fraction.mean() and whole.outputs["logits"].shape == (8, 5)
    # The dense graph beside it is the checkpoint: picture by picture as transformers answers with its own processor.
    import onnxruntime

    dense = onnxruntime.InferenceSession(tmp_path / "bundle" / "dense.onnx", providers=["CPUExecutionProvider"])
    (given,) = dense.run(["logits"], {"pixel_values": made["pixel_values"][:1]})
    wanted = by_transformers(folder, first)
    assert np.abs(given - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_labels_are_those_of_the_data(pictures: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint", "resnet_basic")
    for number, picture in enumerate(sorted(pictures.iterdir())):
        place = tmp_path / "labelled" / ("bee" if number % 2 else "eel")
        place.mkdir(parents=True, exist_ok=True)
        (place / picture.name).write_bytes(picture.read_bytes())
    found = adapted(folder, tmp_path / "labelled", tmp_path)
    data = load_data(str(found.folder / "samples.npz"))
    assert found.labelled and not data.follows_dense and set(data.test.labels.tolist()) <= {1, 4}


@pytest.mark.parametrize("family", ["acm", "tokens", "routes"])
def test_other_families_are_refused_before_anything_is_made(family: str, pictures: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint", "resnet_basic")
    with pytest.raises(ExportError, match=f"cannot use the family '{family}': .*no tokens and no FFNs.*use exits") as e:
        adapted(folder, pictures, tmp_path, families=("exits", family))
    assert "\n" not in str(e.value) and not (tmp_path / "out").exists() and not (tmp_path / "work").exists()
    dense: Any = load_pretrained(folder).model
    chosen = chosen_families(dense, None, None)
    assert [name for name, found in chosen.items() if found is not None] == ["exits"]


@pytest.mark.parametrize(
    "family",
    [
        name if name in ("resnet_downsampling", "regnet_y") else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in CONVOLUTIONAL
    ],
)
def test_a_dense_graph_costs_what_the_network_counts(family: str) -> None:
    network = pretrained_network(family, image_size=SIZE)
    graph = trace_dense(network)
    ops = {node.op_type for node in graph.graph.node}
    assert not ops & {"BatchNormalization", "If", "Loop", "Resize", "Identity"}
    one = {name: tensor.numpy() for name, tensor in network.example_inputs(1).items()}
    check_dense_macs(graph, one, network.dense_macs())


@pytest.mark.parametrize(
    "criterion",
    [name if name == "patience" else pytest.param(name, marks=pytest.mark.exhaustive) for name in CRITERIA],
)
def test_every_criterion_is_proved(criterion: str, tmp_path: Path) -> None:
    dense = pretrained_network("resnet_basic", image_size=SIZE)
    torch.manual_seed(1)
    adaptive = adapt(dense, {}, exits=ExitConfig((1, 3), criterion)).eval()
    save_model(tmp_path / "saved", adaptive, dense, None, torch.float32)
    report = export_bundle(load_folder(tmp_path / "saved", "tiny"), tmp_path / "bundle", calibration=None)
    assert max(row.max_output_error for row in report.parity.rows) <= 1e-4
    assert load(tmp_path / "bundle").bundle.exit_criterion == criterion


def test_vectors_are_exported(tmp_path: Path) -> None:
    dense = pretrained_network("regnet_x", image_size=SIZE, task="embedding")
    torch.manual_seed(1)
    adaptive = adapt(dense, {}, exits=ExitConfig((1, 3), "certainty")).eval()
    save_model(tmp_path / "saved", adaptive, dense, None, torch.float32)
    export_bundle(load_folder(tmp_path / "saved", "tiny"), tmp_path / "bundle", calibration=None)
    inputs = {name: tensor.numpy() for name, tensor in dense.example_inputs(2).items()}
    given = load(tmp_path / "bundle").run(inputs, budget=Budget.full()).outputs["sentence_embedding"]
    with torch.no_grad():
        wanted = dense.run({name: torch.from_numpy(array) for name, array in inputs.items()}, {}).outputs
    np.testing.assert_allclose(given, wanted["sentence_embedding"].numpy(), atol=1e-4, rtol=1e-4)


def test_an_estimate_meets_shares_between_its_exits(tmp_path: Path) -> None:
    source = load_dense(checkpoint(tmp_path / "checkpoint", "resnet_basic"))
    dense: Any = source.dense
    inputs = full_inputs(dense, 16)
    (candidate,) = make_candidates(source, inputs, tmp_path / "work", shares=(1.0, 0.8))
    assert candidate.families == ("exits",)
    everything, less = candidate.settings
    assert everything.share >= 1 and less.reachable and less.share == pytest.approx(0.8, abs=0.05)
    with pytest.raises(ExportError, match="got length 16 for a model with inputs of one size"):
        load_dense(tmp_path / "checkpoint", 16)
    adaptive = adapt(dense, {}, exits=ExitConfig((1,)))
    save_model(tmp_path / "adapted", adaptive, None, None, torch.float32)
    again: Any = load_dense(tmp_path / "adapted").dense
    assert not again.adaptive and again.dense_macs() == dense.dense_macs()


def test_the_resnet_of_this_repository_is_estimated_for_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResNet(ResNetConfig(image_size=12, widths=(4, 6), blocks=(2, 2), classes=3, exits=ExitConfig((1,))))
    save_model(tmp_path, network, None, None, torch.float32)
    dense: Any = load_dense(tmp_path).dense
    assert isinstance(dense, ResNet) and not dense.adaptive
    exits = chosen_families(dense, None, None)["exits"]
    assert isinstance(exits, ExitConfig) and 1 <= len(exits.after) <= 2
    assert dense.dense_macs() == network.dense_macs() and list(full_inputs(dense, 2)) == ["pixels"]
