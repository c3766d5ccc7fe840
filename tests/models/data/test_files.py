"""Data as users have it: what is read of files and folders, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adaptrt.models.data.files import classes_of, read_files
from adaptrt.models.data.split import DataError


def test_a_text_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  two  \nthrée\n")
    found = read_files(tmp_path / "a.txt")
    assert (found.kind, found.items, found.labels) == ("text", ["one", "two", "thrée"], None)


def test_a_folder_of_pictures_whose_subfolders_are_labels(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (4, 4)).save(tmp_path / "pets" / label / f"{number}.png")
    (tmp_path / "pets" / "readme.md").write_text("not a picture")
    found = read_files(tmp_path / "pets")
    assert found.kind == "image" and list(found.labels or ()) == ["cat", "cat", "dog", "dog"]
    assert [Path(item).name for item in found.items] == ["0.png", "1.png"] * 2


def test_pictures_side_by_side_have_no_labels(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.JPG", "JPEG")
    assert read_files(tmp_path).labels is None


def test_recordings(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    found = read_files(tmp_path)
    assert (found.kind, len(found)) == ("audio", 1)


def test_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pixels=np.zeros((3, 1, 8, 8), np.float32), labels=np.array([0, 1, 1]))
    found = read_files(tmp_path / "a.npz")
    assert found.arrays is not None and set(found.arrays) == {"pixels"} and found.labels == [0, 1, 1]


@pytest.mark.slow("imports datasets")
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "saved"])
def test_tables(tmp_path: Path, suffix: str) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"body": ["good film", "bad film", "", "so so"], "label": ["pos", "neg", "neg", "pos"], "n": [1, 2, 3, 4]}
    table, path = datasets.Dataset.from_dict(rows), tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        table.to_csv(str(path), index=False)
    elif suffix == "jsonl":
        each = zip(*rows.values(), strict=True)
        path.write_text("".join(json.dumps(dict(zip(rows, row, strict=True))) + "\n" for row in each))
    elif suffix == "parquet":
        table.to_parquet(str(path))
    else:
        table.save_to_disk(str(path))
    found = read_files(path, text_column="body")
    assert (list(found.items), found.labels) == (["good film", "bad film", "so so"], ["pos", "neg", "pos"])
    with pytest.raises(DataError, match="got --text-column 'text', expected one of body, label, n"):
        read_files(path, text_column="text")


def test_classes_by_number_or_name() -> None:
    assert classes_of(["POS", "neg", 1, "0"], ["neg", "pos"]).tolist() == [1, 0, 1, 0]
    for wrong in (2, -1, "other"):
        with pytest.raises(DataError, match=r"of sample 1, expected a class of the model: 0 to 1, or one of neg, pos"):
            classes_of([0, wrong], ["neg", "pos"])


def _file(name: str, content: bytes) -> Any:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _one_class(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=np.zeros((3, 2)), labels=np.zeros(3, int))
    return folder / "a.npz"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "none", "expected a file or folder that is there"),
        (lambda folder: folder, "none of which is a picture or a wav file"),
        (_file("a.txt", b"\n \n"), "got no samples in"),
        (_file("a.txt", b"\xff\xfe"), "as UTF-8"),
        (_file("a.doc", b"x"), r"expected a folder or a file that ends in .txt, .npz or .csv"),
        (_file("a.npz", b"x"), "save it with numpy.savez"),
        (_one_class, r"got one class only in .* \(0\)"),
    ],
)
def test_what_is_refused(tmp_path: Path, make: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as refused:
        read_files(make(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.slow("imports datasets")
@pytest.mark.parametrize(("name", "content"), [("a.csv", b""), ("a.parquet", b"x"), ("a.jsonl", b"{")])
def test_damaged_tables(tmp_path: Path, name: str, content: bytes) -> None:
    pytest.importorskip("datasets")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot read|no samples") as refused:
        read_files(tmp_path / name)
    assert "\n" not in str(refused.value)
