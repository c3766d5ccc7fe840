"""The C++ plugins, driven by a host that plays TensorRT and a driver that computes what kernels would."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from adaptrt.ops import CONDITIONAL_MLP, RECORDS, SELECT_TOKENS, Case, OpRecord
from tests.plugins_trt.plugin_host import Array, Build, Input, Played, Scenario
from tests.plugins_trt.standin_manifest import REALS, chosen, grid_of, write_kernels

SIZES = {"T": 37, "N": 4, "D": 32, "h": 16, "E": 48}
TOLERANCE = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 6e-2}
PARTS = ("ConditionalMLPOrder", "ConditionalMLPUp", "ConditionalMLPDown")


def real(dtype: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)


def learner_ops(records: Mapping[str, OpRecord]) -> list[OpRecord]:
    """The ops with plugins in which a token runs the first k learners."""
    return [record for record in records.values() if record.parts and "k" in {field.name for field in record.inputs}]


def mlp_inputs(
    sizes: dict[str, int], dtype: str, draw: str = "random", record: OpRecord = CONDITIONAL_MLP
) -> dict[str, Array]:
    inputs = record.make_inputs(Case("", sizes, draw), np.random.default_rng(), "float32")
    return {name: array if name == "k" else array.astype(real(dtype)) for name, array in inputs.items()}


def mlp_expected(inputs: dict[str, Array], record: OpRecord = CONDITIONAL_MLP) -> Array:
    """The reference in float64 of what the inputs hold."""
    return record.expected({name: a if name == "k" else a.astype("float32") for name, a in inputs.items()})[0]


def mlp_scenario(
    runs: Sequence[dict[str, Array]], most: int = 600, op: str = CONDITIONAL_MLP.name, **rest: Any
) -> Scenario:
    """A node whose number of tokens alone is dynamic."""
    dtype = runs[0]["x"].dtype.name
    inputs = []
    for name, array in runs[0].items():
        tokens = name in ("x", "k")
        axes = ("T", *array.shape[1:]) if tokens else array.shape
        inputs.append(
            Input("int32" if name == "k" else dtype, axes, (most, *array.shape[1:]) if tokens else array.shape)
        )
    return Scenario(op, inputs, runs=[list(run.values()) for run in runs], **rest)


def agree(got: Array, wanted: Array, dtype: str) -> None:
    assert got.shape == wanted.shape
    assert np.isfinite(got.astype("float32")).all()
    np.testing.assert_allclose(got.astype("float32"), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def check_launches(played: Played, tmp_path: Path, dtype: str, arch: int, order: Sequence[str]) -> None:
    """Grid, block, shared memory and image of every launch, against the manifest's own rules."""
    manifest = write_kernels(tmp_path / "same_kernels")
    assert [launch["op"] for launch in played.launches] == list(order)
    for launch in played.launches:
        record = chosen(manifest, launch["op"], arch, dtype, launch["sizes"])
        assert launch["grid"] == grid_of(record, launch["sizes"])
        assert launch["block"] == [record["threads"], 1, 1]
        assert launch["shared"] == record["shared_bytes"]
        assert launch["image"].endswith(record["cubin"]["file"])
        assert launch["on_a_stream"]


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("record", learner_ops(RECORDS), ids=lambda record: record.name)
def test_whole_op_in_every_dtype(csrc: Build, tmp_path: Path, record: OpRecord, dtype: str) -> None:
    inputs = mlp_inputs(SIZES, dtype, "beyond", record)
    played = csrc.play(mlp_scenario([inputs], op=record.name), tmp_path / "play")
    assert played.status == 0 and not played.report["log"] and not played.report["recorded"]
    assert played.report["output_types"] == [dtype]
    assert played.report["output_shapes"] == [["T", "48"]]
    assert played.report["serialized"] == {"op_version": 1}
    assert played.report["independent"]
    agree(played.results[0][0], mlp_expected(inputs, record), dtype)
    # Once by the run, once more by the second context.
    check_launches(played, tmp_path, dtype, 87, [part.name for part in record.parts] * 2)


@pytest.mark.parametrize("record", learner_ops(RECORDS), ids=lambda record: record.name)
def test_comparison_tells_ops_apart(csrc: Build, tmp_path: Path, record: OpRecord) -> None:
    inputs = mlp_inputs(SIZES, "float32", "all", record)
    played = csrc.play(mlp_scenario([inputs], op=record.name), tmp_path)
    for other in learner_ops(RECORDS):
        if other is not record and other.inputs == record.inputs:
            with pytest.raises(AssertionError, match="Not equal to tolerance"):
                agree(played.results[0][0], mlp_expected(inputs, other), "float32")


def test_comparison_can_fail(csrc: Build, tmp_path: Path) -> None:
    inputs = mlp_inputs(SIZES, "float32", "all")
    played = csrc.play(mlp_scenario([inputs]), tmp_path)
    wrong = mlp_expected({**inputs, "k": inputs["k"] - 1})
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        agree(played.results[0][0], wrong, "float32")


