from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from adaptrt.cli.input_files import read_inputs
from adaptrt.runtime import Budget, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from tests.staged_bundle import images


def _run(cli, *args):
    result = cli("run", *args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_json_is_what_the_runtime_computes(cli, exported, pixels):
    report = _run(cli, exported[0], pixels, "--budget", "80%", "--top", 2)
    model, x = load(exported[0]), np.load(pixels)
    expected = model.run({"pixels": x}, budget=Budget.fraction(0.8))
    logits = expected.outputs["logits"].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert report["samples"] == 5 and len(report["results"]) == 5
    assert report["budget"] == {"kind": "fraction", "value": 0.8, "hard": False}
    assert report["exits"] is None and "exit" not in report["results"][0]
    assert report["knobs"] == expected.knobs
    assert report["macs_fraction"] == pytest.approx(float(expected.macs_fraction.mean()))
    for row, result in enumerate(report["results"]):
        assert [entry["class"] for entry in result["classes"]] == np.argsort(-probabilities[row])[:2].tolist()
        assert result["classes"][0]["probability"] == pytest.approx(probabilities[row].max())
        assert result["macs_fraction"] == pytest.approx(float(expected.macs_fraction[row]))


def test_classes_with_names(cli, exported, pixels, tmp_path):
    named = shutil.copytree(exported[0], tmp_path / "named")
    content = json.loads((named / "bundle.json").read_text())
    names = [f"kind {number}" for number in range(content["outputs"][0]["shape"][-1])]
    (named / "bundle.json").write_text(json.dumps({**content, "class_names": names}))
    report = _run(cli, named, pixels, "--top", 2)
    for result in report["results"]:
        assert [entry["name"] for entry in result["classes"]] == [f"kind {e['class']}" for e in result["classes"]]
    assert "kind " in cli("run", named, pixels).stdout
    (named / "bundle.json").write_text(json.dumps({**content, "class_names": names[:-1]}))
    refusal = cli("run", named, pixels)
    assert refusal.exit_code == 2 and "as many as logits has classes, or none" in refusal.stderr


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_chunks_make_no_difference(cli, exported, pixels, tmp_path, batch):
    out = tmp_path / "out.npz"
    result = cli("run", exported[0], pixels, "--batch", batch, "--price", 0.5, "--output", out)
    assert result.exit_code == 0
    expected = load(exported[0]).run({"pixels": np.load(pixels)}, knobs={"price": 0.5})
    with np.load(out) as arrays:
        assert set(arrays.files) == {"logits", "macs_fraction"}
        np.testing.assert_allclose(arrays["logits"], expected.outputs["logits"], atol=1e-5)
        np.testing.assert_allclose(arrays["macs_fraction"], expected.macs_fraction, atol=1e-6)


def test_table(cli, exported, pixels):
    result = cli("run", exported[0], pixels, "--budget", "full", "--threads", 1)
    assert result.exit_code == 0 and result.stderr == ""
    assert "probability" in result.stdout and "of dense MACs" in result.stdout
    assert "budget full" in result.stdout and "5 samples" in result.stdout and " ms in 1 call" in result.stdout


def test_many_samples_are_counted_not_listed(cli, exported, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((130, 1, 8, 8), np.float32))
    result = cli("run", exported[0], tmp_path / "x.npy")
    assert "and 110 more" in result.stdout and "3 calls" in result.stdout
    assert len(_run(cli, exported[0], tmp_path / "x.npy")["results"]) == 130


def test_no_samples(cli, exported, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((0, 1, 8, 8), np.float32))
    report = _run(cli, exported[0], tmp_path / "x.npy")
    assert report["results"] == [] and report["macs_fraction"] is None
    assert "0 samples" in cli("run", exported[0], tmp_path / "x.npy").stdout


def test_images(cli, exported, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    paths = []
    for name in ("a.png", "b.bmp"):
        Image.fromarray(noise).save(tmp_path / name)
        paths.append(tmp_path / name)
    np.save(tmp_path / "same.npy", np.repeat(noise[None, None] * np.float32(1 / 255), 2, 0))
    report = _run(cli, exported[0], *paths)
    assert [result["file"] for result in report["results"]] == ["a.png", "b.bmp"]
    expected = _run(cli, exported[0], tmp_path / "same.npy")
    for got, wanted in zip(report["results"], expected["results"], strict=True):
        assert got["classes"][0]["probability"] == pytest.approx(wanted["classes"][0]["probability"], abs=1e-5)
    table = cli("run", exported[0], *paths).stdout
    assert "a.png" in table and "b.bmp" in table


def test_pictures_that_are_not_opaque(cli, refused, exported, pixels, tmp_path):
    stroke = np.random.default_rng(0).integers(0, 2, (8, 8), dtype=np.uint8) * 255
    on_glass = np.dstack([np.full((8, 8, 3), 255, np.uint8), stroke])  # white, also where there is nothing
    Image.fromarray(on_glass).save(tmp_path / "glass.png")
    for name, picture in (("black", stroke), ("white", stroke | 255), ("grey", np.maximum(stroke, 51))):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    for ground, said in (("black", "black as the bundle declares"), ("white", "white as"), ("51", "grey 51 as")):
        asked = [] if ground == "black" else ["--background", ground]
        result = cli("run", exported[0], tmp_path / "glass.png", *asked, "--json")
        assert result.stderr.startswith(f"note: 1 of 1 picture not opaque, laid over {said}")
        assert result.stderr.count("\n") == 1
        report = json.loads(result.stdout)
        assert report["laid_over"]["pictures"] == 1 and len(report["laid_over"]["background"]) == 3
        flat = tmp_path / f"{'grey' if ground == '51' else ground}.png"
        opaque = cli("run", exported[0], flat, *asked, "--json")
        expected = json.loads(opaque.stdout)
        assert opaque.stderr == "" and expected["laid_over"] is None
        assert report["results"][0]["classes"] == expected["results"][0]["classes"]
    assert "expected images; leave --background out" in refused("run", exported[0], pixels, "--background", "white")
    line = refused("run", exported[0], tmp_path / "glass.png", "--background", "#12345")
    assert "got background '#12345', expected black, white" in line


def test_the_ground_a_bundle_declares(cli, bundle, edit, tmp_path, capsys):
    edit(bundle, lambda content: content["inputs"][0]["preprocessing"].update(background=[200]))
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "nothing.png")
    watched = cli("run", bundle, tmp_path / "nothing.png", "--watch", "--seconds", 0.1, "--json")
    assert "laid over grey 200 as the bundle declares" in watched.stderr
    assert json.loads(watched.stdout)["laid_over"] == {"pictures": 1, "background": [200, 200, 200]}
    arrays = read_inputs([tmp_path / "nothing.png"], read_bundle(bundle).inputs)
    np.testing.assert_allclose(arrays["pixels"], 200 / 255, atol=1e-6)
    assert capsys.readouterr().err == "note: 1 of 1 picture not opaque, laid over grey 200 as the bundle declares\n"


def test_budgets_of_every_form(cli, exported, pixels):
    dense = json.loads((exported[0] / "bundle.json").read_text())["dense"]["macs"]
    half = _run(cli, exported[0], pixels, "--budget", "0.9")
    assert _run(cli, exported[0], pixels, "--budget", "90%")["knobs"] == half["knobs"]
    macs = _run(cli, exported[0], pixels, "--budget", f"{0.9 * dense / 1e6}M")
    assert macs["knobs"]["price"] == pytest.approx(half["knobs"]["price"], rel=1e-5)
    assert _run(cli, exported[0], pixels)["knobs"] == {"price": 0.0}


def test_budget_out_of_reach_is_said(cli, exported, pixels):
    result = cli("run", exported[0], pixels, "--budget", "1%", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["reachable"] is False
    assert result.stderr == f"note: {report['message']}\n"
    assert "cheapest" in report["message"]


def test_uncalibrated(cli, refused, bundle, edit, pixels):
    edit(bundle, lambda content: content.update(curve=[]))
    assert _run(cli, bundle, pixels)["knobs"] == {"price": 0.0}
    assert "adaptrt calibrate" in refused("run", bundle, pixels, "--budget", "0.5")


@pytest.mark.parametrize(
    "options",
    [
        ["--budget", "nan"],
        ["--budget", "-0.5"],
        ["--budget", "-1%"],
        ["--budget", "inf"],
        ["--budget", "half"],
        ["--budget", ""],
        ["--price", "nan"],
        ["--price", "1.5"],
        ["--price", "-0.1"],
    ],
)
def test_budget_that_makes_no_sense(refused, exported, pixels, tmp_path, options):
    line = refused("run", exported[0], pixels, *options, "--output", tmp_path / "out.npz")
    assert "got" in line and "expected" in line
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((2, 1, 8, 8)), "astype(np.float32)"),
        (np.zeros((2, 1, 8, 8), np.uint8), "got uint8"),
        (np.zeros((1, 8, 8), np.float32), "x[None]"),
        (np.zeros((2, 3, 8, 8), np.float32), "got float32 [2, 3, 8, 8], expected float32 [batch, 1, 8, 8]"),
        (np.float32(1), "got float32 []"),
    ],
)
def test_array_that_does_not_fit(refused, exported, tmp_path, array, match):
    np.save(tmp_path / "x.npy", array)
    assert match in refused("run", exported[0], tmp_path / "x.npy", "--output", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_wrong_batch(refused, bundle, edit, pixels):
    edit(bundle, lambda content: content["inputs"][0].update(shape=[2, 1, 8, 8]))
    edit(bundle, lambda content: content.update(axes={}))
    edit(bundle, lambda content: content["stages"][0].update(decisions=[]))  # they need a named axis
    assert "expected float32 [2, 1, 8, 8]" in refused("run", bundle, pixels)


def test_wrong_name(refused, exported, tmp_path):
    np.savez(tmp_path / "x.npz", picture=np.zeros(1), label=np.zeros(1))
    assert "'picture', 'label', expected 'pixels'" in refused("run", exported[0], tmp_path / "x.npz")


def test_unreadable_files(refused, contents, exported, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "a.txt").write_text("no picture")
    (tmp_path / "a.npy").write_text("no array")
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 no archive")
    before = contents(tmp_path)
    for name in ("a.png", "a.txt", "a.npy", "a.npz", "missing.png", "missing.npy", "."):
        out = tmp_path / "out.npz"
        assert str(tmp_path / name) in refused("run", exported[0], tmp_path / name, "--output", out)
    assert contents(tmp_path) == before


def test_outputs_that_cannot_be_written(refused, contents, exported, pixels, tmp_path, no_space):
    (tmp_path / "old.npz").write_text("old")
    before = contents(tmp_path)
    assert ".npz" in refused("run", exported[0], pixels, "--output", pixels)
    assert "mkdir" in refused("run", exported[0], pixels, "--output", tmp_path / "no" / "out.npz")
    no_space()
    assert "no space left" in refused("run", exported[0], pixels, "--output", tmp_path / "old.npz")
    assert contents(tmp_path) == before


def test_needs_neither_torch_nor_onnx(python, main_code, exported, tmp_path):
    Image.new("L", (8, 8), 100).save(tmp_path / "a.png")
    without = ("torch", "onnx", "onnxscript", "safetensors", "sklearn", "matplotlib")
    out = tmp_path / "o.npz"
    done = python(main_code("run", exported[0], tmp_path / "a.png", "--output", out, "--json"), without=without)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 1
    assert out.is_file()


@pytest.fixture
def staged_pixels(tmp_path):
    path = tmp_path / "staged.npy"
    np.save(path, images(9))
    return path


@pytest.mark.parametrize("batch", [2, 64])
def test_exits_taken(cli, staged, staged_pixels, tmp_path, batch):
    out = tmp_path / "out.npz"
    args = [staged, staged_pixels, "--budget", "85%", "--batch", batch, "--output", out]
    report = _run(cli, *args)
    expected = load(staged).run({"pixels": images(9)}, budget=Budget.fraction(0.85))
    names = [("after_block_1", "final")[stage] for stage in expected.exit]
    assert set(names) == {"after_block_1", "final"}
    assert [result["exit"] for result in report["results"]] == names
    assert report["exits"] == {name: names.count(name) for name in ("after_block_1", "final")}
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["exit"], expected.exit)
    table = cli("run", *args)
    assert table.exit_code == 0
    lines = [line for line in table.stdout.splitlines() if "%" in line]
    assert [name in line for name, line in zip(names, lines, strict=False)] == [True] * 9
    taken = report["exits"]
    assert f"left at after_block_1: {taken['after_block_1']}, final: {taken['final']}" in table.stdout
    assert "exits 0." in table.stdout and "capacity" not in table.stdout  # knobs at their defaults are not named


def test_no_samples_take_no_exit(cli, staged, tmp_path):
    np.save(tmp_path / "none.npy", images(9)[:0])
    assert _run(cli, staged, tmp_path / "none.npy")["exits"] == {"after_block_1": 0, "final": 0}


def test_hard_budget_holds_for_every_sample(cli, refused, staged, exported, staged_pixels, pixels):
    report = _run(cli, staged, staged_pixels, "--budget", "85%", "--hard")
    assert report["budget"] == {"kind": "fraction", "value": 0.85, "hard": True}
    shares = [result["macs_fraction"] for result in report["results"]]
    assert np.ptp(shares) < 1e-6 and shares[0] <= 0.85
    assert report["knobs"]["capacity"] == [1.0, 1.0]
    text = cli("run", staged, staged_pixels, "--budget", "850", "--hard").stderr
    assert "error" in text  # a number without a suffix is no MACs
    table = cli("run", staged, staged_pixels, "--budget", "0.85k", "--hard").stdout
    assert "850 MACs for each sample" in table and "capacity 1" in table
    assert "--hard with budget full" in refused("run", staged, staged_pixels, "--budget", "full", "--hard")
    assert "capacity" in refused("run", exported[0], pixels, "--budget", "50%", "--hard")
