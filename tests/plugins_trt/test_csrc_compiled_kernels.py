"""The plugin library with kernels as ``make kernels`` compiles them: chosen, loaded and launched by their manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.plugins_trt.conftest import built_or_skip
from tests.plugins_trt.plugin_host import Build, Scenario
from tests.plugins_trt.standin_manifest import chosen, grid_of, signatures
from tests.plugins_trt.test_csrc import SIZES, agree, mlp_expected, mlp_inputs, mlp_scenario

ARCH = 87


@dataclass(frozen=True)
class BuildWithKernels(Build):
    """The host of one build folder and the library of another."""

    other: Path

    @property
    def library(self) -> Path:
        return self.other / "libadaptrt_trt.so"


@pytest.fixture(scope="module")
def kernels(csrc: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert csrc.library.is_file()  # where there is none the tests are skipped before anything is compiled
    pytest.importorskip("triton", reason="there is no Triton to compile kernels with")
    compile_kernels = pytest.importorskip("adaptrt.plugins_trt.compile").compile_kernels
    folder = tmp_path_factory.mktemp("kernels")
    ops = ("ConditionalMLPOrder", "ConditionalMLPUp", "ConditionalMLPDown")
    compile_kernels(folder, (ARCH,), dtypes=("float16",), ops=ops)
    return folder


@pytest.fixture(scope="module")
def compiled(csrc: Build, kernels: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildWithKernels:
    folder = tmp_path_factory.mktemp("csrc_compiled")
    images = folder / "signatures"
    images.write_text(signatures(kernels, json.loads((kernels / "manifest.json").read_text())))
    built_or_skip(folder / "build", kernels, host=False)
    return BuildWithKernels(csrc.folder, images, folder / "build")


@pytest.mark.parametrize(
    "sizes", [SIZES, SIZES | {"T": 1500}, SIZES | {"D": 20, "h": 12, "E": 7}], ids=["aligned", "many", "odd"]
)
def test_compiled_kernels_are_launched_as_their_manifest_says(
    compiled: BuildWithKernels, kernels: Path, tmp_path: Path, sizes: dict[str, int]
) -> None:
    inputs = mlp_inputs(sizes, "float16", "beyond")
    played = compiled.play(mlp_scenario([inputs], most=1500), tmp_path, "--arch", ARCH)
    assert played.status == 0 and not played.report["log"]
    agree(played.results[0][0], mlp_expected(inputs), "float16")
    manifest = json.loads((kernels / "manifest.json").read_text())
    assert len(played.launches) == 6
    for launch in played.launches:
        record = chosen(manifest, launch["op"], ARCH, "float16", launch["sizes"])
        assert launch["image"] == str(kernels / record["cubin"]["file"])
        assert launch["grid"] == grid_of(record, launch["sizes"])
        assert launch["block"] == [record["threads"], 1, 1] and launch["shared"] == record["shared_bytes"]


def test_later_devices_take_the_ptx(compiled: BuildWithKernels, tmp_path: Path) -> None:
    inputs = mlp_inputs(SIZES, "float16")
    played = compiled.play(mlp_scenario([inputs]), tmp_path, "--arch", 110)
    agree(played.results[0][0], mlp_expected(inputs), "float16")
    assert {Path(launch["image"]).suffix for launch in played.launches} == {".ptx"}


def test_ops_without_kernels_support_no_format(compiled: BuildWithKernels, tmp_path: Path) -> None:
    """Only float16 was compiled: TensorRT must not choose what would fail at run time."""
    played = compiled.play(mlp_scenario([mlp_inputs(SIZES, "float16")]), tmp_path / "half")
    assert played.report["formats"] == [["float16", "int32", *["float16"] * 5]]
    nothing = compiled.play(Scenario("SelectTokens", []), tmp_path / "none")
    assert nothing.report["failed"] == "createPlugin"
    assert "got no kernel of SelectTokens in this library, expected some; make kernels" in nothing.errors[0]
