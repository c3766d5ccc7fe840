"""Texts, recordings and pictures as arguments of ``adaptrt run``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import (
    AudioPreprocessing,
    Axis,
    Dense,
    ImagePreprocessing,
    Knob,
    PreprocessingFile,
    TensorSpec,
    TextPreprocessing,
    encode_bundle,
    read_bundle,
)
from tests.runtime.make_staged_fixtures import make_model, write
from tests.runtime.preprocessing.wav_files import pcm16
from tests.runtime.preprocessing.word_tokenizer import tokenizer_json

_SUM = """
    runs = Mul(total, price)
    zero = Sub(runs, runs)
    shares = ReduceSum <keepdims: int = 0> (zero, one)
    macs_fraction = Add(shares, half)
    logits = Add(total, zero)
}"""
_TEXT = """(int64[batch, length] tokens, bool[batch, length] mask, float[1] price)
    => (float[batch, 3] logits, float[batch] macs_fraction)
{
    rows = Gather(table, tokens)
    real = Cast <to: int = 1> (mask)
    real_each = Unsqueeze(real, two)
    kept = Mul(rows, real_each)
    total = ReduceSum <keepdims: int = 0> (kept, one)"""
_WAVE = """(float[batch, samples] input_values, float[1] price) => (float[batch, 3] logits, float[batch] macs_fraction)
{
    sums = ReduceSum <keepdims: int = 1> (input_values, one)
    total = Mul(sums, weights)"""
_BOTH = """(int64[batch, length] tokens, float[batch, 1, 2, 2] pixels, float[1] price)
    => (float[batch, 3] logits, float[batch] macs_fraction)
{
    rows = Gather(table, tokens)
    words = ReduceSum <keepdims: int = 0> (rows, one)
    flat = Flatten(pixels)
    lights = ReduceSum <keepdims: int = 1> (flat, one)
    seen = Mul(lights, weights)
    total = Add(words, seen)"""

TOKENS = TensorSpec("tokens", "int64", ["batch", "length"], minimum=0, maximum=39)
MASK = TensorSpec("mask", "bool", ["batch", "length"])
WORDS = {"batch": Axis(0), "length": Axis(1, 8)}
CONTENT = tokenizer_json()


def make(folder: Path, graph: str, inputs: list[TensorSpec], axes: dict[str, Axis], **keys: Any) -> Path:
    """A bundle of one stage, with a tokenizer where it takes texts."""
    table = np.round(np.random.default_rng(0).standard_normal((40, 3)) * 8).astype(np.float32) / 8
    constants = {"table": table, "one": np.array([1], np.int64), "two": np.array([2], np.int64)}
    constants |= {"half": np.array([0.5], np.float32), "weights": np.array([[1, 2, 3]], np.float32)}
    knob = Knob("price", "float32", [1], minimum=0.0, maximum=1.0, default=0.0)
    dense = Dense(macs=100, parameters=120)
    model = make_model(graph + _SUM, constants, None)
    write(folder, [model], [None], [{}], inputs=inputs, knobs=[knob], dense=dense, axes=axes)
    if "text" in keys:
        (folder / "tokenizer.json").write_bytes(CONTENT)
        digest = hashlib.sha256(CONTENT).hexdigest()
        keys["files"] = [PreprocessingFile("tokenizer.json", digest, "tokenizer")]
    (folder / "bundle.json").write_bytes(encode_bundle(msgspec.structs.replace(read_bundle(folder), **keys)))
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = TextPreprocessing({"ids": "tokens", "mask": "mask"}, 6, padding_token="[PAD]")
    return make(tmp_path_factory.mktemp("bundles") / "texts", _TEXT, [TOKENS, MASK], WORDS, text=recipe)


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = TensorSpec("input_values", "float32", ["batch", "samples"])
    axes = {"batch": Axis(0), "samples": Axis(1, 100)}
    recipe = AudioPreprocessing("input_values", "waveform", sample_rate=8_000)
    return make(tmp_path_factory.mktemp("bundles") / "waves", _WAVE, [spec], axes, audio=recipe)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = TensorSpec("pixels", "float32", ["batch", 1, 2, 2], ImagePreprocessing(1, 2, 2))
    recipe = TextPreprocessing({"ids": "tokens"}, 6)
    return make(tmp_path_factory.mktemp("bundles") / "both", _BOTH, [TOKENS, pixels], WORDS, text=recipe)


def logits(cli: Any, tmp_path: Path, *args: Any) -> Any:
    """What a run writes, and what it prints as JSON."""
    out = tmp_path / "out.npz"
    result = cli("run", *args, "--output", out, "--json")
    assert result.exit_code == 0, result.output
    with np.load(out) as arrays:
        return arrays["logits"], json.loads(result.stdout)


def test_texts(cli: Any, texts: Path, tmp_path: Path) -> None:
    given = ["w5 w6", "w7  w8/ //w9"]
    model = load(texts, threads=1)
    expected = model.run(model.preprocess.text(given)).outputs["logits"]
    got, report = logits(cli, tmp_path, texts, *given)
    assert np.array_equal(got, expected)
    assert [entry["text"] for entry in report["results"]] == given and "file" not in report["results"][0]
    assert "w5�[1mw6" in cli("run", texts, "w5\x1b[1mw6\n", "w7").stdout
    table = cli("run", texts, *given)
    assert table.exit_code == 0 and "w7 w8/ //w9" in table.stdout and " text " in table.stdout and table.stderr == ""


def test_a_text_that_names_a_file_is_the_file(
    cli: Any, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w5").write_text("w6 w7\n\n  \nw8\n")
    model = load(texts, threads=1)
    got, report = logits(cli, tmp_path, texts, "w5", "w9")
    assert np.array_equal(got, model.run(model.preprocess.text(["w6 w7", "w8", "w9"])).outputs["logits"])
    assert [entry["text"] for entry in report["results"]] == ["w6 w7", "w8", "w9"]


def test_texts_that_are_cut_are_noted(cli: Any, texts: Path) -> None:
    result = cli("run", texts, "w5 " * 4, "w5 " * 5, "w5 " * 9_000)
    assert result.exit_code == 0
    assert result.stderr == "note: 2 of 3 texts longer than the model takes, cut\n"


def test_arrays_of_a_bundle_that_takes_texts(cli: Any, texts: Path, tmp_path: Path) -> None:
    arrays = dict(load(texts, threads=1).preprocess.text(["w5 w6", "w7"]))
    np.savez(tmp_path / "in.npz", **arrays)
    from_file, _ = logits(cli, tmp_path, texts, tmp_path / "in.npz")
    from_texts, _ = logits(cli, tmp_path, texts, "w5 w6", "w7")
    assert np.array_equal(from_file, from_texts)


def test_refused_texts(cli: Any, refused: Any, texts: Path, exported: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    assert "expected texts in UTF-8, one a line" in refused("run", texts, tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("\n \n")
    assert "is empty, expected texts" in refused("run", texts, tmp_path / "a.txt")
    assert "got a background without images" in refused("run", texts, "w5", "--background", "white")
    assert "got --explain with a text" in refused("run", texts, "w5", "--explain", tmp_path / "a.png")
    assert "no file 'a text', expected an image" in refused("run", exported[0], "a text")
    assert "no file 'gone.npz', expected a .npy or .npz file" in refused("run", texts, "gone.npz")
    assert cli("run", texts, "the words are in gone.npz").exit_code == 0
    result = cli("run", texts, "")
    assert result.exit_code == 2 and "got '', expected a path or a text" in result.stderr


def test_another_tokenizer(refused: Any, texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for path in texts.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "tokenizer.json").write_bytes(CONTENT + b" ")
    assert "'tokenizer.json' was changed or damaged" in refused("run", folder, "w5")


def test_recordings(cli: Any, refused: Any, waves: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(pcm16([16_384, 8_192], 8_000))
    (tmp_path / "b.wav").write_bytes(pcm16([0, -16_384], 8_000))
    got, report = logits(cli, tmp_path, waves, tmp_path / "a.wav", tmp_path / "b.wav")
    assert got.tolist() == [[0.75, 1.5, 2.25], [-0.5, -1, -1.5]]
    assert [entry["file"] for entry in report["results"]] == ["a.wav", "b.wav"]
    np.save(tmp_path / "a.npy", np.array([[0.5, 0.25]], np.float32))
    assert logits(cli, tmp_path, waves, tmp_path / "a.npy")[0].tolist() == [[0.75, 1.5, 2.25]]
    (tmp_path / "c.wav").write_bytes(pcm16([0, 1], 44_100))
    assert "c.wav' has 44100 Hz, expected 8000 Hz; convert it: ffmpeg" in refused("run", waves, tmp_path / "c.wav")
    assert "no file" in refused("run", waves, tmp_path / "gone.wav")
    (tmp_path / "d.wav").write_bytes(b"RIFF")
    assert "d.wav' is no WAV file" in refused("run", waves, tmp_path / "d.wav")


def test_a_text_and_a_picture(cli: Any, refused: Any, both: Path, tmp_path: Path) -> None:
    Image.new("L", (5, 5), 255).save(tmp_path / "a.png")
    picture, _ = logits(cli, tmp_path, both, "w5", tmp_path / "a.png")
    table = load(both, threads=1).run({"tokens": np.array([[2, 5, 3]]), "pixels": np.ones((1, 1, 2, 2), np.float32)})
    assert np.array_equal(picture, table.outputs["logits"])
    assert "inputs: got 'tokens', expected exactly 'tokens', 'pixels'" in refused("run", both, "w5")


def test_inspect(cli: Any, texts: Path, waves: Path) -> None:
    assert "into tokens, mask, at most 6 tokens" in cli("inspect", texts).stdout
    assert "into input_values, waveform of 8000 Hz" in cli("inspect", waves).stdout
    assert json.loads(cli("inspect", texts, "--json").stdout)["text"]["inputs"] == {"ids": "tokens", "mask": "mask"}
