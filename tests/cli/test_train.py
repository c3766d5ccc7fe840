from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from adaptrt.cli.train import scaled
from adaptrt.cli.train_log import EpochHistory, encode_log
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.folder import load_folder
from adaptrt.models.training.phase import Progress
from adaptrt.models.training.precision import PrecisionChoice
from adaptrt.models.training.recipe import Recipe

RECIPE = Recipe(
    vit=ViTConfig(width=16, depth=1, heads=1, ffn_width=32),
    acm=ACMConfig(learners=2, gate_width=4),
    dense_epochs=2,
    distil_epochs=1,
    gate_epochs=1,
    joint_epochs=2,
    batch=16,
    prices=2,
)


def _split(samples, seed):
    generator = np.random.default_rng(seed)
    images = generator.random((samples, 1, 8, 8), dtype=np.float32)
    return Split(images, generator.integers(0, 10, samples))


@pytest.fixture(autouse=True)
def tiny_recipe(monkeypatch):
    """The ready model is a tiny one, its data a few images of noise."""
    monkeypatch.setitem(importlib.import_module("adaptrt.models.registry").RECIPES, "digits", RECIPE)
    data = DataSplits("digits", calibration=_split(20, 1), test=_split(20, 2), train=_split(48, 0))
    monkeypatch.setitem(importlib.import_module("adaptrt.models.data.split").DATA_SETS, "digits", lambda: data)
    choice = PrecisionChoice("float32", "as tests have it")
    monkeypatch.setattr("adaptrt.models.training.precision.precision_of_this_machine", lambda: choice)


@pytest.fixture
def interrupt_after(monkeypatch):
    """Ctrl-C after a number of checkpoints."""

    def arrange(checkpoints):
        phase = importlib.import_module("adaptrt.models.training.phase")
        save, left = phase._save, [checkpoints]

        def interrupted_save(*args):
            save(*args)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        monkeypatch.setattr(phase, "_save", interrupted_save)
        return lambda: monkeypatch.setattr(phase, "_save", save)

    return arrange


def _folders(tmp_path):
    return ["--output", tmp_path / "weights", "--work", tmp_path / "work"]


def test_weights_and_log(cli, tmp_path):
    result = cli("train", *_folders(tmp_path), "--precision", "float32", "--seed", 3, "--json")
    assert result.exit_code == 0, result.output
    log = json.loads((tmp_path / "weights" / "train_log.json").read_text())
    assert {"weights": str(tmp_path / "weights"), **log} == json.loads(result.stdout)
    assert log["recipe"]["seed"] == 3 and log["precision"] == log["recipe"]["precision"] == "float32"
    assert log["data"] == {"name": "digits", "train": 48, "calibration": 20, "test": 20}
    assert [phase["phase"] for phase in log["phases"]] == ["dense", "distil", "gates", "joint"]
    assert [len(phase["loss"]) for phase in log["phases"]] == [2, 1, 1, 2]
    assert [len(phase.get("accuracy", [])) for phase in log["phases"]] == [2, 0, 0, 2]
    assert all(phase["seconds"] >= 0 for phase in log["phases"])
    rows = log["evaluation"]["adaptive"]
    assert [row["price"] for row in rows] == pytest.approx(np.linspace(0, 1, 11))
    assert all(0 <= row[part]["accuracy"] <= 1 for row in rows for part in ("calibration", "test"))
    work = [row["test"]["macs_fraction"] for row in rows]
    assert work[0] > 1 > work[-1]
    assert "price" not in log["evaluation"]["dense"]
    assert "dense" in result.stderr and "loss" in result.stderr  # progress


def test_what_is_evaluated_is_what_was_saved(cli, tmp_path):
    import torch

    assert cli("train", *_folders(tmp_path)).exit_code == 0
    saved = load_folder(tmp_path / "weights", "x")
    assert saved.data_name == "digits" and saved.dense is not None
    test = importlib.import_module("adaptrt.models.data.split").load_data("digits").test
    with torch.no_grad():
        logits = saved.dense(torch.from_numpy(test.inputs)).logits
    accuracy = float((logits.argmax(1).numpy() == test.labels).mean())
    log = json.loads((tmp_path / "weights" / "train_log.json").read_text())
    assert log["evaluation"]["dense"]["test"]["accuracy"] == pytest.approx(accuracy)


