from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import torch

from adaptrt.models.folder import save_model
from adaptrt.runtime.bundle.bundle_file import read_bundle


def test_json(exported):
    folder, report = exported
    assert report["bundle"] == str(folder)
    assert report["parity"]["passed"] is True
    rows = report["parity"]["rows"]
    assert {row["batch"] for row in rows} == {1, 2, 64}
    assert len({row["knobs"]["price"] for row in rows}) >= 5
    assert len(report["curve"]) == 5
    assert all(0 < point["macs_fraction"] < 1.2 for point in report["curve"])
    assert len(read_bundle(folder).curve) == 5


@pytest.mark.slow("exports")
def test_table_and_default_output(cli, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("export", model_folder, "--no-calibrate", "--debug")
    assert result.exit_code == 0
    assert "flips" in result.stdout and "agreement" in result.stdout
    assert "Curve" not in result.stdout
    assert "Bundle in build/tiny" in result.stdout
    bundle = read_bundle("build/tiny")
    assert not bundle.curve
    assert [spec.name for spec in bundle.outputs] == ["logits", "macs_fraction", "learners"]


def test_curve_table(exported):
    from adaptrt.cli.output import show
    from adaptrt.cli.tables import curve_table

    bundle = read_bundle(exported[0])
    made = curve_table(bundle.curve, bundle.quality_metric, bundle.dense.macs)
    assert made.row_count == 5
    assert [column.header for column in made.columns] == [
        "price",
        "of dense MACs",
        "MACs",
        "accuracy",
        "frontier",
    ]
    prices = [float(cell) for cell in made.columns[0].cells]
    assert prices == sorted(prices, reverse=True)  # cheapest first
    assert made.caption == "* on the frontier of the calibration data"
    show(made)


def test_parity_table_names_what_differs():
    """Several knobs are one column: those that vary, if they are on; a confidence has its own error."""
    from adaptrt.cli.tables import parity_table
    from adaptrt.export.parity.comparison import ParityRow

    def row(confidence_error=0.0, **knobs):
        return ParityRow(knobs, 2, 4, 100, 0, 1, 1e-6, confidence_error, 1e-8, 1.0, 0, 1e-6)

    made = parity_table([row(price=0.25), row(price=0.5)])
    assert [column.header for column in made.columns][:2] == ["price", "batch"]
    assert list(made.columns[0].cells) == ["0.2500", "0.5000"]
    assert "max confidence error" not in [column.header for column in made.columns]
    off = {"capacity": [-1.0, -1.0], "scale": 2.0}
    rows = [
        row(price=0.0, **off),
        row(3e-7, price=0.5, **off),
        row(price=0.0, capacity=[8.0, 3.0], scale=2.0),
    ]
    made = parity_table(rows)
    assert list(made.columns[0].cells) == ["price 0", "price 0.5", "price 0, capacity 8/3"]
    assert made.columns[0].header == "knobs"
    errors = next(column for column in made.columns if column.header == "max confidence error")
    assert list(errors.cells) == ["0.0e+00", "3.0e-07", "0.0e+00"]
    made = parity_table([row(capacity=[-1.0]), row(capacity=[2.0])])
    assert list(made.columns[0].cells) == ["everything runs", "capacity 2"]


def test_evaluations_and_workers_reach_the_calibration(cli, model_folder, tmp_path, monkeypatch):
    seen = {}
    exporter = importlib.import_module("adaptrt.export.exporter")

    def export_bundle(_source, folder, **settings):
        seen.update(settings)
        return exporter.ExportReport(folder, exporter.ParityReport([]), [])

    monkeypatch.setattr(exporter, "export_bundle", export_bundle)
    options = ("--evaluations", 77, "--workers", 3)
    assert cli("export", model_folder, "--output", tmp_path / "b", *options).exit_code == 0
    assert (seen["evaluations"], seen["workers"]) == (77, 3)
    assert cli("export", model_folder, "--output", tmp_path / "b").exit_code == 0
    assert (seen["evaluations"], seen["workers"]) == (None, None)


@pytest.mark.parametrize("verb_args", [["nowhere"], ["digit"]])
def test_no_such_model(refused, tmp_path, monkeypatch, verb_args):
    monkeypatch.chdir(tmp_path)
    assert "expected a ready model" in refused("export", *verb_args)
    assert not list(tmp_path.iterdir())


def test_model_folder_without_weights(refused, contents, model_folder, bundle, tmp_path):
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    before = contents(tmp_path)
    assert "model.safetensors" in refused("export", folder, "--output", bundle)
    (folder / "model.safetensors").write_bytes(b"12345678")
    assert "weights" in refused("export", folder, "--output", bundle)
    (folder / "model.safetensors").unlink()
    assert contents(tmp_path) == before


def test_output_that_is_no_bundle(refused, contents, model_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("everything")
    before = contents(tmp_path)
    assert "bundle" in refused("export", model_folder, "--output", tmp_path / "mine")
    assert "file" in refused("export", model_folder, "--output", tmp_path / "mine" / "thesis.tex")
    assert contents(tmp_path) == before


def test_unknown_data(refused, contents, model_folder, bundle, tmp_path):
    before = contents(tmp_path)
    assert "digits" in refused("export", model_folder, "--output", bundle, "--data", "letters")
    assert contents(tmp_path) == before


def test_data_of_another_shape(refused, contents, model_folder, bundle, tmp_path):
    inputs, labels = np.zeros((8, 1, 16, 16), np.float32), np.zeros(8, np.int64)
    data = tmp_path / "large.npz"
    np.savez(data, calibration_inputs=inputs, calibration_labels=labels, test_inputs=inputs, test_labels=labels)
    before = contents(tmp_path)
    assert "16" in refused("export", model_folder, "--output", bundle, "--data", data)
    assert contents(tmp_path) == before


def test_model_without_data(refused, tmp_path, model_folder):
    from adaptrt.models.folder import load_folder

    save_model(tmp_path / "own", load_folder(model_folder, "own").model, None, None, torch.float32)
    assert "--data or --no-calibrate" in refused("export", tmp_path / "own", "--output", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.fixture
def traced(monkeypatch, exported):
    """Tracing gives the graphs that were exported before, to save its time."""
    import onnx

    from adaptrt.export.graph.trace import TracedStage

    folder = exported[0]
    bundle = read_bundle(folder)

    def trace_stages(_model, **_settings):
        graph = onnx.load(str(folder / "model.onnx"))
        outputs = [spec for spec in bundle.outputs if spec.name != "macs_fraction"]
        return [TracedStage(graph, [], bundle.stages[0].decisions, "final", outputs)], bundle.ops

    exporter = importlib.import_module("adaptrt.export.exporter")
    monkeypatch.setattr(exporter, "trace_stages", trace_stages)
    monkeypatch.setattr(exporter, "trace_dense", lambda _model: onnx.load(str(folder / "dense.onnx")))


@pytest.mark.usefixtures("traced")
def test_no_space_left(refused, contents, model_folder, bundle, no_space):
    before = contents(bundle.parent)
    no_space()
    line = refused("export", model_folder, "--output", bundle, "--points", 2)
    assert "no space left" in line
    assert contents(bundle.parent) == before
    line = refused("export", model_folder, "--output", bundle.parent / "new", "--points", 2)
    assert "no space left" in line
    assert contents(bundle.parent) == before


@pytest.mark.usefixtures("traced")
def test_interrupted(cli, contents, model_folder, bundle, monkeypatch):
    def interrupt(*_args, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("adaptrt.export.calibration.calibrate"), "record_stages", interrupt)
    before = contents(bundle.parent)
    result = cli("export", model_folder, "--output", bundle)
    assert result.exit_code == 130
    assert "interrupted: no bundle was written" in result.stderr
    assert contents(bundle.parent) == before


@pytest.mark.usefixtures("traced")
def test_again_over_an_old_bundle(cli, model_folder, bundle):
    result = cli("export", model_folder, "--output", bundle, "--points", 3, "--json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["curve"]) == len(read_bundle(bundle).curve) == 3
