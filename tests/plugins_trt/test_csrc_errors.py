"""What the C++ plugins refuse: one line to TensorRT's logger and recorder, and a failure, never a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.plugins_trt.plugin_host import Build, Input, Scenario
from tests.plugins_trt.test_csrc import SIZES, mlp_inputs, mlp_scenario

ORDER = [Input("int32", ("T",), (100,))]
MLP = [
    Input("float32", ("T", 16), (100, 16)),
    Input("int32", ("T",), (100,)),
    Input("float32", (4, 16, 16), (4, 16, 16)),
    Input("float32", (4, 16), (4, 16)),
    Input("float32", (4, 16, 16), (4, 16, 16)),
    Input("float32", (16,), (16,)),
]


def replaced(place: int, new: Input) -> list[Input]:
    return [new if number == place else old for number, old in enumerate(MLP)]


@pytest.mark.parametrize(
    ("plugin", "fields", "message"),
    [
        ("ConditionalMLP", [("learners", "int32", 4)], "got an attribute learners, expected none"),
        ("ConditionalMLPOrder", [], "got no attribute learners, expected a whole number of 1 or more"),
        ("ConditionalMLPOrder", [("learners", "int32", 0)], "attribute learners is 0, expected 1 or more"),
        ("ConditionalMLPOrder", [("learners", "int64", 2**40)], f"attribute learners is {2**40}, expected 1 or more"),
        ("ConditionalMLPOrder", [("learners", "float", 4)], "attribute learners is not one whole number"),
        ("ConditionalMLPOrder", [("learners", "char", "4")], "attribute learners is not one whole number"),
        ("ConditionalMLPOrder", [("learners", "int32", 4)] * 2, "got the attribute learners twice"),
        ("ConditionalMLPOrder", [("k", "int32", 4)], "got an attribute k, expected only learners"),
        ("SelectTokens", [("limits", "char", "some")], 'attribute limits is "some", expected one of any, none'),
        ("SelectTokens", [("limits", "int32", 1)], "attribute limits is not a text"),
        ("ConditionalMLP", [("op_version", "int32", 2)], "got version 2 of the op, expected at most 1; use a newer"),
        ("ConditionalMLP", [("plugin_version", "char", "2")], 'got plugin_version "2", expected "1"; use a newer'),
        ("ConditionalMLP", [("plugin_namespace", "char", "x")], 'got plugin_namespace "x", expected "adaptrt"'),
    ],
)
def test_fields(csrc: Build, tmp_path: Path, plugin: str, fields: list[tuple[str, str, object]], message: str) -> None:
    played = csrc.play(Scenario(plugin, ORDER, fields), tmp_path)
    assert played.status == 1 and played.report["failed"] == "createPlugin"
    [error] = played.errors
    assert error.startswith(f"adaptrt: {plugin}: node {plugin}_0: ") and message in error


def test_fields_that_name_the_plugin_are_taken(csrc: Build, tmp_path: Path) -> None:
    fields = [("plugin_namespace", "char", "adaptrt"), ("plugin_version", "char", "1"), ("op_version", "int32", 1)]
    assert csrc.play(Scenario("ConditionalMLP", MLP, fields), tmp_path).status == 0


def test_text_attribute_has_a_default(csrc: Build, tmp_path: Path) -> None:
    names = ("float32", "float32", "bool", "bool", "float32", "int64", "int64")
    axes = (("B", "T", "D"), *[("B", "T")] * 3, ("B",), (), ())
    inputs = [Input(name, axis, (9,) * len(axis)) for name, axis in zip(names, axes, strict=True)]
    assert csrc.play(Scenario("SelectTokens", inputs), tmp_path).report["serialized"]["limits"] == "any"


@pytest.mark.parametrize(
    ("inputs", "phase", "message"),
    [
        (MLP[:5], "getOutputDataTypes", "got 5 inputs and 1 outputs, expected 6 and 1"),
        (
            replaced(1, Input("int32", ("T", 1), (100, 1))),
            "getOutputShapes",
            "k has 2 axes, expected 1",
        ),
        (replaced(1, Input("int64", ("T",), (100,))), "getOutputDataTypes", "k is int64, expected int32"),
        (
            replaced(2, Input("float16", (4, 16, 16), (4, 16, 16))),
            "getOutputDataTypes",
            "w1 is float16, expected float32",
        ),
        (
            replaced(0, Input("int8", ("T", 16), (100, 16))),
            "getOutputDataTypes",
            "expected float32, float16 or bfloat16",
        ),
        (
            replaced(4, Input("float32", (3, 16, 16), (3, 16, 16))),
            "configurePlugin",
            "axis 0 of w2 is 3, expected 4 as other inputs and attributes have it",
        ),
    ],
    ids=["count", "rank", "type", "unlike", "unknown", "sizes"],
)
def test_inputs(csrc: Build, tmp_path: Path, inputs: list[Input], phase: str, message: str) -> None:
    played = csrc.play(Scenario("ConditionalMLP", inputs), tmp_path)
    assert played.status == 1 and played.report["failed"] == phase
    assert any(error.startswith("adaptrt: ConditionalMLP: ") and message in error for error in played.errors)


def test_down_checks_the_product_of_its_axes(csrc: Build, tmp_path: Path) -> None:
    inputs = [
        Input("float32", ("T", 63), (100, 63)),
        Input("int32", ("T",), (100,)),
        Input("int32", (4,), (4,)),
        Input("float32", (4, 16, 8), (4, 16, 8)),
        Input("float32", (8,), (8,)),
    ]
    played = csrc.play(Scenario("ConditionalMLPDown", inputs), tmp_path)
    assert played.report["failed"] == "configurePlugin"
    assert "axis 1 of hidden is 63, expected 64 as other inputs" in played.errors[0]


def refused(csrc: Build, tmp_path: Path, dtype: str, sizes: dict[str, int], *options: object, how: str = "-") -> str:
    """The message at onShapeChange or enqueue, which is logged whole and recorded in part."""
    played = csrc.play(mlp_scenario([mlp_inputs(sizes, dtype)], how={0: how}), tmp_path, *options)
    assert played.status == 1 and not played.results
    [error] = played.errors
    [recorded] = played.report["recorded"]
    assert len(recorded["message"]) <= 127 and error.startswith(f"adaptrt: {recorded['message']}")
    assert recorded["code"] > 0
    return f"{played.report['failed']}: {error}"


def test_no_kernel_for_the_architecture(csrc: Build, tmp_path: Path) -> None:
    message = refused(csrc, tmp_path, "float16", SIZES, "--arch", 72)
    assert message.startswith("onShapeChange") and "got a device of sm_72" in message
    assert "ConditionalMLPOrder" in message and "(sm_75, sm_87, sm_90); make kernels ARCH=72" in message
    only_new = refused(csrc, tmp_path / "float32", "float32", SIZES, "--arch", 86)
    assert "ConditionalMLPUp in float32" in only_new and "(sm_87)" in only_new


def test_no_kernel_for_the_sizes(csrc: Build, tmp_path: Path) -> None:
    message = refused(csrc, tmp_path, "bfloat16", SIZES | {"D": 20})
    assert (
        "got sizes that no kernel of ConditionalMLPUp in bfloat16 takes: expected D = 20 (a multiple of 16" in message
    )


def test_no_kernel_within_the_shared_memory(csrc: Build, tmp_path: Path) -> None:
    message = refused(csrc, tmp_path, "bfloat16", SIZES, "--shared", 16384)
    assert "got a device with 16384 bytes of shared memory per block, expected 49152 for ConditionalMLPUp" in message


def test_unaligned_input(csrc: Build, tmp_path: Path) -> None:
    message = refused(csrc, tmp_path, "float32", SIZES, how="unaligned")
    assert message.startswith("enqueue") and "got x at an address that is no multiple of 16" in message


def test_shapes_that_were_not_announced(csrc: Build, tmp_path: Path) -> None:
    message = refused(csrc, tmp_path, "float32", SIZES, how="unannounced")
    assert message.startswith("enqueue") and "got shapes that onShapeChange did not announce" in message


def test_shapes_that_differ_from_the_announced_ones(csrc: Build, tmp_path: Path) -> None:
    weights = mlp_inputs(SIZES, "float32")
    other = mlp_inputs(SIZES | {"T": 40}, "float32")
    longer = weights | {name: other[name] for name in ("x", "k")}
    played = csrc.play(mlp_scenario([weights, longer], how={1: "unannounced"}), tmp_path)
    assert played.report["failed"] == "enqueue"
    assert "onShapeChange did not announce" in played.errors[0]


def test_sizes_beyond_a_grid(csrc: Build, tmp_path: Path) -> None:
    """65,536 learners are more blocks than a grid's second axis has."""
    sizes = {"T": 1, "N": 65536, "D": 1, "h": 1, "E": 1}
    message = refused(csrc, tmp_path, "float32", sizes)
    assert "needs 65536 blocks along grid axis 1, expected at most 65535; run a smaller batch" in message


def test_inputs_are_poisoned_beyond_what_is_given(csrc: Build, tmp_path: Path) -> None:
    """The host fills outputs and workspace with NaN, so that an output that nobody wrote would show."""
    inputs = mlp_inputs(SIZES, "float32", "none")
    played = csrc.play(mlp_scenario([inputs]), tmp_path)
    np.testing.assert_array_equal(played.results[0][0], np.broadcast_to(inputs["b2"], (SIZES["T"], SIZES["E"])))