def test_table(cli, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / EpochHistory.FILE).write_bytes(b"\xff\x00\xfe")
    result = cli("train", "digits", *_folders(tmp_path), "--epochs-scale", 0.5)
    assert result.exit_code == 0
    assert "note: 1 unreadable line in" in result.stderr
    log = json.loads((tmp_path / "weights" / "train_log.json").read_text())
    assert [phase["epoch"] for phase in log["phases"]] == [[1], [1], [1], [1]]
    assert "test accuracy" in result.stdout and "dense" in result.stdout
    assert f"adaptrt export {tmp_path / 'weights'}" in result.stdout


def test_interrupted_and_resumed(cli, tmp_path, interrupt_after):
    restore = interrupt_after(4)
    result = cli("train", *_folders(tmp_path))
    assert result.exit_code == 130
    last = result.stderr.splitlines()[-1]
    assert last.startswith("interrupted: ") and "same command" in last and str(tmp_path / "work") in last
    assert not (tmp_path / "weights").exists()
    restore()
    result = cli("train", *_folders(tmp_path))
    assert result.exit_code == 0
    assert f"resuming from the checkpoints in {tmp_path / 'work'}" in result.stderr
    assert "joint" in result.stderr and "gates 1/" not in result.stderr
    log = json.loads((tmp_path / "weights" / "train_log.json").read_text())
    assert [phase["epoch"] for phase in log["phases"]] == [[1, 2], [1], [1], [1, 2]]
    other = tmp_path / "other"
    assert cli("train", "--output", other, "--work", tmp_path / "fresh").exit_code == 0
    assert (other / "model.safetensors").read_bytes() == (tmp_path / "weights" / "model.safetensors").read_bytes()


def test_other_recipe_in_the_folder(cli, contents, tmp_path):
    assert cli("train", *_folders(tmp_path), "--seed", 1).exit_code == 0
    before = contents(tmp_path)
    assert "another recipe" in _last_line_refused(cli, "train", *_folders(tmp_path), "--seed", 2)
    assert contents(tmp_path) == before


def _last_line_refused(cli, *args):
    """As ``refused``, where remarks come before the error."""
    result = cli(*args)
    assert result.exit_code == 2 and result.stdout == ""
    *remarks, last = result.stderr.splitlines()
    assert last.startswith("error: ") and not any(line.startswith("error") for line in remarks)
    return last


def test_bad_arguments(refused, tmp_path):
    (tmp_path / "file").touch()
    assert "digits" in refused("train", "letters", *_folders(tmp_path))
    assert "is a file" in refused("train", "--output", tmp_path / "file", "--work", tmp_path / "work")
    assert "is a file" in refused("train", "--output", tmp_path / "weights", "--work", tmp_path / "file")
    for scale in ("0", "-1", "inf", "nan"):
        assert "--epochs-scale" in refused("train", *_folders(tmp_path), "--epochs-scale", scale)
    assert "Not a directory" in refused("train", "--output", tmp_path / "file" / "a", "--work", tmp_path / "work")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_space_left(cli, tmp_path, monkeypatch):
    import errno

    phase = importlib.import_module("adaptrt.models.training.phase")

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(phase, "_save", full)
    line = _last_line_refused(cli, "train", *_folders(tmp_path))
    assert "No space left" in line and "same command" in line
    assert not (tmp_path / "weights").exists()


def test_scaled_epochs():
    recipe = scaled(Recipe(), 0.1)
    assert (recipe.dense_epochs, recipe.gate_epochs) == (round(Recipe().dense_epochs * 0.1), 1)
    assert scaled(Recipe(), 1.0) == Recipe()


