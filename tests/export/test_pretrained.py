"""Pretrained encoders as graphs: what ONNX Runtime and OpenVINO compute is what transformers does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from adaptrt.export.calibration.full_budget import FULL_SETTING
from adaptrt.export.exporter import export_bundle
from adaptrt.export.graph.trace import trace_dense
from adaptrt.export.parity.graph_macs import check_dense_macs
from adaptrt.models import ACMConfig, Network, save_model
from adaptrt.models.adaptation import adapt
from adaptrt.models.adapters.pretrained.load import load_pretrained
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.folder import LoadedModel, load_folder
from adaptrt.runtime import Budget, load
from adaptrt.runtime.backends import Backend, BackendSettings, StageProgram
from tests.models.adapters.pretrained.tiny_models import FAMILIES, length_of, saved
from tests.prepared_engines import prepare, require_openvino

TOLERANCE = 1e-4
"""Relative to the largest value."""


def first(families: Iterable[str], *usual: str) -> list[Any]:
    """All families; those beyond the usual ones run in `make test-exhaustive`, as each takes ten seconds and more."""
    return [name if name in usual else pytest.param(name, marks=pytest.mark.exhaustive) for name in families]


USUAL = ("bert", "mpnet", "modernbert", "vit", "dinov3", "whisper", "wav2vec2")
TASKS = {
    "bert": "BertForSequenceClassification",
    "roberta": "RobertaForTokenClassification",
    "distilbert": "DistilBertForQuestionAnswering",
    "albert": "AlbertForSequenceClassification",
    "modernbert": "ModernBertForSequenceClassification",
    "vit": "ViTForImageClassification",
    "beit": "BeitForImageClassification",
    "dinov2": "Dinov2ForImageClassification",
    "wav2vec2": "Wav2Vec2ForCTC",
}
"""Classes with a head; the other families are encoders alone."""


def samples(network: Network, count: int) -> dict[str, np.ndarray]:
    torch.manual_seed(4)
    return {name: tensor.numpy() for name, tensor in network.example_inputs(count).items()}


def by_transformers(model: Any, network: Network, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    model = model.get_encoder() if network.config.encoder_only else model
    model.set_attn_implementation("eager")
    with torch.no_grad():
        given = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: given[name].numpy() for name in network.task.outputs}


def close(given: np.ndarray, wanted: np.ndarray, inputs: dict[str, np.ndarray], per_token: bool) -> None:
    real = np.ones(wanted.shape[:1], bool)
    if per_token and "attention_mask" in inputs:
        real = inputs["attention_mask"][:, : wanted.shape[1]] > 0
    assert given.shape == wanted.shape
    assert np.abs(given - wanted)[real].max() <= TOLERANCE * np.abs(wanted[real]).max()


def opened(graph: onnx.ModelProto, outputs: tuple[str, ...], folder: Path) -> list[Backend]:
    """The graph in ONNX Runtime and in OpenVINO."""
    from adaptrt.runtime.backends.onnxruntime import OnnxRuntimeBackend
    from adaptrt.runtime.backends.openvino import OpenVinoBackend

    file = folder / "graph.onnx"
    file.write_bytes(graph.SerializeToString())
    program = StageProgram(file.read_bytes(), file, folder, outputs)
    return [
        OnnxRuntimeBackend(program, BackendSettings(threads=1)),
        OpenVinoBackend(program, BackendSettings(threads=1)),
    ]


@pytest.mark.slow("traces a network of every family")
@pytest.mark.parametrize(
    "family", first(FAMILIES, "bert", "mpnet", "modernbert", "vit", "dinov3", "whisper", "wav2vec2")
)
def test_a_dense_graph_answers_as_transformers_does(family: str, tmp_path: Path) -> None:
    require_openvino()
    folder, model = saved(tmp_path, family, TASKS.get(family))
    network = load_pretrained(folder, length=length_of(family)).model
    assert isinstance(network, Network)
    graph = trace_dense(network)
    ops = {node.op_type for node in graph.graph.node}
    assert not ops & {"If", "Loop", "NonZero", "ScatterND", "Resize", "GatherND"}
    backends = opened(graph, tuple(network.task.outputs), tmp_path)
    for count, length in ((1, None), (3, None), (2, 9), (1, 1)):
        inputs = samples(network, count)
        if network.config.modality == "text":
            inputs = {name: array[:, :length] for name, array in inputs.items()}
        wanted = by_transformers(model, network, inputs)
        for backend in backends:
            given = backend.run(inputs)
            for name, array in wanted.items():
                close(given[name], array, inputs, network.task.per_token)
    full = samples(network, 1)
    full |= {name: np.ones_like(array) for name, array in full.items() if name == "attention_mask"}
    check_dense_macs(graph, full, network.dense_macs())


ADAPTIVE: dict[str, tuple[str | None, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", {"pruning": PruningConfig((0,)), "exits": ExitConfig((1,))}),
    "mpnet": (None, {"pruning": PruningConfig((0,), averages_dropped=True), "exits": ExitConfig((1,), "certainty")}),
    "distilbert": ("DistilBertForTokenClassification", {"exits": ExitConfig((1,), "entropy")}),
    "dinov2_registers": ("Dinov2WithRegistersForImageClassification", {"pruning": PruningConfig((1,))}),
    "dinov3": (None, {"pruning": PruningConfig((0,)), "exits": ExitConfig((1,), "certainty")}),
    "whisper": ("WhisperForAudioClassification", {"pruning": PruningConfig((0,))}),
    "wav2vec2": ("Wav2Vec2ForCTC", {"exits": ExitConfig((1,), "max_softmax")}),
}


@pytest.mark.slow("traces stages with several families")
@pytest.mark.parametrize("family", first(ADAPTIVE, "bert", "dinov3"))
def test_an_adaptive_bundle_is_proved_and_answers_as_transformers_does(family: str, tmp_path: Path) -> None:
    architecture, families = ADAPTIVE[family]
    folder, model = saved(tmp_path / "checkpoint", family, architecture)
    task = None if architecture else "embedding"
    dense = load_pretrained(folder, task=task, length=length_of(family)).model
    assert isinstance(dense, Network)
    torch.manual_seed(1)
    adaptive = adapt(dense, dense.example_inputs(4), acm=ACMConfig(2), **families).eval()
    save_model(tmp_path / "saved", adaptive, dense, None, torch.float32)
    report = export_bundle(load_folder(tmp_path / "saved", family), tmp_path / "bundle", calibration=None)
    assert max(row.max_output_error for row in report.parity.rows) <= TOLERANCE
    bundle = load(tmp_path / "bundle")
    inputs = samples(dense, 3)
    assert [spec.name for spec in bundle.bundle.inputs] == list(inputs)
    given = bundle.run(inputs, budget=Budget.full()).outputs
    assert set(given) - {"macs_fraction"} == set(dense.task.outputs)
    if architecture:
        wanted = by_transformers(model, dense, inputs)
    else:
        with torch.no_grad():
            wanted = dense.run({name: torch.from_numpy(array) for name, array in inputs.items()}, {}).outputs
            wanted = {name: tensor.numpy() for name, tensor in wanted.items()}
    stages = bundle.run_stages(inputs)[-1]  # of networks that have learned nothing yet: they answer alike
    for name, array in wanted.items():
        close(given[name], array, inputs, dense.task.per_token)
        close(stages[name], array, inputs, dense.task.per_token)


@pytest.mark.slow("traces, calibrates and compiles for OpenVINO")
def test_a_calibrated_bundle_runs_under_a_budget_and_in_openvino(tmp_path: Path) -> None:
    require_openvino()
    dense = load_pretrained(saved(tmp_path / "checkpoint", "roberta")[0], task="embedding", length=12).model
    assert isinstance(dense, Network)
    torch.manual_seed(1)
    adaptive = adapt(dense, dense.example_inputs(8), acm=ACMConfig(2), pruning=PruningConfig((0,))).eval()
    with torch.no_grad():
        for parameter in adaptive.blocks.parameters():
            parameter.mul_(1.1)  # as training for small budgets takes it away from the dense network
    splits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        inputs = dense.example_inputs(40)
        with torch.no_grad():
            vectors = dense.run(inputs, {}).outputs["sentence_embedding"].numpy()
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        splits.append(Split(arrays.pop("input_ids"), vectors, arrays, "input_ids"))
    source = LoadedModel("roberta", adaptive, dense, None)
    export_bundle(source, tmp_path / "bundle", calibration=DataSplits("drawn", *splits), points=3, evaluations=30)
    inputs = splits[1].named("input_ids")
    bundle = load(tmp_path / "bundle")
    assert bundle.bundle.quality_metric == "cosine" and bundle.bundle.dense.quality == pytest.approx(1.0, abs=1e-5)
    whole = bundle.run(inputs, budget=Budget.full())
    less = bundle.run(inputs, budget=Budget.fraction(0.5))
    assert less.macs_fraction.mean() < whole.macs_fraction.mean()
    stages = bundle.run_stages(inputs)[-1]
    assert np.abs(stages["sentence_embedding"] - whole.outputs["sentence_embedding"]).max() > 1e-3
    full = [point for point in bundle.bundle.curve if point.setting == FULL_SETTING]
    assert len(full) == 1 and full[0].quality == pytest.approx(1.0, abs=1e-5)
    assert all(point.calibration_macs_fraction <= full[0].calibration_macs_fraction for point in bundle.bundle.curve)
    assert full[0].calibration_macs_fraction is not None and full[0].calibration_macs_fraction <= 1
    assert bundle.operating_point(Budget.fraction(1.0)).quality == full[0].quality
    # Each text takes what its length takes, without gates.
    assert whole.macs_fraction.mean() == pytest.approx(full[0].macs_fraction, rel=1e-5)
    assert (whole.macs_fraction < stages["macs_fraction"]).all()
    assert np.corrcoef(whole.macs_fraction, inputs["attention_mask"].sum(1))[0, 1] > 0.99
    prepare(tmp_path / "bundle")
    other = load(tmp_path / "bundle", backend="openvino").run(inputs, budget=Budget.full())
    close(other.outputs["sentence_embedding"], splits[1].labels, inputs, False)
    close(whole.outputs["sentence_embedding"], splits[1].labels, inputs, False)
