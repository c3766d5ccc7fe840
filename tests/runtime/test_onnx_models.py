"""Bundles around models that are built, or written with external data, by the onnx package."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adaptrt.runtime import BackendError, Budget, BundleError, load
from adaptrt.runtime.backends import onnxruntime as onnxruntime_backend
from adaptrt.runtime.bundle.external_data import external_locations

onnx = pytest.importorskip("onnx", reason="builds models with the onnx package, which is not installed here")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

HERE = Path(__file__).parent
TINY = HERE / "fixtures" / "tiny"


@pytest.fixture(scope="module")
def make_fixture():
    spec = importlib.util.spec_from_file_location("make_fixture", HERE / "make_fixture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fixture_is_what_its_script_makes(make_fixture, tmp_path):
    make_fixture.make(tmp_path)
    for name in ("model.onnx", "bundle.json"):
        assert (tmp_path / name).read_bytes() == (TINY / name).read_bytes(), f"run {make_fixture.__file__}"


@pytest.mark.slow("starts interpreters")
@pytest.mark.parametrize(
    "script,name", [("staged_fixtures", "exits"), ("staged_fixtures", "tokens"), ("text_fixture", "texts")]
)
def test_the_other_fixtures_are_what_their_scripts_make(tmp_path, script, name):
    module = importlib.import_module(f"tests.runtime.make_{script}")
    getattr(module, f"make_{name}")(tmp_path / name)
    for made in (tmp_path / name).iterdir():
        assert made.read_bytes() == (HERE / "fixtures" / name / made.name).read_bytes(), f"run {module.__name__}"


@pytest.mark.parametrize("price", [0.0, 0.15, 0.5, 0.95, 1.0])
def test_the_fixture_computes_its_reference(make_fixture, model, x, price):
    logits, share = make_fixture.reference(x, price)
    result = model.run({"x": x}, knobs={"price": price})
    np.testing.assert_allclose(result.outputs["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(result.macs_fraction, share, rtol=1e-6)


def test_onnx_runtime_reports_the_mean_work_that_the_curve_says(model):
    x = np.round(np.random.RandomState(1).standard_normal((500, 4)), 3).astype(np.float32)
    for point in model.bundle.curve:
        result = model.run({"x": x}, knobs=point.knobs)
        assert result.macs_fraction.mean(dtype=np.float64) == pytest.approx(point.calibration_macs_fraction, abs=1e-5)


def external(location, name="w", *, values=4):
    """A float32 tensor of 4 values kept in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[values], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * values))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def build(place, location):
    """A model as the fixture's schema wants it, logits = x[:, :3] + w[:3], with ``w`` kept elsewhere."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("adaptrt", 1)]
    tensor = external(location)
    initializers, functions, nodes = [], [], []
    if place == "initialiser":
        initializers.append(tensor)
    elif place == "constant":
        nodes.append(helper.make_node("Constant", [], ["w"], value=tensor))
    elif place == "subgraph":
        value = helper.make_tensor_value_info("b", TensorProto.FLOAT, [4])
        nodes.append(helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))))
        branches = {
            "then_branch": helper.make_graph(
                [helper.make_node("Identity", ["w_in"], ["b"])],
                "then",
                [],
                [value],
                [external(location, "w_in")],
            ),
            "else_branch": helper.make_graph(
                [helper.make_node("Constant", [], ["b"], value_floats=[0.0] * 4)], "else", [], [value]
            ),
        }
        nodes.append(helper.make_node("If", ["yes"], ["w"], **branches))
    else:
        body = [helper.make_node("Constant", [], ["c"], value=external(location, "c")),
                helper.make_node("Add", ["a", "c"], ["w"])]  # fmt: skip
        functions.append(helper.make_function("adaptrt", "Shift", ["a"], ["w"], body, opsets[:1]))
        nodes.append(helper.make_node("Constant", [], ["zero"], value_floats=[0.0] * 4))
        nodes.append(helper.make_node("Shift", ["zero"], ["w"], domain="adaptrt"))
    bounds = {"from": [0], "to": [3], "axis": [1], "last": [1]}
    initializers += [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in bounds.items()]
    nodes += [
        helper.make_node("Add", ["x", "w"], ["sum"]),
        helper.make_node("Slice", ["sum", "from", "to", "axis"], ["logits"]),
        helper.make_node("ReduceSum", ["x", "last"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "price"], ["macs_fraction"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
         helper.make_tensor_value_info("price", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3]),
         helper.make_tensor_value_info("macs_fraction", TensorProto.FLOAT, ["batch"])],
        initializers,
    )  # fmt: skip
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10).SerializeToString()


PLACES = ["initialiser", "constant", "subgraph", "function"]


@pytest.mark.parametrize("place", PLACES)
def test_weights_beside_the_model(tiny, replace_model, x, place):
    weights = np.array([1, 2, 3, 4], np.float32)
    replace_model(tiny, build(place, "w.bin"), {"w.bin": weights.tobytes()})
    np.testing.assert_allclose(load(tiny).run({"x": x}).outputs["logits"], x[:, :3] + weights[:3], atol=1e-6)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["../secret.bin", "{parent}/secret.bin", "*/_ORT_MEM_ADDR_/*"])
def test_weights_outside_never_reach_onnx_runtime(tiny, replace_model, monkeypatch, place, location):
    (tiny.parent / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    location = location.format(parent=tiny.parent)
    replace_model(tiny, build(place, location))
    assert external_locations((tiny / "model.onnx").read_bytes()) == {location}
    monkeypatch.setattr(onnxruntime_backend, "OnnxRuntimeBackend", lambda *_, **__: pytest.fail("reached the engine"))
    with pytest.raises(BundleError, match="expected a relative path inside the bundle's folder"):
        load(tiny)


def test_a_large_model_saved_by_onnx_with_external_data(tiny, replace_model, x):
    model = onnx.load(TINY / "model.onnx")
    onnx.save_model(model, tiny / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=80)
    replace_model(tiny, (tiny / "model.onnx").read_bytes(), {"weights.bin": (tiny / "weights.bin").read_bytes()})
    found = load(tiny).run({"x": x}, budget=Budget.fraction(0.5))
    expected = load(TINY).run({"x": x}, budget=Budget.fraction(0.5))
    np.testing.assert_allclose(found.outputs["logits"], expected.outputs["logits"], atol=1e-6)


def test_a_newer_onnx_than_the_engine_knows(tiny, replace_model):
    model = onnx.load(TINY / "model.onnx")
    model.ir_version = 99
    replace_model(tiny, model.SerializeToString())
    with pytest.raises(BackendError, match=r"onnxruntime .* refuses it .*export the model again") as caught:
        load(tiny)
    assert "\n" not in str(caught.value)


def test_a_graph_that_takes_no_empty_batch(tiny, replace_model, capfd):
    """The largest of no numbers has no index; the runtime answers without the graph."""
    model = onnx.load(TINY / "model.onnx")
    model.graph.node.extend(
        [
            helper.make_node("ArgMax", ["x"], ["best"], axis=0, keepdims=0),
            helper.make_node("Cast", ["best"], ["best_1"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["best_1"], ["top"], keepdims=0),
            helper.make_node("Add", ["logits", "top"], ["out"]),
        ]
    )
    model.graph.output[0].name = "out"
    replace_model(tiny, model.SerializeToString())
    text = (tiny / "bundle.json").read_text().replace('"logits"', '"out"')
    (tiny / "bundle.json").write_text(text)
    loaded = load(tiny)
    feeds = {"x": np.zeros((0, 4), np.float32), "price": np.zeros(1, np.float32)}
    with pytest.raises(BackendError):
        loaded.backend.run(feeds)
    assert capfd.readouterr() == ("", ""), "onnxruntime printed what the error already says"
    assert loaded.run({"x": feeds["x"]}).outputs["out"].shape == (0, 3)


@pytest.mark.skipif(os.name == "nt", reason="POSIX shell quoting is not the point here")
def test_the_model_runs_with_nothing_but_onnxruntime(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    code = """
import sys, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
logits, share = session.run(None, {"x": np.load(sys.argv[2]), "price": np.array([0.3], np.float32)})
assert logits.shape == (32, 3) and share.shape == (32,) and "adaptrt" not in sys.modules
"""
    arguments = [sys.executable, "-I", "-c", code, str(TINY / "model.onnx"), str(tmp_path / "x.npy")]
    subprocess.run(arguments, check=True, timeout=120)
