"""How near answers come to the dense model's: what is counted, the neighbours' vote, and a bundle run whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from adaptrt.bench.errors import BenchError
from adaptrt.bench.fidelity import likeness, main, measure, neighbour_accuracy
from adaptrt.bench.reports.result_json import write_json
from adaptrt.export.errors import ExportError
from adaptrt.export.exporter import export_bundle
from adaptrt.models import ACMConfig, Network, adapt
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.data.files import read_files
from adaptrt.models.folder import LoadedModel


def test_likeness() -> None:
    found = np.array([[1, 0], [0, 2]], np.float32)
    assert likeness(found, np.array([[3, 0], [1, 0]], np.float32), scores=False).tolist() == [1, 0]
    assert likeness(found, np.array([[3, 1], [1, 0]], np.float32), scores=True).tolist() == [1, 0]


def test_neighbours_are_others_and_the_majority_decides() -> None:
    index = np.array([[1, 0], [0.99, 0.1], [0.98, 0.2], [0, 1], [0.1, 0.99]], np.float32)
    labels = ["a", "a", "a", "b", "b"]
    assert neighbour_accuracy(index, index, labels, 1) == 1
    assert neighbour_accuracy(index, index, ["a", "b", "c", "d", "e"], 1) == 0  # nobody is its own neighbour
    assert neighbour_accuracy(index[::-1].copy(), index, labels, 1) < 1


def bundle_of(folder: Path, *, with_dense: bool) -> Path:
    """A small bundle of texts, and samples beside it."""
    torch.manual_seed(0)
    shape = TextEncoderConfig(width=32, depth=2, heads=2, ffn_width=64, vocabulary=50, length=12, task="embedding")
    dense = Network.from_config(shape).eval()
    adaptive = adapt(dense, dense.example_inputs(8), acm=ACMConfig(learners=2)).eval()
    source = LoadedModel("tiny", adaptive, dense if with_dense else None, None)
    export_bundle(source, folder / "bundle", calibration=None)
    np.savez(folder / "data.npz", **{name: value.numpy() for name, value in dense.example_inputs(20).items()})
    return folder / "bundle"


def test_a_bundle(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, with_dense=True)
    result = measure(bundle, read_files(tmp_path / "data.npz"), budgets=(), threads=1)
    (whole,) = result.rows
    assert (whole.budget, whole.work, result.samples, result.measure) == (None, 1.0, 20, "cosine")
    assert whole.likeness == pytest.approx(1, abs=1e-5) and whole.neighbours is None
    write_json(result, tmp_path / "result.json")
    refused = CliRunner().invoke(main, [str(bundle), "--data", str(tmp_path / "nothing.txt")])
    assert refused.exception is not None and "nothing.txt" in str(refused.exception)


def test_a_bundle_without_its_dense_model(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, with_dense=False)
    with pytest.raises(BenchError, match="without its dense model"):
        measure(bundle, read_files(tmp_path / "data.npz"))


def test_data_of_a_kind_that_the_bundle_does_not_take(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, with_dense=True)
    (tmp_path / "texts.txt").write_text("a text\n")
    with pytest.raises(ExportError, match="got data of kind text"):
        measure(bundle, read_files(tmp_path / "texts.txt"))
