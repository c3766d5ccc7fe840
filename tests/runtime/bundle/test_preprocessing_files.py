"""Files that make a bundle's inputs: inside its folder, as they were when exported, and no larger than allowed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from adaptrt.runtime import BundleError, load
from adaptrt.runtime.bundle import bundle_files
from adaptrt.runtime.bundle.bundle_file import read_bundle

FIXTURES = Path(__file__).parents[1] / "fixtures"
CONTENT = b'{"model": {"vocab": {"a": 0, "b": 1}}}\n'


def entry(file="tokenizer.json", role="tokenizer", content=CONTENT):
    return {"file": file, "sha256": hashlib.sha256(content).hexdigest(), "role": role}


@pytest.fixture
def folder(tmp_path, edit):
    copy = Path(shutil.copytree(FIXTURES / "texts", tmp_path / "texts"))
    (copy / "tokenizer.json").write_bytes(CONTENT)
    edit(copy, lambda b: b.update(files=[entry()]))
    return copy


def refused(folder, match):
    for read in (load, read_bundle, lambda path: read_bundle(path, verify_hashes=False)):
        with pytest.raises(BundleError, match=match) as caught:
            read(folder)
        assert "\n" not in str(caught.value)


def test_a_file_comes_back_as_it_was_hashed(folder):
    (listed,) = load(folder, threads=1).bundle.files
    assert (listed.file, listed.role) == ("tokenizer.json", "tokenizer")
    root = bundle_files.bundle_root(folder)
    assert bundle_files.read_preprocessing(root, listed) == CONTENT
    (folder / "tokenizer.json").write_bytes(CONTENT + b" ")
    with pytest.raises(BundleError, match="was changed or damaged"):
        bundle_files.read_preprocessing(root, listed)


def test_an_altered_file(folder):
    (folder / "tokenizer.json").write_bytes(CONTENT.replace(b"0", b"1"))
    refused(folder, "'tokenizer.json' was changed or damaged: sha256 is .*copy the bundle again")


def test_a_missing_file(folder):
    (folder / "tokenizer.json").unlink()
    refused(folder, "'tokenizer.json' is missing")


def test_a_link_inside_and_one_that_leaves(folder, tmp_path):
    (folder / "tokenizer.json").rename(folder / "words.json")
    (folder / "tokenizer.json").symlink_to("words.json")
    assert load(folder, threads=1)
    (folder / "words.json").rename(tmp_path / "words.json")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(tmp_path / "words.json")
    refused(folder, "'tokenizer.json' is a link that leaves the folder")


def test_a_folder_in_its_place(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()
    refused(folder, "'tokenizer.json' is not a regular file")


def test_a_file_that_is_too_large(folder, monkeypatch):
    monkeypatch.setattr(bundle_files, "MAX_PREPROCESSING_BYTES", 10)
    refused(folder, f"{len(CONTENT)} bytes, expected at most 10")


WRONG = {
    "outside": (lambda b: b["files"][0].update(file="../tokenizer.json"), "'tokenizer': path '../tokenizer.json'"),
    "absolute": (lambda b: b["files"][0].update(file="/etc/passwd"), "path '/etc/passwd', expected a relative path"),
    "in a folder": (lambda b: b["files"][0].update(file="a/b.json"), "'a/b.json', expected a file directly in"),
    "no hash": (lambda b: b["files"][0].update(sha256="0"), "sha256 '0', expected 64"),
    "no role": (lambda b: b["files"][0].update(role=""), "files role: '', expected 1 to"),
    "two of a role": (lambda b: b["files"].append(entry("other.json")), "'tokenizer' twice"),
    "two of a name": (lambda b: b["files"].append(entry(role="words")), "'tokenizer.json' twice"),
    "a stage": (lambda b: b["files"][0].update(file="stage0.onnx"), "'stage0.onnx' twice"),
    "the bundle itself": (lambda b: b["files"][0].update(file="bundle.json"), "'bundle.json' twice"),
    "a name alone": (lambda b: b.update(files=["tokenizer.json"]), "Expected `object`, got `str`"),
    "too many": (lambda b: b.update(files=[entry()] * 101), "files: 101 entries, expected 0 to 100"),
}


@pytest.mark.parametrize("change,match", WRONG.values(), ids=WRONG)
def test_wrong_entries(folder, edit, change, match):
    edit(folder, change)
    refused(folder, match)


def test_an_export_replaces_its_own_files_and_no_others(folder):
    pytest.importorskip("onnx", reason="export needs the onnx package")
    from adaptrt.export.errors import ExportError
    from adaptrt.export.staging import check_replaceable, write_preprocessing

    check_replaceable(folder)
    assert write_preprocessing(folder, "tokenizer.json", CONTENT, "tokenizer").sha256 == entry()["sha256"]
    check_replaceable(folder)
    (folder / "tokenizer.json").write_bytes(b"something that a user wrote")
    with pytest.raises(ExportError, match="holds 'tokenizer.json', expected nothing but a bundle"):
        check_replaceable(folder)
    (folder / "bundle.json").write_text("{")
    with pytest.raises(ExportError, match=r"holds 'tokenizer.json'"):
        check_replaceable(folder)
