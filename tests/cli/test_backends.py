"""``--backend`` of the verbs that have one, with OpenVINO itself, and the engines that ``inspect`` lists."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from adaptrt.runtime.bundle.engine_files import ENGINE_FILE, encode_engines, read_engines
from tests.prepared_engines import prepare, require_openvino

require_openvino()
pytestmark = pytest.mark.slow("compiles stages for a second engine")

_ENGINES = ("onnxruntime", "openvino")


@pytest.fixture
def prepared(bundle):
    prepare(bundle)
    return bundle


@pytest.fixture
def pixels(tmp_path):
    path = tmp_path / "pixels.npy"
    np.save(path, np.random.default_rng(5).standard_normal((3, 1, 8, 8)).astype(np.float32))
    return path


def test_run_on_openvino(cli, prepared, pixels):
    ours = json.loads(cli("run", prepared, pixels, "--price", "0.5", "--backend", "openvino", "--json").stdout)
    theirs = json.loads(cli("run", prepared, pixels, "--price", "0.5", "--json").stdout)
    assert ours["backend"] == {"name": "openvino", "reason": "it was asked for", "precision": "fp32"}
    assert theirs["backend"]["name"] == "onnxruntime"
    for one, other in zip(ours["results"], theirs["results"], strict=True):
        assert one["macs_fraction"] == pytest.approx(other["macs_fraction"], abs=1e-4)
        assert one["classes"][0]["class"] == other["classes"][0]["class"]
        assert one["classes"][0]["probability"] == pytest.approx(other["classes"][0]["probability"], abs=1e-4)


def test_run_says_what_auto_took(cli, prepared, pixels):
    result = cli("run", prepared, pixels, "--backend", "auto")
    assert result.exit_code == 0
    assert "note: openvino runs it: the bundle is prepared for OpenVINO, which is installed (tensorrt:" in result.stderr


def test_run_without_what_it_needs(refused, bundle, pixels):
    line = refused("run", bundle, pixels, "--backend", "openvino")
    assert "expected it for backend 'openvino'; run `adaptrt build" in line
    assert "expected one of 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt-rtx', 'auto'" in refused(
        "run", bundle, pixels, "--backend", "tflite"
    )


def test_verify_on_openvino(cli, prepared):
    result = cli("verify", prepared, "--backend", "openvino")
    assert result.exit_code == 0
    assert "openvino beside torch" in result.stdout and "computes what torch computed on openvino" in result.stdout
    report = json.loads(cli("verify", prepared, "--backend", "openvino", "--json").stdout)
    assert report["exact"] is True and report["passed"] is True
    assert max(row["difference"] for row in report["rows"] if row["clear"]) <= 1e-4
    assert sum(row["clear"] for row in report["rows"]) > 0


def test_verify_finds_a_wrong_engine(refused, bundle):
    import onnx
    import onnx.inliner
    from onnx import numpy_helper

    def spoilt(model):
        graph = onnx.inliner.inline_local_functions(onnx.load_model_from_string(model))
        bias = next(tensor for tensor in graph.graph.initializer if list(tensor.dims) == [10])
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
        return graph.SerializeToString()

    prepare(bundle, convert=spoilt)
    line = refused("verify", bundle, "--backend", "openvino")
    assert "outputs differ by 1.00e-02" in line and "expected at most 1e-04" in line


def test_verify_finds_nothing_to_compare_with(refused, prepared):
    (prepared / "golden.npz").unlink()
    assert "golden.npz" in refused("verify", prepared, "--backend", "openvino")


def test_verify_in_half_precision_counts_predictions():
    from adaptrt.export.errors import ParityError
    from adaptrt.export.parity.verify_backend import BackendReport, BackendRow

    def report(agreeing, exact):
        return BackendReport("openvino", "", exact, [BackendRow({"price": [0.5]}, 200, 100, 0.1, agreeing)])

    assert report(0.995, False).require("it").backend == "openvino"
    with pytest.raises(ParityError, match=r"98\.0% of the predictions are torch's, expected at least 99%"):
        report(0.98, False).require("it")
    with pytest.raises(ParityError, match="outputs differ by 1.00e-01"):
        report(1.0, True).require("it")
    with pytest.raises(ParityError, match="nothing was compared"):
        BackendReport("openvino", "", False, []).require("it")


def test_inspect_lists_engines(cli, prepared):
    engines = prepared / "engines" / "openvino-fp32"
    made = msgspec.structs.replace(read_engines(engines), quality=0.97, flip_rate=0.012)
    (engines / ENGINE_FILE).write_bytes(encode_engines(made))
    [line] = [own for own in cli("inspect", prepared).stdout.splitlines() if own.startswith("openvino-fp32")]
    assert "prepared only" in line and "97.0%" in line and "1.20%" in line
    content = json.loads(cli("inspect", prepared, "--json").stdout)
    assert content["engines"]["openvino-fp32"]["flip_rate"] == 0.012
    assert content["unusable_engines"] == {}


def test_inspect_says_what_stands_against_an_engine(cli, prepared):
    (prepared / "engines" / "openvino-fp32" / "stage0.onnx").write_bytes(b"other")
    content = json.loads(cli("inspect", prepared, "--json").stdout)
    assert "was changed or damaged" in content["unusable_engines"]["openvino-fp32"]
    assert "openvino-fp32" in cli("inspect", prepared).stdout


def test_inspect_without_engines(cli, bundle):
    assert "Engines" not in cli("inspect", bundle).stdout
    assert json.loads(cli("inspect", bundle, "--json").stdout)["engines"] == {}


def test_profile_on_openvino(cli, prepared, monkeypatch, tmp_path):
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path))
    options = ("--seconds", "0.2", "--threads", "1", "--json")
    found = [json.loads(cli("profile", prepared, *options, "--backend", name).stdout) for name in _ENGINES]
    assert [one["key"]["backend"].split()[0] for one in found] == list(_ENGINES)
    assert len({one["file"] for one in found}) == 2  # neither is taken for the other's


def test_bench_on_openvino_beside_the_dense_model_on_it(cli, prepared, tmp_path):
    options = ("--points", "2", "--rounds", "2", "--batch", "1", "--no-plot", "--output", tmp_path / "b.json")
    content = json.loads(cli("bench", prepared, *options, "--backend", "auto", "--json").stdout)
    assert content["backend"] == "openvino" and content["engine"].startswith("openvino ")
    assert content["dense"]["1"]["median"] > 0 and all(row["ratio"]["1"]["median"] > 0 for row in content["rows"])
    usual = json.loads(cli("bench", prepared, *options, "--json").stdout)
    assert usual["backend"] == "onnxruntime" and usual["engine"].startswith("onnxruntime ")
    shares = [[row["timed_macs_fraction"]["1"] for row in one["rows"]] for one in (content, usual)]
    np.testing.assert_allclose(*shares, atol=1e-4)  # both obeyed the knobs


def test_bench_without_an_engine_for_it(refused, bundle):
    line = refused("bench", bundle, "--backend", "openvino", "--no-plot")
    assert "expected it for backend 'openvino'; run `adaptrt build" in line and "ended with code" not in line
    assert "expected one of 'onnxruntime'" in refused("bench", bundle, "--backend", "tflite", "--no-plot")
