"""``adaptrt demo`` and ``adaptrt export --demo``: what is in the folder, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adaptrt.cli.group import adaptrt
from adaptrt.export.demo import page as demo_page
from adaptrt.export.parity.reference import read_golden
from adaptrt.runtime import load
from tests.demo_bundle import make_text_bundle

FIXTURES = Path(__file__).parents[1] / "runtime" / "fixtures"
EXPORTED = FIXTURES / "exported"
DEFAULT_PAGE = demo_page.default_page


@pytest.fixture(autouse=True)
def built(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands in for the page that npm builds."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "onnxruntime").mkdir(parents=True)
    (folder / "onnxruntime" / "ort.wasm").write_bytes(b"wasm")
    for name in ("index.html", "page.js", "model_worker.js", "dense_worker.js", "input_worker.js", "demo.css"):
        (folder / name).write_text(name)
    monkeypatch.setattr(demo_page, "default_page", lambda: folder)
    return folder


def names(folder: Path) -> set[str]:
    """Every file of a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_has_page_bundle_and_samples(cli: Any, built: Path, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    result = cli("demo", EXPORTED, "--output", demo)
    assert result.exit_code == 0, result.output
    assert f"python -m http.server --directory {demo} 8000" in result.stdout
    manifest = json.loads((demo / "demo.json").read_text())
    assert manifest["format"] == 1 and len(manifest["samples"]) == 12
    pictures = {sample["picture"] for sample in manifest["samples"]}
    assert names(demo) == names(built) | pictures | {"demo.json", "bundle/bundle.json", "bundle/model.onnx"}
    for name in ("bundle.json", "model.onnx"):
        assert (demo / "bundle" / name).read_bytes() == (EXPORTED / name).read_bytes()


def test_samples_are_the_golden_inputs_of_all_classes(cli: Any, tmp_path: Path) -> None:
    report = json.loads(cli("demo", EXPORTED, "--output", tmp_path / "demo", "--json").stdout)
    assert report["samples"] == 12 and report["bytes"] > 10_000
    golden = read_golden(EXPORTED / "golden.npz")[0]
    model = load(EXPORTED, threads=1)
    labels = []
    for number in range(12):
        picture = tmp_path / "demo" / "samples" / f"{number:02}.png"
        made = model.preprocess.images([picture])["pixels"]
        nearest = np.abs(golden.inputs["pixels"] - made).max(axis=(1, 2, 3))
        assert nearest.min() <= 0.5 / 255 + 1e-6
        labels.append(int(golden.stages[-1].outputs["logits"][nearest.argmin()].argmax()))
    logits = golden.stages[-1].outputs["logits"]
    assert set(labels) == set(logits.argmax(axis=1).tolist())


def test_pictures_of_ones_own(cli: Any, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (10, 200, 30)).save(file, "JPEG")
    (tmp_path / "<b>.JPG").write_bytes(file.getvalue())
    result = cli("demo", EXPORTED, "--output", tmp_path / "demo", "--sample", tmp_path / "<b>.JPG")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["samples"] == [{"picture": "samples/00.jpg"}]
    assert (tmp_path / "demo" / "samples" / "00.jpg").read_bytes() == file.getvalue()


def test_texts(cli: Any, tmp_path: Path) -> None:
    make_text_bundle(tmp_path / "texts")
    (tmp_path / "lines.txt").write_text("w5 w6\n\n<i>w7</i>\n")
    demo = tmp_path / "demo"
    result = cli("demo", tmp_path / "texts", "--output", demo, "--sample", "w9", "--sample", tmp_path / "lines.txt")
    assert result.exit_code == 0, result.output
    samples = json.loads((demo / "demo.json").read_text())["samples"]
    assert samples == [{"text": "w9"}, {"text": "w5 w6"}, {"text": "<i>w7</i>"}]
    assert {"bundle/dense.onnx", "bundle/tokenizer.json"} <= names(demo)
    # Golden runs are of data, or there are none; the dense graph may have been left out on a device.
    (tmp_path / "texts" / "dense.onnx").unlink()
    assert cli("demo", tmp_path / "texts", "--output", demo).exit_code == 0
    assert json.loads((demo / "demo.json").read_text())["samples"] == []
    assert "bundle/dense.onnx" not in names(demo)


def test_golden_texts_are_decoded(cli: Any, tmp_path: Path) -> None:
    from adaptrt.export.parity.reference import Reference, StageValues, encode_golden

    make_text_bundle(tmp_path / "texts")
    words = np.array([[2, 5, 6, 3, 0], [2, 7, 8, 9, 3]])
    values = StageValues({"logits": np.eye(2, 3, dtype=np.float32)}, np.ones(2, np.float32), None)
    none = np.zeros((0, 2, 5))
    reference = Reference(
        {"price": np.zeros(1, np.float32)},
        {"words": words, "mask": words > 0},
        [values],
        none.astype(np.int32),
        none.astype(np.float32),
        none.astype(bool),
        none.astype(np.float32),
        np.zeros(2, np.float32),
    )
    (tmp_path / "texts" / "golden.npz").write_bytes(encode_golden([reference]))
    assert cli("demo", tmp_path / "texts", "--output", tmp_path / "demo").exit_code == 0
    samples = json.loads((tmp_path / "demo" / "demo.json").read_text())["samples"]
    assert [sample["text"].replace("[CLS]", "").replace("[SEP]", "").split() for sample in samples] == [
        ["w5", "w6"],
        ["w7", "w8", "w9"],
    ]


def test_a_demo_is_replaced_as_a_whole(cli: Any, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    assert cli("demo", EXPORTED, "--output", demo).exit_code == 0
    (demo / "samples" / "99.png").write_bytes(b"of before")
    assert cli("demo", EXPORTED, "--output", demo).exit_code == 0
    assert not (demo / "samples" / "99.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


MISTAKES: list[tuple[list[str], str]] = [
    (["nowhere"], "no folder 'nowhere'; expected a bundle"),
    (["bundle", "--output", "full"], "full holds 'notes.txt', expected a demo, an empty folder or none"),
    (["bundle", "--output", "half"], "half is not empty, expected a demo, an empty folder or none"),
    (["bundle", "--output", "full/notes.txt"], "full/notes.txt is a file, expected a folder or nothing"),
    (["bundle", "--output", "bundle/demo"], "bundle/demo lies in the bundle"),
    (["bundle", "--page", "full"], "no index.html in 'full', expected the built page; run `make js`"),
    (["bundle", "--page", "none"], "no folder 'none', expected the built page; run `make js`"),
    (["arrays"], "bundle 'tiny' takes 'x', expected one picture or a text"),
    (["damaged"], "'model.onnx' was changed or damaged"),
    (["bundle", "--sample", "no.png"], "no file 'no.png', expected a picture; check its name"),
    (
        ["bundle", "--sample", "full/notes.txt"],
        "got the sample 'full/notes.txt', expected a picture that",
    ),
    (["bundle", "--sample", "broken.png"], "cannot read 'broken.png' as an image"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXPORTED, "bundle")
    shutil.copytree(EXPORTED, "damaged")
    shutil.copytree(FIXTURES / "tiny", "arrays")
    Path("damaged/model.onnx").write_bytes(b"something else")
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    Path("half").mkdir()
    Path("half/index.html").write_text("another page")
    Path("broken.png").write_bytes(b"no picture")
    before = names(tmp_path)
    result = cli("demo", *words)
    assert result.exit_code == 2
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert names(tmp_path) == before


def test_where_the_page_is_not_built_that_is_said(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_page, "default_page", lambda: tmp_path / "dist")
    for command in (["demo", EXPORTED], ["export", "digits", "--demo"]):
        result = cli(*command, *(["--output"] if command[0] == "demo" else []), tmp_path / "demo")
        assert result.exit_code == 2
        assert "expected the built page; run `make js` in a checkout of the repository" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_default_page_is_the_checkouts() -> None:
    assert DEFAULT_PAGE().resolve() == Path(__file__).parents[2] / "runtime" / "js" / "demo" / "dist"


@pytest.mark.slow("exports")
def test_export_writes_one_as_well(cli: Any, model_folder: Path, tmp_path: Path) -> None:
    bundle, demo = tmp_path / "bundle", tmp_path / "demo"
    result = cli("export", model_folder, "--no-calibrate", "--output", bundle, "--demo", demo, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["demo"]["samples"] == 0  # golden runs of noise are none
    assert (demo / "bundle" / "bundle.json").read_bytes() == (bundle / "bundle.json").read_bytes()
    again = cli("export", model_folder, "--no-calibrate", "--output", bundle, "--demo", bundle)
    assert again.exit_code == 2 and "lies in the bundle" in again.stderr


def test_help_has_examples(cli: Callable[..., Any]) -> None:
    assert "adaptrt demo build/digits --output build/demo" in cli("demo", "--help").stdout
    assert "demo" in adaptrt.list_commands(None)  # type: ignore[arg-type]
