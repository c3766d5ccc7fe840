from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from adaptrt.runtime import BackendError, Budget, BundleError, InputError, load

TINY = Path(__file__).parent / "fixtures" / "tiny"


def test_settings(x):
    expected = load(TINY).run({"x": x}).outputs["logits"]
    for keywords in ({"threads": 1}, {"threads": 2}, {"providers": ["CPUExecutionProvider"]},
                     {"providers": [("CPUExecutionProvider", {})]}):  # fmt: skip
        np.testing.assert_allclose(load(TINY, **keywords).run({"x": x}).outputs["logits"], expected, atol=1e-6)


@pytest.mark.parametrize(
    "keywords,match",
    [
        ({"threads": 0}, "threads=0, expected 1 to"),
        ({"threads": -1}, "threads=-1"),
        ({"threads": 1.5}, "threads=1.5"),
        ({"threads": True}, "threads=True"),
        ({"threads": 10**6}, "threads=1000000"),
        ({"backend": "onnx"}, "backend 'onnx', expected one of 'onnxruntime'"),
        ({"providers": []}, "expected a list of names"),
        ({"providers": "CPUExecutionProvider"}, "expected a list of names"),
        (
            {"providers": ["NoSuchProvider"]},
            "'NoSuchProvider' is not in this onnxruntime.*'CPUExecutionProvider'",
        ),
    ],
)
def test_wrong_settings(keywords, match):
    with pytest.raises(BackendError, match=match):
        load(TINY, **keywords)


@pytest.mark.parametrize(
    "change,match",
    [
        (
            lambda b: b["inputs"][0].update(name="pixels"),
            r"inputs are \['price', 'x'\], expected \['pixels', 'price'\]",
        ),
        (lambda b: b["inputs"].append({"name": "y", "dtype": "bool", "shape": []}), "expected .*'y'"),
        (lambda b: b.update(knobs=[], curve=[]), r"inputs are \['price', 'x'\], expected \['x'\]"),
        (lambda b: b["outputs"][0].update(name="scores"), "expected 'scores' among them"),
        (lambda b: b["inputs"][0].update(dtype="float64"), "'x' is float32 .*expected float64"),
        (lambda b: b["inputs"][0].update(shape=["batch", 5]), "'x' is float32 .*expected float32"),
        (
            lambda b: (b["inputs"][0].update(shape=["batch", "width"]), b["axes"].update(width={"longest": 9})),
            "'x' is float32",
        ),
        (lambda b: (b["inputs"][0].update(shape=[4]), b["axes"].clear()), "'x' is float32"),
        (lambda b: b["knobs"][0].update(shape=[]), r"'price' is float32 \['?1"),
        (lambda b: b["outputs"][0].update(shape=["batch", 4]), "'logits' is float32"),
        (lambda b: b["outputs"][0].update(dtype="int64"), "'logits' is float32"),
    ],
)
def test_a_graph_that_is_not_as_declared(tiny, edit, change, match):
    edit(tiny, change)
    with pytest.raises(BundleError, match=match) as caught:
        load(tiny)
    assert "\n" not in str(caught.value)


def test_a_size_fixed_in_the_bundle_may_be_dynamic_in_the_graph(tiny, edit, x):
    edit(tiny, lambda b: (b["inputs"][0].update(shape=[32, 4]), b["axes"].clear()))
    model = load(tiny)
    model.run({"x": x})
    with pytest.raises(InputError, match=r"expected float32 \[32, 4\]"):
        model.run({"x": x[:1]})


def test_a_failing_engine_is_reported_on_one_line(tiny):
    """A wrong shape that the contract lets through fails in the graph's first operator."""
    model = load(tiny)
    with pytest.raises(BackendError, match=r"model\.onnx: onnxruntime .* failed on x \[2, 9\], price \[1\]") as caught:
        model.backend.run({"x": np.zeros((2, 9), np.float32), "price": np.zeros(1, np.float32)})
    assert "\n" not in str(caught.value)


def test_a_model_is_freed_with_its_last_reference():
    """Without waiting for a garbage collection: its memory is wanted on a small device."""
    model = load(TINY)
    model.budget = Budget.fraction(0.5)
    session = weakref.ref(model.backend)
    gc.disable()
    try:
        del model
        assert session() is None
    finally:
        gc.enable()


def test_the_serialised_model_is_not_kept():
    assert load(TINY).backend.session._model_bytes is None
