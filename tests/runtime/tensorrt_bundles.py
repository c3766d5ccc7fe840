"""Bundles with engines for the stand-in, inputs for them, and the comparison of their results."""

from __future__ import annotations

import numpy as np

from tests.prepared_engines import prepare
from tests.runtime.tensorrt_stand_in import MAGIC

VERSION = "10.13.3.9"
PRICES = (0.0, 0.1, 0.3, 0.6, 1.0)


def build(folder, target="tensorrt", precision="fp32", **changes):
    """Put engines into a bundle, made of its own graphs."""
    changes = {"engine_version": VERSION, "arch": "87", **changes}
    prepare(folder, target, precision, convert=lambda model: model, build=lambda model: MAGIC + model, **changes)
    return folder


def draw(model, batch, seed=0):
    generator = np.random.default_rng(seed)
    arrays = {}
    for spec in model.bundle.inputs:
        shape = [size if isinstance(size, int) else batch if place == 0 else 7 for place, size in enumerate(spec.shape)]
        if spec.dtype == "bool":
            arrays[spec.name] = np.ones(shape, bool)
        elif np.dtype(spec.dtype).kind == "f":
            arrays[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
        else:
            arrays[spec.name] = generator.integers(0, 5, shape).astype(spec.dtype)
    return arrays


def settings(model):
    for price in PRICES:
        knobs = {k.name: price * min(k.maximum, 1.0) for k in model.bundle.knobs if "price" in k.name}
        if any(knob.name == "exit_thresholds" for knob in model.bundle.knobs):
            knobs["exit_thresholds"] = 0.35 + 0.1 * price
        yield knobs


def same(ours, theirs):
    """The stand-in computes with ONNX Runtime, so nothing may differ at all."""
    assert ours.outputs.keys() == theirs.outputs.keys() and ours.outputs
    for name, array in theirs.outputs.items():
        np.testing.assert_array_equal(ours.outputs[name], array)
        assert ours.outputs[name].dtype == array.dtype
    np.testing.assert_array_equal(ours.macs_fraction, theirs.macs_fraction)
    if theirs.exit is not None:
        np.testing.assert_array_equal(ours.exit, theirs.exit)
