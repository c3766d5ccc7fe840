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
    assert content["name"] == "tiny" and content["format_version"] == 2
    assert content["curve"] == report["curve"]
    assert content["bytes"]["model.onnx"] == (folder / "model.onnx").stat().st_size
    assert content["inputs"][0]["preprocessing"]["channels"] == 1


def test_several_stages(cli, staged):
    result = cli("inspect", staged)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()

    def line(*parts):
        return [own for own in lines if all(part in own for part in parts)]

    assert line("stage0.onnx", "stage 0, exit after_block_1") and line("stage1.onnx", "stage 1, exit final")
    assert line("carried", "hidden <- next_hidden", "float32", "[batch, tokens, 4]", "stage 0 to 1")
    assert line("carried", "macs_before <- macs_fraction", "[batch]")
    assert line("exit_thresholds", "any number", "none leaves early") and line("capacity", "int32", "[2]")
    assert line("exit criterion", "max_softmax") and line("2 gates, 2 token selections")
    assert line("setting price", "5 points") and line("setting hard", "5 points, for hard budgets")
    points = line("%", "price ")
    assert len(points) == 15 and sum(" hard " in own for own in points) == 5
    shares = [float(own.split()[2].rstrip("%")) for own in points if own.startswith("price ")]
    assert len(shares) == 5 and shares == sorted(shares)  # each setting's own, the cheapest first
    assert line("hard", "capacity 1/0") and line("exits", "exits 0.7")
    content = json.loads(cli("inspect", staged, "--json").stdout)
    assert [stage["exit"] for stage in content["stages"]] == ["after_block_1", "final"]
    assert content["stages"][1]["carry"][1]["name"] == "valid" and content["curve"][-1]["hard"] is True
    assert set(content["bytes"]) == {"stage0.onnx", "stage1.onnx", "dense.onnx"}


def test_the_frontier_alone(staged):
    from adaptrt.cli.tables import curve_table
    from adaptrt.runtime.bundle.bundle_file import read_bundle

    curve = read_bundle(staged).curve
    every, marked = curve_table(curve, None, 1000), curve_table(curve, None, 1000, frontier_only=True)
    assert (every.row_count, marked.row_count) == (15, 10)  # the hard ones are not marked
    assert "adaptrt inspect lists all 15 points" in marked.caption and "adaptrt" not in every.caption


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
