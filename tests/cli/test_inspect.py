from __future__ import annotations

import json


def test_table(cli, exported):
    folder, _ = exported
    result = cli("inspect", folder)
    assert result.exit_code == 0
    for text in (
        "pixels",
        "[batch, 1, 8, 8]",
        "grey 8 x 8",
        "logits",
        "price",
        "0 to 1",
        "model.onnx",
        "dense.onnx",
    ):
        assert text in result.stdout
    [op] = [line for line in result.stdout.splitlines() if "adaptrt::ConditionalMLP" in line]
    assert op.split()[-2:] == ["2", "learners"]
    assert "accuracy" in result.stdout and "*" in result.stdout
    assert result.stderr == ""


def test_json(cli, exported):
    folder, report = exported
    content = json.loads(cli("inspect", folder, "--json").stdout)
    assert content["name"] == "tiny" and content["format_version"] == 1
    assert content["curve"] == report["curve"]
    assert content["bytes"]["model.onnx"] == (folder / "model.onnx").stat().st_size
    assert content["inputs"][0]["preprocessing"]["channels"] == 1


def test_uncalibrated_and_without_the_dense_model(cli, bundle, edit):
    edit(bundle, lambda content: content.update(curve=[], data={}, quality_metric=None))
    (bundle / "dense.onnx").unlink()
    result = cli("inspect", bundle)
    assert result.exit_code == 0
    assert "adaptrt calibrate" in result.stdout and "not there" in result.stdout


def test_needs_no_engine(python, main_code, exported):
    without = ("torch", "onnx", "onnxruntime", "PIL", "sklearn")
    done = python(main_code("inspect", exported[0]), without=without)
    assert done.returncode == 0, done.stderr
    assert "pixels" in done.stdout
