from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from tests.staged_bundle import images, write_staged


@pytest.fixture
def data_file(tmp_path):
    """Labelled data of a shape: a function."""

    def make(*shape):
        path = tmp_path / "mine.npz"
        inputs = np.random.default_rng(0).random((20, *shape), dtype=np.float32)
        labels = np.arange(20) % 10
        np.savez(path, calibration_inputs=inputs, calibration_labels=labels, test_inputs=inputs, test_labels=labels)
        return path

    return make


def test_own_data(cli, bundle, data_file):
    result = cli("calibrate", bundle, "--data", data_file(1, 8, 8), "--points", 3)
    assert result.exit_code == 0
    assert "frontier" in result.stdout and "Curve of 3 points" in result.stdout
    content = json.loads((bundle / "bundle.json").read_text())
    assert len(content["curve"]) == 3
    assert content["data"] == {"name": "mine", "calibration": 20, "test": 20}


def test_data_of_the_bundle_and_json(cli, bundle):
    report = json.loads(cli("calibrate", bundle, "--points", 2, "--json").stdout)
    assert report["data"] == "digits" and report["evaluations"] == 2
    assert [point["knobs"]["price"] for point in report["curve"]] == [1.0, 0.0]
    assert report["curve"] == json.loads((bundle / "bundle.json").read_text())["curve"]


@pytest.fixture
def staged(tmp_path):
    """A bundle of all families, not calibrated, and data for it."""
    folder, data = tmp_path / "staged", tmp_path / "images.npz"
    write_staged(folder, calibrated=False)
    arrays = {f"{part}_inputs": images(80, seed) for seed, part in enumerate(("calibration", "test"))}
    labels = {name.replace("inputs", "labels"): np.arange(80) % 3 for name in arrays}
    np.savez(data, **arrays, **labels)
    return folder, data


def test_all_families(cli, staged):
    folder, data = staged
    arguments = ("calibrate", folder, "--data", data, "--points", 4, "--evaluations", 30)
    report = json.loads(cli(*arguments, "--json").stdout)
    assert {"price", "acm", "tokens", "exits", "hard"} <= {point["setting"] for point in report["curve"]}
    assert 10 < report["evaluations"] <= 30
    assert report["curve"] == json.loads((folder / "bundle.json").read_text())["curve"]
    result = cli(*arguments)
    assert result.exit_code == 0
    assert f"Curve of {len(report['curve'])} points" in result.stdout
    assert "one price for everything (of 30 passes at most)" in result.stderr
    assert f"calibrated in {report['evaluations']} passes" in result.stderr


def test_too_few_evaluations(refused, contents, staged):
    folder, data = staged
    before = contents(folder)
    line = refused("calibrate", folder, "--data", data, "--evaluations", 3)
    assert "got at most 3 evaluations, expected at least" in line
    assert contents(folder) == before
    assert "--evaluations" in refused("calibrate", folder, "--data", data, "--evaluations", 0)


def test_several_processes_give_the_same_curve(cli, refused, staged):
    folder, data = staged
    curves = []
    for workers in (1, 2):
        arguments = ("calibrate", folder, "--data", data, "--points", 3, "--evaluations", 30, "--workers", workers)
        result = cli(*arguments, "--json")
        assert result.exit_code == 0, result.output
        curves.append(json.loads(result.stdout)["curve"])
    assert curves[0] == curves[1]
    assert "--workers" in refused("calibrate", folder, "--data", data, "--workers", 0)


def test_a_process_that_dies_is_one_line(refused, contents, staged, monkeypatch):
    folder, data = staged
    workers = importlib.import_module("adaptrt.export.calibration.workers")
    monkeypatch.setattr(workers, "WORK", "import os; os.kill(os.getpid(), 9)")
    before = contents(folder)
    line = refused("calibrate", folder, "--data", data, "--points", 3, "--evaluations", 30, "--workers", 2)
    assert "died (signal 9)" in line and "fewer workers" in line
    assert contents(folder) == before


def test_an_interrupted_search_goes_on(cli, contents, staged, monkeypatch):
    folder, data = staged
    evaluations = importlib.import_module("adaptrt.export.calibration.evaluations")
    record, made = evaluations.record_passes, []

    def interrupt(model, split, passes, task):
        for records in record(model, split, passes, task):
            made.append(1)
            if len(made) == 9:
                raise KeyboardInterrupt
            yield records

    monkeypatch.setattr(evaluations, "record_passes", interrupt)
    before = contents(folder)
    arguments = ("calibrate", folder, "--data", data, "--points", 4, "--evaluations", 30)
    result = cli(*arguments)
    assert result.exit_code == 130
    assert "interrupted: the bundle is as it was, finished passes are kept; run it again to go on" in result.stderr
    journal = "calibration.journal.jsonl"
    assert {name: content for name, content in contents(folder).items() if journal not in name} == before
    result = cli(*arguments)
    assert result.exit_code == 0 and "going on from 8 finished passes" in result.stderr
    assert not (folder / journal).exists()


def test_bundle_calibrated_with_a_file(refused, cli, contents, bundle, data_file):
    data = data_file(1, 8, 8)
    assert cli("calibrate", bundle, "--data", data, "--points", 2).exit_code == 0
    before = contents(bundle)
    line = refused("calibrate", bundle)
    assert "calibrated with file data 'mine'" in line and "pass --data FILE.npz" in line
    assert contents(bundle) == before
    digits = data.rename(data.with_name("digits.npz"))  # not the data set of that name
    assert cli("calibrate", bundle, "--data", digits, "--points", 2).exit_code == 0
    assert "calibrated with file data 'digits'" in refused("calibrate", bundle)


def test_data_of_another_shape(refused, contents, bundle, data_file):
    data = data_file(1, 16, 16)
    before = contents(bundle)
    assert "16" in refused("calibrate", bundle, "--data", data)
    assert contents(bundle) == before


def test_unknown_data(refused, contents, bundle, edit, tmp_path):
    for unknown in ("digit", ""):
        assert "expected one of digits" in refused("calibrate", bundle, "--data", unknown)
    (tmp_path / "broken.npz").write_text("nothing")
    assert "broken.npz" in refused("calibrate", bundle, "--data", tmp_path / "broken.npz")
    edit(bundle, lambda content: content.update(data={}))
    before = contents(bundle)
    assert "--data" in refused("calibrate", bundle)
    assert contents(bundle) == before


def test_interrupted(cli, contents, bundle, monkeypatch):
    def interrupt(*_args, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("adaptrt.export.calibration.calibrate"), "record_stages", interrupt)
    before = contents(bundle)
    result = cli("calibrate", bundle)
    assert result.exit_code == 130
    assert "interrupted: the bundle is as it was" in result.stderr
    assert contents(bundle) == before


def test_no_space_left(refused, contents, bundle, no_space):
    before = contents(bundle)
    no_space()
    assert "no space left" in refused("calibrate", bundle, "--points", 2)
    assert contents(bundle) == before
