from __future__ import annotations

import importlib
import json
import shutil

import numpy as np
import pytest

from tests.staged_bundle import images

QUICK = ["--batch", 2, "--points", 3, "--rounds", 1]


def test_table_and_numbers(cli, bundle):
    result = cli("bench", bundle, *QUICK, "--no-plot")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if "%" in line]
    # Three points and at most the two headlines, then the dense model.
    assert 4 <= len(lines) <= 6 and lines[-1].split()[0] == "dense"
    assert any(line.rstrip().endswith("*") for line in lines)
    assert "batch 2, ms" in result.stdout
    assert json.loads((bundle / "bench.json").read_text())
    assert not (bundle / "frontier.png").exists()


def test_json_and_other_files(cli, bundle, tmp_path, pixels):
    pytest.importorskip("matplotlib")
    numbers, picture = tmp_path / "n.json", tmp_path / "p.svg"
    result = cli("bench", bundle, *QUICK, "--input", pixels, "--output", numbers, "--plot", picture, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert 3 <= len(report["rows"]) <= 5
    shares = [row["macs_fraction"] for row in report["rows"]]
    assert shares == sorted(shares)
    for row in report["rows"]:
        assert row["latency_ms"]["2"]["median"] > 0 and row["ratio"]["2"]["median"] > 0
    assert report["dense"]["2"]["median"] > 0
    assert report["written"] == {"json": str(numbers), "plot": str(picture)}
    assert numbers.is_file() and picture.read_bytes().lstrip().startswith(b"<?xml")
    assert not (bundle / "bench.json").exists()


def test_default_picture(cli, bundle):
    pytest.importorskip("matplotlib")
    assert cli("bench", bundle, *QUICK).exit_code == 0
    assert (bundle / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_bundle_without_dense_model(cli, bundle, edit):
    edit(bundle, lambda content: content["dense"].update(file=None, sha256=None))
    result = cli("bench", bundle, *QUICK, "--no-plot")
    assert result.exit_code == 0, result.output
    [dense] = [line for line in result.stdout.splitlines() if line.strip().startswith("dense")]
    assert dense.split()[-2:] == ["-", "-"]


def test_several_stages(cli, staged, tmp_path):
    copied = shutil.copytree(staged, tmp_path / "staged")
    np.save(tmp_path / "x.npy", images(70))
    args = ["bench", copied, "--batch", 1, "--points", 4, "--rounds", 1, "--input", tmp_path / "x.npy", "--no-plot"]
    result = cli(*args)
    assert result.exit_code == 0, result.output
    assert "knobs" in result.stdout and "exits 0." in result.stdout and "capacity" not in result.stdout
    report = json.loads((copied / "bench.json").read_text())
    assert report["stages"] == 2 and report["samples"] == {"1": 64}
    assert all(row["ratio"]["1"]["median"] > 0 for row in report["rows"])


@pytest.mark.slow("starts a process of every static model")
def test_rivals(cli, bundle, tmp_path):
    pytest.importorskip("matplotlib")
    cli("build", bundle, "--target", "onnxruntime", "--max-quality-drop", 1)
    result = cli(
        "bench", bundle, "--rivals", "--batch", 2, "--points", 3, "--samples", 40, "--plot", tmp_path / "p.svg"
    )
    assert result.exit_code == 0, result.output
    assert "accuracy on 40 samples of digits" in result.stdout and "At batch 2 " in result.stdout
    report = json.loads((bundle / "rivals.json").read_text())
    names = [entry["name"] for entry in report["entries"]]
    assert names.count("adaptive") == 3 and "dense float32" in names and "uniform width 1/2" in names
    assert report["samples"] == 40 and report["data"] == "digits"
    assert not [reason for reason in report["left_out"] if "int8" in reason]
    for entry in report["entries"]:
        assert 0 <= entry["quality"] <= 1 and entry["latency_ms"]["2"]["median"] > 0
        assert entry["adaptive"] == (entry["work"] is not None)
    assert (tmp_path / "p.svg").read_bytes().lstrip().startswith(b"<?xml")


@pytest.mark.slow("starts a process of every static model")
def test_rivals_without_data(cli, bundle, edit):
    edit(bundle, lambda content: content["data"].update(name="lost"))
    args = ["bench", bundle, "--rivals", "--batch", 1, "--points", 2, "--no-plot", "--json"]
    result = cli(*args)
    assert result.exit_code == 0, result.output
    assert "golden inputs" in result.stderr
    report = json.loads(result.stdout)
    dense = next(entry for entry in report["entries"] if entry["name"] == "dense float32")
    assert report["data"] == "golden inputs" and dense["quality"] == 1.0


def test_rivals_refused(refused, contents, bundle, edit, tmp_path):
    before = contents(tmp_path)
    assert "all that are here" in refused("bench", bundle, "--rivals", "--precision", "int8")
    assert "--rivals" in refused("bench", bundle, "--data", "digits")
    assert "--rivals" in refused("bench", bundle, "--rival", bundle)
    assert "expected a dense network" in refused("bench", bundle, "--rivals", "--rival", bundle, "--no-plot")
    assert "expected the folder of a trained" in refused("bench", bundle, "--rivals", "--rival", tmp_path / "none")
    assert "rename" in refused("bench", bundle, "--rivals", "--rival", bundle, "--rival", bundle)
    assert "expected one of" in refused("bench", bundle, "--rivals", "--data", "nothing")
    assert contents(tmp_path) == before
    edit(bundle, lambda content: content["dense"].update(file=None, sha256=None, external_data=[]))
    assert "without its dense model" in refused("bench", bundle, "--rivals", "--no-plot")


def test_refused(refused, contents, bundle, edit, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 4, 4), np.float32))
    before = contents(tmp_path)
    assert "4" in refused("bench", bundle, *QUICK, "--input", tmp_path / "x.npy")
    assert ".json" in refused("bench", bundle, *QUICK, "--output", tmp_path / "x.txt")
    assert ".png" in refused("bench", bundle, *QUICK, "--plot", tmp_path / "x.doc")
    assert "two files" in refused("bench", bundle, *QUICK, "--output", bundle / "bundle.json")
    assert contents(tmp_path) == before
    edit(bundle, lambda content: content.update(curve=[]))
    assert "calibrate" in refused("bench", bundle, *QUICK)


def test_interrupted(cli, contents, bundle, monkeypatch):
    def interrupt(*_args, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("adaptrt.bench.timing.bundle_latency"), "measure_bundle", interrupt)
    before = contents(bundle)
    result = cli("bench", bundle, *QUICK)
    assert result.exit_code == 130 and "nothing was written" in result.stderr
    assert contents(bundle) == before
