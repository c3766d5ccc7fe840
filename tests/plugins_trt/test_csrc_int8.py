"""The C++ plugins' int8 forms, driven by the host program: types, scratch, which kernels, and what they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adaptrt.ops import INT8_RECORDS, Case, OpRecord
from adaptrt.plugins_trt.part_plugins import PART_PLUGINS
from tests.plugins_trt.plugin_host import Array, Build, Input, Played, Scenario
from tests.plugins_trt.standin_manifest import chosen, grid_of, write_kernels
from tests.plugins_trt.test_csrc import TOLERANCE, agree, real

SIZES = {"T": 37, "N": 4, "D": 32, "h": 16, "E": 48}
ODD = {"T": 21, "N": 3, "D": 13, "h": 7, "E": 9}
W8A16, W8A8 = INT8_RECORDS["ConditionalMLPW8A16"], INT8_RECORDS["ConditionalMLPW8A8"]
BOTH = pytest.mark.parametrize("record", [W8A16, W8A8], ids=lambda record: record.name)


def drawn(record: OpRecord, dtype: str, sizes: dict[str, int] = SIZES) -> dict[str, Array]:
    inputs = record.make_inputs(Case("", sizes, "beyond"), np.random.default_rng(3), "float32")
    halves = {field.name for field in record.inputs if len(field.dtypes) > 1}
    return {name: array.astype(real(dtype)) if name in halves else array for name, array in inputs.items()}


def scenario(record: OpRecord, inputs: dict[str, Array], most: int = 600) -> Scenario:
    """A node whose number of tokens alone is dynamic."""
    given = []
    for field in record.inputs:
        array = inputs[field.name]
        tokens = "T" in field.axes
        axes = ("T", *array.shape[1:]) if tokens else array.shape
        given.append(Input(array.dtype.name, axes, (most, *array.shape[1:]) if tokens else array.shape))
    return Scenario(record.name, given, runs=[list(inputs.values())])


def kernels_taken(played: Played, folder: Path, record: OpRecord, dtype: str) -> list[str]:
    """The names in the manifest of the kernels that were launched; each has to be the form's first that suits."""
    manifest = write_kernels(folder)
    activations = "int8" if record.name.endswith("W8A8") else ""
    for launch in played.launches:
        wanted = chosen(manifest, launch["op"], 87, dtype, launch["sizes"], "int8", activations)
        assert launch["image"].endswith(wanted["cubin"]["file"])
        assert launch["grid"] == grid_of(wanted, launch["sizes"]) and launch["block"] == [wanted["threads"], 1, 1]
    return [launch["op"] for launch in played.launches]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("record", INT8_RECORDS.values(), ids=lambda record: record.name)
def test_forms_compute_what_their_reference_says(csrc: Build, tmp_path: Path, record: OpRecord, dtype: str) -> None:
    inputs = drawn(record, dtype)
    played = csrc.play(scenario(record, inputs), tmp_path / "play")
    assert played.status == 0 and not played.report["log"] and not played.report["recorded"]
    assert played.report["output_types"] == [dtype] and played.report["output_shapes"] == [["T", "48"]]
    assert played.report["serialized"] == {"op_version": 1} and played.report["independent"]
    (wanted,) = record.expected(inputs)
    agree(played.results[0][0], wanted.astype("float32"), dtype)
    ops = [PART_PLUGINS[part.name].kernel.op for part in record.parts]
    assert kernels_taken(played, tmp_path / "kernels", record, dtype) == ops * 2


@BOTH
def test_sizes_that_are_no_multiples_take_the_kernel_for_any(csrc: Build, tmp_path: Path, record: OpRecord) -> None:
    inputs = drawn(record, "float16", ODD)
    played = csrc.play(scenario(record, inputs), tmp_path / "play")
    agree(played.results[0][0], record.expected(inputs)[0].astype("float32"), "float16")
    kernels_taken(played, tmp_path / "kernels", record, "float16")


@pytest.mark.parametrize("name", ["w1_scale", "w2_scale", "x_scale", "hidden_scale"])
def test_the_comparison_sees_a_wrong_scale(csrc: Build, tmp_path: Path, name: str) -> None:
    inputs = drawn(W8A8, "float16")
    played = csrc.play(scenario(W8A8, {**inputs, name: inputs[name] * np.float32(1.5)}), tmp_path)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        agree(played.results[0][0], W8A8.expected(inputs)[0].astype("float32"), "float16")