@pytest.mark.parametrize("draw", ["none", "all", "beyond", "random"])
def test_whole_op_for_every_k(csrc: Build, tmp_path: Path, draw: str) -> None:
    sizes = {"T": 65, "N": 9, "D": 12, "h": 4, "E": 7}
    inputs = mlp_inputs(sizes, "float32", draw)
    played = csrc.play(mlp_scenario([inputs]), tmp_path)
    agree(played.results[0][0], mlp_expected(inputs), "float32")


def test_shapes_change_between_runs_and_contexts(csrc: Build, tmp_path: Path) -> None:
    """Another kernel for many tokens, none launched for no token, the same answer again for the first shape."""
    weights = mlp_inputs(SIZES, "float16")
    runs = []
    for tokens in (37, 600, 1, 0, 512, 37):
        drawn = mlp_inputs(SIZES | {"T": tokens}, "float16")
        runs.append(weights | {name: drawn[name] for name in ("x", "k")})
    played = csrc.play(mlp_scenario(runs, how={1: "capture", 4: "capture"}), tmp_path)
    assert played.status == 0 and played.report["independent"]
    for run, row in zip(runs, played.results, strict=True):
        agree(row[0], mlp_expected(run), "float16")
    tokens_launched = [launch["sizes"]["T"] for launch in played.launches]
    # Without tokens the order kernel alone runs: it writes how many run each learner.
    assert tokens_launched == [37] * 3 + [600] * 3 + [1] * 3 + [0] + [512] * 3 + [37] * 6
    assert [launch["captured"] for launch in played.launches if launch["sizes"]["T"] in (600, 512)] == [True] * 6
    # A module is loaded once, however often shapes change: order, and two variants of up and down.
    assert len(played.modules) == 5 == len({record["module"] for record in played.modules})
    large = [record for record in played.report["driver"] if "attribute" in record]
    assert [(record["attribute"], record["value"]) for record in large] == [(8, 65536)] * 2
    assert not [record for record in played.report["driver"] if "refused" in record]


def test_another_context_loads_modules_anew(csrc: Build, tmp_path: Path) -> None:
    inputs = mlp_inputs(SIZES, "float16")
    played = csrc.play(mlp_scenario([inputs] * 2, how={1: "renew"}), tmp_path)
    assert [record["context"] for record in played.modules] == [1] * 3 + [2] * 3


def test_workspace_holds_what_lies_between_the_kernels(csrc: Build, tmp_path: Path) -> None:
    """order, running and hidden at the profile's most, each a multiple of 256, and the cost of aligning."""
    inputs = mlp_inputs(SIZES, "float16")
    most = 300

    def rounded(number: int) -> int:
        return -(-number // 256) * 256

    played = csrc.play(mlp_scenario([inputs], most=most), tmp_path)
    hidden = rounded(most * SIZES["N"] * SIZES["h"] * 2)
    assert played.report["workspace"] == rounded(most * 4) + rounded(SIZES["N"] * 4) + hidden + 256


def test_parts_compute_the_whole(csrc: Build, tmp_path: Path) -> None:
    inputs = mlp_inputs(SIZES, "float32", "random")
    x, k, w1, b1, w2, b2 = inputs.values()
    tokens, (learners, width, hidden) = len(x), w1.shape
    ordered = csrc.play(
        Scenario(
            "ConditionalMLPOrder",
            [Input("int32", ("T",), (100,))],
            [("learners", "int64", learners)],
            [[k]],
            outputs=2,
        ),
        tmp_path / "order",
    )
    assert ordered.report["output_shapes"] == [["T"], [str(learners)]]
    assert ordered.report["fields"] == ["learners"]
    assert ordered.report["serialized"] == {"op_version": 1, "learners": learners}
    assert ordered.report["workspace"] == 0
    order, running = ordered.results[0]
    np.testing.assert_array_equal(order, np.argsort(-np.clip(k, 0, learners), kind="stable"))
    np.testing.assert_array_equal(running, [(k > n).sum() for n in range(learners)])

    per_token = Input("float32", ("T", width), (100, width)), Input("int32", ("T",), (100,))
    weights = [Input("float32", array.shape, array.shape) for array in (w1, b1, w2, b2)]
    running_input = Input("int32", ("N",), (learners,))
    up = csrc.play(
        Scenario("ConditionalMLPUp", [*per_token, running_input, *weights[:2]], runs=[[x, order, running, w1, b1]]),
        tmp_path / "up",
    )
    # N is the symbol of running's axis, whose size the weights give as a number.
    assert up.report["output_shapes"] == [["T", f"(N * {hidden})"]]
    down_input = Input("float32", ("T", learners * hidden), (100, learners * hidden))
    down = csrc.play(
        Scenario(
            "ConditionalMLPDown",
            [down_input, per_token[1], running_input, *weights[2:]],
            runs=[[up.results[0][0], order, running, w2, b2]],
        ),
        tmp_path / "down",
    )
    assert tokens == down.results[0][0].shape[0]
    agree(down.results[0][0], mlp_expected(inputs), "float32")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "case", [case for case in SELECT_TOKENS.cases if case.name != "many_tokens"], ids=lambda c: c.name
)
def test_select_tokens(csrc: Build, tmp_path: Path, case: Case, dtype: str) -> None:
    inputs = SELECT_TOKENS.make_inputs(case, np.random.default_rng(), dtype)
    played = csrc.play(
        Scenario(
            "SelectTokens",
            [
                Input(array.dtype.name, ("B", "T", "D")[: array.ndim], (9, 99, 99)[: array.ndim])
                for array in inputs.values()
            ],
            [("limits", "char", case.attributes["limits"])],
            [list(inputs.values())],
            outputs=3,
        ),
        tmp_path / "play",
    )
    assert played.status == 0 and played.report["independent"]
    assert played.report["output_types"] == [dtype, "int32", "int32"]
    assert played.report["output_shapes"] == [["B", "T", "D"], ["B", "T"], ["B"]]
    assert played.report["serialized"] == {"op_version": 1, "limits": case.attributes["limits"]}
    wanted = SELECT_TOKENS.expected(inputs, case.attributes)
    largest = wanted[0].shape[1]
    for got, shorter in zip(played.results[0], wanted, strict=True):
        # The plugin's outputs are as long as its input, the reference's as its fullest sample.
        np.testing.assert_array_equal(got[:, :largest] if got.ndim > 1 else got, shorter)
        assert got.ndim == 1 or not got[:, largest:].any()
    launches = PARTS[:0] if 0 in inputs["x"].shape[:1] else ("SelectTokens",) * 2
    check_launches(played, tmp_path, dtype, 87, launches)


