"""What is wrong with a bundle is said in one line by every verb that reads one, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

FORMAT_1 = Path(__file__).parents[1] / "runtime" / "fixtures" / "format_1"


def _missing(folder, _edit):
    (folder / "bundle.json").unlink()


def _truncated(folder, _edit):
    text = (folder / "bundle.json").read_bytes()
    (folder / "bundle.json").write_bytes(text[: len(text) // 2])


def _unknown_version(folder, edit):
    edit(folder, lambda content: content.update(format_version=3))


def _damaged_format_1(folder, edit):
    shutil.copytree(FORMAT_1 / "tokens", folder, dirs_exist_ok=True)
    edit(folder, lambda content: content["stages"][0].update(decisions=["kept_0", "learners_0"]))


def _format_1_of_other_types(folder, edit):
    shutil.copytree(FORMAT_1 / "tokens", folder, dirs_exist_ok=True)
    edit(folder, lambda content: content.update(tokens={"tokens": {"size": 6}}))


def _other_hash(folder, _edit):
    model = bytearray((folder / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (folder / "model.onnx").write_bytes(model)


def _leaves_the_folder(folder, edit):
    (folder / "model.onnx").rename(folder.parent / "model.onnx")
    edit(folder, lambda content: content["stages"][0].update(file="../model.onnx"))


DAMAGES = {
    _missing: "no bundle.json",
    _truncated: "not readable as JSON",
    _unknown_version: "format_version is 3, expected 2",
    _damaged_format_1: "'learners_0' after 'kept_0', expected 'count_0'",
    _format_1_of_other_types: "Expected `int | str | null`, got `object`",
    _other_hash: "sha256",
    _leaves_the_folder: "inside the bundle's folder",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("verb", ["inspect", "verify", "calibrate", "run", "bench"])
def test_damaged_bundle(refused, contents, bundle, edit, pixels, verb, damage):
    damage(bundle, edit)
    before = contents(bundle.parent)
    args = {
        "run": [pixels, "--output", bundle.parent / "out.npz"],
        "calibrate": ["--data", "digits"],
        "bench": ["--rounds", 1, "--batch", 1],
    }
    assert DAMAGES[damage] in refused(verb, bundle, *args.get(verb, []))
    assert contents(bundle.parent) == before


@pytest.mark.parametrize("verb", ["inspect", "verify", "calibrate", "run", "bench"])
def test_no_bundle(refused, tmp_path, pixels, verb):
    line = refused(verb, tmp_path / "nowhere", *([pixels] if verb == "run" else []))
    assert "no folder" in line and "adaptrt export" in line
    assert list(tmp_path.iterdir()) == [pixels]