def test_hidden_layers_of_bytes_take_half_the_workspace(csrc: Build, tmp_path: Path) -> None:
    def rounded(number: int) -> int:
        return -(-number // 256) * 256

    for record, size in ((W8A16, 2), (W8A8, 1)):
        played = csrc.play(scenario(record, drawn(record, "float16"), most=300), tmp_path / record.name)
        hidden = rounded(300 * SIZES["N"] * SIZES["h"] * size)
        assert played.report["workspace"] == rounded(300 * 4) + rounded(SIZES["N"] * 4) + hidden + 256


@BOTH
def test_formats_are_the_forms_and_no_others(csrc: Build, tmp_path: Path, record: OpRecord) -> None:
    """Real tensors in half precision, for which there are kernels; everything else of its own type."""
    played = csrc.play(scenario(record, drawn(record, "float16")), tmp_path)
    fields = [*record.inputs, *record.outputs]
    wanted = [
        [dtype if len(field.dtypes) > 1 else field.dtypes[0] for field in fields] for dtype in ("float16", "bfloat16")
    ]
    assert sorted(played.report["formats"]) == sorted(wanted)


@pytest.mark.parametrize("form", ["W8A16", "W8A8"])
def test_parts_of_a_form_compute_the_whole(csrc: Build, tmp_path: Path, form: str) -> None:
    record = INT8_RECORDS[f"ConditionalMLP{form}"]
    inputs = drawn(record, "float16")
    k, learners = inputs["k"], len(inputs["w1"])
    known = {**inputs, "order": np.argsort(-np.clip(k, 0, learners), kind="stable").astype(np.int32)}
    known["running"] = np.array([(k > n).sum() for n in range(learners)], np.int32)
    for part in record.parts[1:]:
        given = [known[field.name] for field in part.inputs]
        nodes = [
            Input(array.dtype.name, ("T", *array.shape[1:]) if field.axes[:1] == ("T",) else array.shape,
                  (100, *array.shape[1:]) if field.axes[:1] == ("T",) else array.shape)
            for field, array in zip(part.inputs, given, strict=True)
        ]  # fmt: skip
        played = csrc.play(Scenario(part.name, nodes, runs=[given]), tmp_path / part.name)
        assert played.status == 0 and not played.report["log"]
        known[part.outputs[0].name] = played.results[0][0]
        assert played.report["workspace"] == 0
    assert known["hidden"].dtype == (np.int8 if form == "W8A8" else np.float16)
    agree(known["y"], record.expected(inputs)[0].astype("float32"), "float16")


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("w1", "float16", "w1 is float16, expected int8"),
        ("w1_scale", "float16", "w1_scale is float16, expected float32"),
        ("b1", "float32", "b1 is float32, expected float16 as the inputs before it"),
        ("x", "int8", "x has data type 2, expected float32, float16 or bfloat16"),
    ],
)
def test_other_types_are_one_line(csrc: Build, tmp_path: Path, name: str, dtype: str, message: str) -> None:
    inputs = drawn(W8A8, "float16")
    played = csrc.play(scenario(W8A8, {**inputs, name: inputs[name].astype(dtype)}), tmp_path)
    assert played.status == 1
    assert any(message in line and "\n" not in line for line in played.errors), played.errors


def test_scales_that_do_not_fit_the_weights_are_one_line(csrc: Build, tmp_path: Path) -> None:
    inputs = drawn(W8A8, "float16")
    played = csrc.play(scenario(W8A8, {**inputs, "hidden_scale": inputs["hidden_scale"][:-1]}), tmp_path)
    assert played.status == 1
    assert any("axis 0 of hidden_scale is 3, expected 4" in line for line in played.errors), played.errors


def test_a_device_without_int8_kernels_is_one_line(csrc: Build, tmp_path: Path) -> None:
    played = csrc.play(scenario(W8A8, drawn(W8A8, "float16")), tmp_path, "--arch", 75)
    assert played.status == 1
    assert any("got a device of sm_75" in line and "make kernels ARCH=75" in line for line in played.errors)
    assert TOLERANCE["float16"] < 0.1
