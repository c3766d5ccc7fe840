from __future__ import annotations

import numpy as np
import pytest

from adaptrt.runtime import BackendError, Budget, BudgetError, InputError
from adaptrt.runtime.bundle.bundle_file import Knob
from adaptrt.runtime.inputs import knob_arrays

F32 = np.zeros((2, 4), np.float32)
WRONG_INPUTS = {
    "no mapping": (F32, "got ndarray, expected a dictionary"),
    "nothing": (None, "got NoneType, expected a dictionary"),
    "empty": ({}, "got none, expected exactly 'x'"),
    "other name": ({"pixels": F32}, "got 'pixels', expected exactly 'x'"),
    "one more": ({"x": F32, "y": F32}, "got 'x', 'y', expected exactly 'x'"),
    "a knob": ({"x": F32, "price": np.zeros(1, np.float32)}, "knobs go in `knobs`"),
    "float64": (
        {"x": F32.astype(np.float64)},
        r"got float64 \[2, 4\], expected float32 .*x\.astype\(np\.float32\)",
    ),
    "float16": ({"x": F32.astype(np.float16)}, r"got float16 .*astype"),
    "uint8": ({"x": F32.astype(np.uint8)}, r"got uint8 .*astype"),
    "objects": ({"x": F32.astype(object)}, r"got object .*astype"),
    "big-endian": ({"x": F32.astype(">f4")}, r"got >f4 .*astype"),
    "list": ({"x": F32.tolist()}, r"got list, expected a numpy array .*np\.asarray\(x, dtype=np\.float32\)"),
    "scalar": ({"x": np.float32(1)}, "got numpy.float32, expected a numpy array"),
    "none": ({"x": None}, "got NoneType"),
    "one sample": ({"x": F32[0]}, r"got float32 \[4\], expected float32 \[batch, 4\].*x\[None\]"),
    "rank 3": ({"x": F32[None]}, r"got float32 \[1, 2, 4\].*reshape"),
    "rank 0": ({"x": np.array(1, np.float32)}, r"got float32 \[\]"),
    "fixed size": (
        {"x": np.zeros((2, 5), np.float32)},
        r"got float32 \[2, 5\], expected float32 \[batch, 4\]",
    ),
    "empty axis": ({"x": np.zeros((2, 0), np.float32)}, r"got float32 \[2, 0\]"),
}


@pytest.mark.parametrize("inputs,match", WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_wrong_inputs(model, inputs, match):
    with pytest.raises(InputError, match=match) as caught:
        model.run(inputs)
    assert "\n" not in str(caught.value)


def test_a_tensor_of_another_library(model):
    class Tensor:
        dtype, shape = "torch.float32", (2, 4)

    with pytest.raises(InputError, match="Tensor, expected a numpy array"):
        model.run({"x": Tensor()})


def test_inputs_that_disagree_on_the_batch(recording, edit, tiny):
    def add_mask(b):
        b["inputs"].append({"name": "mask", "dtype": "bool", "shape": ["batch", "tokens"]})
        b["axes"]["tokens"] = {"longest": 9}

    edit(tiny, add_mask)
    model, backend = recording(tiny)
    mask = np.ones((3, 7), bool)
    with pytest.raises(InputError, match="input 'mask': batch is 3, expected 2 as in the inputs before it"):
        model.run({"x": F32, "mask": mask})
    with pytest.raises(InputError, match=r"got float32 .* expected bool"):
        model.run({"x": F32, "mask": mask.astype(np.float32)})
    model.run({"mask": mask[:2], "x": F32})
    assert backend.feeds[0]["mask"].shape == (2, 7)


def test_no_samples_where_the_outputs_shape_is_unknown(recording, edit, tiny):
    """Then only the graph can tell, and is run."""
    edit(
        tiny,
        lambda b: b["outputs"].append({"name": "tokens", "dtype": "float32", "shape": ["batch", "kept"]}),
    )
    model, backend = recording(tiny)
    with pytest.raises(BackendError, match=r"output 'tokens' came out as nothing, expected float32 \[0, kept\]"):
        model.run({"x": F32[:0]})
    assert len(backend.feeds) == 1


@pytest.mark.parametrize(
    "knobs",
    [{"price": 1.5}, {"price": -0.1}, {"price": float("nan")}, {"price": float("inf")}, {"price": "0.5"},
     {"price": None}, {"price": True}, {"price": np.array([[0.5]])}, {"price": np.array(["0.5"])}, {"heat": 0.5},
     {"x": 0.5}, 0.5, [0.5], {"price": [0.5, 0.5]}, {"price": []}, {"price": [True]}, {"price": [[0.5]]},
     {"price": 10**400}, {"price": {0.5}}],
    ids=repr,
)  # fmt: skip
def test_wrong_knobs(model, x, knobs):
    with pytest.raises(InputError, match="expected") as caught:
        model.run({"x": x}, knobs=knobs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.float64(0.25)])
def test_knob_values_of_every_kind(model, x, value):
    assert model.run({"x": x}, knobs={"price": value}).knobs == {"price": float(value)}


@pytest.mark.parametrize("value", [[0.25], (0.25,), np.array([0.25]), np.array([0.25], np.float32)])
def test_a_number_for_each_element(model, x, value):
    result = model.run({"x": x}, knobs={"price": value})
    assert result.knobs == {"price": [0.25]}
    np.testing.assert_array_equal(
        result.outputs["logits"], model.run({"x": x}, knobs={"price": 0.25}).outputs["logits"]
    )


@pytest.mark.parametrize("shape", [[], [1], [3], [2, 3]])
@pytest.mark.parametrize("dtype", ["int32", "float32", "bool"])
def test_knobs_of_every_shape(shape, dtype):
    knob = Knob("k", dtype, shape, 0.0, 1.0, 1.0)
    size = int(np.prod(shape))
    for value in (0, 1, [0, 1] * 3):
        value = value[:size] if isinstance(value, list) else value
        array = knob_arrays([knob], {"k": value})["k"]
        assert (array.shape, array.dtype, array.flags.writeable) == (tuple(shape), dtype, False)
        np.testing.assert_array_equal(array.reshape(-1), np.broadcast_to(np.array(value, dtype), size))
    assert knob_arrays([knob], {})["k"].all()
    with pytest.raises(InputError, match=f"got {size + 1} values, expected {size}"):
        knob_arrays([knob], {"k": [0] * (size + 1)})


def test_no_knobs_named_stand_at_their_defaults(model, x):
    result = model.run({"x": x}, knobs={})
    assert (result.knobs, result.budget) == ({"price": 0.0}, None)


def test_budget_and_knobs_together(model, x):
    with pytest.raises(BudgetError, match="both a budget"):
        model.run({"x": x}, budget=Budget.full(), knobs={"price": 0.5})
