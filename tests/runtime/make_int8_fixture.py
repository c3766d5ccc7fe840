"""Makes ``fixtures/int8``: an adapted text encoder with its graphs in int8, the dense model's among them.

``test_int8_bundle`` runs it on the ONNX Runtime and Python that older devices are bound to. ``answers.npz`` is what the
ONNX Runtime gave that is installed where this runs. Some activations have fixed scales, the others a scale for each
token. Needs torch, transformers and onnx; run it after a change to the int8 graphs, from the repository's folder:
``python -W ignore -m tests.runtime.make_int8_fixture``.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch

from adaptrt.export.exporter import export_bundle
from adaptrt.export.targets import activation_ranges, int8_scales
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.models import ACMConfig, Network
from adaptrt.models.adaptation import adapt
from adaptrt.models.adapters.pretrained.load import load_pretrained
from adaptrt.models.folder import LoadedModel
from adaptrt.runtime import load
from tests.models.adapters.pretrained.tiny_models import saved
from tests.runtime.test_int8_bundle import ANSWERS, FOLDER, PRECISIONS, SETTINGS, Array, answers

LARGEST = 150_000  # bytes that the repository can carry without a thought
NOISE = 3.5e-5
"""Between the fixed scales' errors here, so that there are scales of both kinds."""


def make(folder: Path, work: Path) -> None:
    """Export the bundle, build it in int8, and leave out what only a build needs."""
    dense = load_pretrained(
        saved(work / "checkpoint", "bert", num_hidden_layers=1, intermediate_size=64, vocab_size=30)[0],
        task="embedding",
        length=8,
    ).model
    assert isinstance(dense, Network)
    torch.manual_seed(1)
    adaptive = adapt(dense, dense.example_inputs(8), acm=ACMConfig(2, gate_width=4)).eval()
    with torch.no_grad():
        for name, parameter in adaptive.blocks.named_parameters():
            parameter.mul_(1.3)  # as training for small budgets takes it away from the dense network
            if "gate." in name and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.7)
    export_bundle(LoadedModel("int8", adaptive, dense, None), folder, calibration=None)
    settings = BuildSettings("onnxruntime", "int8", activations="static", max_quality_drop=0.05)
    with mock.patch.object(activation_ranges, "FEWEST_ROWS", 8), mock.patch.object(int8_scales, "MOST_NOISE", NOISE):
        report = build_target(folder, settings)
    assert report.engines.dense is not None and not report.notes, report.notes
    for name in ("stage0.onnx", "dense.onnx"):
        graph = onnx.load(str(report.folder / name)).graph
        scaled = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        by_token = [node for node in scaled if any(each.name == "axis" for each in node.attribute)]
        by_token += [node for node in scaled if node.input[0].endswith("_in_steps")]
        if not 0 < len(by_token) < len(scaled):
            raise SystemExit(
                f"got {len(by_token)} of {len(scaled)} scales by token in {name}, expected some; set NOISE"
            )
    inputs = {name: tensor.numpy() for name, tensor in dense.example_inputs(6).items()}
    found: dict[str, Array] = {f"input.{name}": array for name, array in inputs.items()}
    for precision in PRECISIONS:
        model = load(folder, precision=precision, threads=1)
        for name, asked in SETTINGS.items():
            given: dict[str, Any] = answers(model, inputs, asked)
            found.update({f"{precision}.{name}.{output}": array for output, array in given.items()})
    np.savez_compressed(folder / ANSWERS, **found)  # type: ignore[arg-type]
    for name in ("dense.onnx", "golden.npz"):
        (folder / name).unlink()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "int8"
        make(made, Path(scratch))
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        if size > LARGEST:
            raise SystemExit(f"got {size} bytes, expected at most {LARGEST}; make the model smaller")
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(made, FOLDER)
    print(f"wrote {FOLDER}, {size} bytes")