def test_formats_are_linear_and_alike(csrc: Build, tmp_path: Path) -> None:
    inputs = mlp_inputs(SIZES, "float32")
    formats = csrc.play(mlp_scenario([inputs]), tmp_path).report["formats"]
    assert sorted(formats) == sorted([dtype, "int32", *[dtype] * 5] for dtype in REALS)


@pytest.mark.parametrize(
    ("arch", "expected", "kind"),
    [
        (87, 87, "cubin"),  # its own
        (89, 87, "ptx"),  # the highest below it
        (110, 87, "ptx"),  # sm_90a runs on nothing else
        (90, 90, "cubin"),
        (86, 75, "ptx"),
    ],
)
def test_kernels_for_a_device(csrc: Build, tmp_path: Path, arch: int, expected: int, kind: str) -> None:
    inputs = mlp_inputs(SIZES, "float16")
    played = csrc.play(mlp_scenario([inputs]), tmp_path, "--arch", arch, "--shared", 232448)
    agree(played.results[0][0], mlp_expected(inputs), "float16")
    for launch in played.launches:
        assert f"/sm_{expected}/" in launch["image"] and launch["image"].endswith(kind)


def test_too_little_shared_memory_takes_the_next_kernel(csrc: Build, tmp_path: Path) -> None:
    inputs = mlp_inputs(SIZES | {"T": 600}, "float16")
    for shared, wanted in ((65536, [0, 65536, 65536]), (49152, [0, 49152, 49152]), (32768, [0, 0, 0])):
        played = csrc.play(mlp_scenario([inputs]), tmp_path / str(shared), "--shared", shared)
        assert [launch["shared"] for launch in played.launches[:3]] == wanted
        agree(played.results[0][0], mlp_expected(inputs), "float16")


def test_refused_cubin_is_replaced_by_its_ptx_with_a_warning(csrc: Build, tmp_path: Path) -> None:
    inputs = mlp_inputs(SIZES, "float16")
    played = csrc.play(mlp_scenario([inputs]), tmp_path, "--refuse-cubins")
    agree(played.results[0][0], mlp_expected(inputs), "float16")
    assert all(launch["image"].endswith(".ptx") for launch in played.launches)
    warnings = [line["message"] for line in played.report["log"] if line["severity"] == "warning"]
    assert warnings and all("CUDA_ERROR_NO_BINARY_FOR_GPU" in warning for warning in warnings)


def test_library_needs_neither_cuda_nor_tensorrt(csrc: Build) -> None:
    def symbols(*options: str) -> set[str]:
        text = subprocess.run(["nm", "-D", *options, csrc.library], capture_output=True, text=True, check=True).stdout
        return {line.split()[-1].partition("@")[0] for line in text.splitlines()}

    entries = {"getCreators", "setLoggerFinder"}
    own = {"adaptrtRegisterPlugins", "adaptrtTensorrtMajor", "adaptrtKernelSourceHash"}
    # What a compiler exports of templates and type information is no entry point.
    assert {name for name in symbols("--defined-only") if not name.startswith("_")} == entries | own
    undefined = symbols("--undefined-only")
    assert {"dlopen", "dlsym"} <= undefined
    assert not {
        name for name in undefined if name.startswith(("cu", "nv")) or name in ("getPluginRegistry", "getLogger")
    }
    needed = subprocess.run(["readelf", "-d", csrc.library], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed and not any(name in needed for name in ("libcuda", "libcudart", "libnvinfer"))