def test_history_survives_a_torn_line(capsys, tmp_path):
    history = EpochHistory(tmp_path)
    for step in range(1, 5):
        history.record(Progress("dense", step, 6, 1.0 / step, None, 0.0, 3))
    with (tmp_path / EpochHistory.FILE).open("a") as file:
        file.write('{"phase": "den')
    resumed = EpochHistory(tmp_path)
    [phase] = resumed.phases()
    assert phase["epoch"] == [1, 2] and phase["loss"] == [0.5, 0.25]
    assert "accuracy" not in phase
    assert "1 unreadable line in" in capsys.readouterr().err
    resumed.record(Progress("dense", 6, 6, 0.125, None, 0.0, 3))
    [phase] = EpochHistory(tmp_path).phases()
    assert phase["epoch"] == [1, 2, 3]  # the new line is not glued to the torn one


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n\xff\xfe\x00",
        b'{"phase": "dense", "epoch": 1}\n',
        b"[1, 2]\nnull\n",
        b'{"phase": 1, "epoch": "x", "epochs": 1, "loss": 1.0, "accuracy": null, "seconds": 0.0}\n',
        b"[" * 100_000,
    ],
)
def test_history_of_anything_is_ignored(capsys, tmp_path, content):
    (tmp_path / EpochHistory.FILE).write_bytes(content)
    history = EpochHistory(tmp_path)
    assert history.phases() == []
    note = capsys.readouterr().err
    assert note.startswith("note: ") and EpochHistory.FILE in note and note.count("\n") == 1
    history.record(Progress("dense", 1, 1, 0.5, 0.25, 0.0))
    [phase] = EpochHistory(tmp_path).phases()
    assert phase["loss"] == [0.5] and phase["accuracy"] == [0.25]


def test_log_is_compact_and_finite():
    text = encode_log({"phases": [{"loss": [1.0, float("nan")], "names": ["a", "b"]}], "empty": []}).decode()
    assert json.loads(text) == {"phases": [{"loss": [1.0, None], "names": ["a", "b"]}], "empty": []}
    assert '"loss": [1.0, null]' in text


@pytest.fixture
def measured(monkeypatch):
    """What this machine is best at."""

    def say(precision, reason, speedup=None):
        choice = PrecisionChoice(precision, reason, speedup)
        monkeypatch.setattr("adaptrt.models.training.precision.precision_of_this_machine", lambda: choice)

    return say


def _trained(cli, tmp_path, *args):
    result = cli("train", *_folders(tmp_path), *args)
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.stderr.splitlines() if line.startswith("training in ")]
    log = json.loads((tmp_path / "weights" / "train_log.json").read_text())
    assert log["precision"] == log["recipe"]["precision"]
    return line, log["precision"], log["bfloat16_speedup"]


def test_auto_precision(measured, tmp_path, cli):
    measured("bfloat16", "2.2 times as fast as float32 here", 2.2)
    line = "training in bfloat16: 2.2 times as fast as float32 here"
    assert _trained(cli, tmp_path / "fast") == (line, "bfloat16", 2.2)
    assert _trained(cli, tmp_path / "asked", "--precision", "float32") == (
        "training in float32: it was asked for",
        "float32",
        None,
    )
    measured("float32", "bfloat16 fails here (no such primitive)")
    line = "training in float32: bfloat16 fails here (no such primitive)"
    assert _trained(cli, tmp_path / "fails") == (line, "float32", None)


def test_a_training_goes_on_in_its_precision(measured, tmp_path, cli, contents, interrupt_after):
    measured("bfloat16", "2.2 times as fast as float32 here", 2.2)
    restore = interrupt_after(4)
    assert cli("train", *_folders(tmp_path)).exit_code == 130
    restore()
    measured("float32", "bfloat16 is 1.00 times as fast here, less than 1.2", 1.0)
    before = contents(tmp_path)
    line = _last_line_refused(cli, "train", *_folders(tmp_path), "--precision", "float32")
    assert "got precision float32, expected bfloat16" in line and contents(tmp_path) == before
    line = "training in bfloat16: this training began in it"
    assert _trained(cli, tmp_path) == (line, "bfloat16", 2.2)
    whole = tmp_path / "whole"
    assert _trained(cli, whole, "--precision", "bfloat16")[1] == "bfloat16"
    weights = [folder / "weights" / "model.safetensors" for folder in (tmp_path, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
