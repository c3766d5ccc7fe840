"""The plugin library with kernels as ``make kernels`` compiles them: chosen, loaded and launched by their manifest."""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from adaptrt.ops import FORMS, INT8_RECORDS, RECORDS, OpRecord
from tests.plugins_trt.conftest import built_or_skip
from tests.plugins_trt.plugin_host import Build, Scenario
from tests.plugins_trt.standin_manifest import chosen, grid_of, signatures
from tests.plugins_trt.test_csrc import SIZES, agree, mlp_expected, mlp_inputs, mlp_scenario
from tests.plugins_trt.test_csrc_int8 import drawn as int8_drawn
from tests.plugins_trt.test_csrc_int8 import scenario as int8_scenario

ARCH = 87
OPS = ("ConditionalMLP", "ConditionalSwiGLU")  # one of each up-projection
INT8 = [INT8_RECORDS[f"{op}{form.name}"] for op in OPS for form in FORMS]


@dataclass(frozen=True)
class BuildWithKernels(Build):
    """The host of one build folder and the library of another."""

    other: Path

    @property
    def library(self) -> Path:
        return self.other / "libadaptrt_trt.so"


def compiled_for(arch: int, csrc: Build, folder: Path) -> BuildWithKernels:
    assert csrc.library.is_file()  # where there is none the tests are skipped before anything is compiled
    pytest.importorskip("triton", reason="there is no Triton to compile kernels with")
    compile_kernels = pytest.importorskip("adaptrt.plugins_trt.compile").compile_kernels
    ops = list(dict.fromkeys(part.name for op in OPS for part in RECORDS[op].parts))
    compile_kernels(folder / "kernels", (arch,), dtypes=("float16",), ops=ops)
    images = folder / "signatures"
    images.write_text(signatures(folder / "kernels", json.loads((folder / "kernels" / "manifest.json").read_text())))
    built_or_skip(folder / "build", folder / "kernels", host=False)
    return BuildWithKernels(csrc.folder, images, folder / "build")


@pytest.fixture(scope="module")
def compiled(csrc: Build, tmp_path_factory: pytest.TempPathFactory) -> BuildWithKernels:
    return compiled_for(ARCH, csrc, tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def kernels(compiled: BuildWithKernels) -> Path:
    return compiled.signatures.parent / "kernels"


def arch_of_this_machine() -> int | None:
    """The first CUDA device's compute capability, 87 for 8.7."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for value, attribute in ((major, 75), (minor, 76)):
        assert driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) == 0
    return major.value * 10 + minor.value


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    "sizes", [SIZES, SIZES | {"T": 1500}, SIZES | {"D": 20, "h": 12, "E": 7}], ids=["aligned", "many", "odd"]
)
def test_compiled_kernels_are_launched_as_their_manifest_says(
    compiled: BuildWithKernels, kernels: Path, tmp_path: Path, sizes: dict[str, int], op: str
) -> None:
    inputs = mlp_inputs(sizes, "float16", "beyond", RECORDS[op])
    played = compiled.play(mlp_scenario([inputs], most=1500, op=op), tmp_path, "--arch", ARCH)
    assert played.status == 0 and not played.report["log"]
    agree(played.results[0][0], mlp_expected(inputs, RECORDS[op]), "float16")
    manifest = json.loads((kernels / "manifest.json").read_text())
    assert len(played.launches) == 6
    for launch in played.launches:
        record = chosen(manifest, launch["op"], ARCH, "float16", launch["sizes"])
        assert launch["image"] == str(kernels / record["cubin"]["file"])
        assert launch["grid"] == grid_of(record, launch["sizes"])
        assert launch["block"] == [record["threads"], 1, 1] and launch["shared"] == record["shared_bytes"]


@pytest.mark.parametrize("record", INT8, ids=lambda record: record.name)
@pytest.mark.parametrize("sizes", [SIZES, SIZES | {"D": 20, "h": 12, "E": 7}], ids=["aligned", "odd"])
def test_compiled_kernels_of_int8_forms(
    compiled: BuildWithKernels, kernels: Path, tmp_path: Path, sizes: dict[str, int], record: OpRecord
) -> None:
    inputs = int8_drawn(record, "float16", sizes)
    played = compiled.play(int8_scenario(record, inputs), tmp_path, "--arch", ARCH)
    assert played.status == 0 and not played.report["log"]
    agree(played.results[0][0], record.expected(inputs)[0].astype("float32"), "float16")
    manifest = json.loads((kernels / "manifest.json").read_text())
    activations = "int8" if record.name.endswith("W8A8") else ""
    assert len(played.launches) == 6
    for launch in played.launches:
        wanted = chosen(manifest, launch["op"], ARCH, "float16", launch["sizes"], "int8", activations)
        assert launch["image"] == str(kernels / wanted["cubin"]["file"])
        assert launch["grid"] == grid_of(wanted, launch["sizes"]) and launch["shared"] == wanted["shared_bytes"]


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


def test_on_this_machines_gpu(csrc: Build, tmp_path: Path) -> None:
    """The same host on the real driver: kernels compute, also out of a CUDA graph and for other shapes."""
    arch = arch_of_this_machine()
    if arch is None:
        pytest.skip("there is no CUDA device: the plugins did not launch their kernels on a GPU")
    build = compiled_for(arch, csrc, tmp_path)
    weights = mlp_inputs(SIZES, "float16")
    runs = []
    for tokens in (37, 1500, 0, 37):
        drawn = mlp_inputs(SIZES | {"T": tokens}, "float16", "beyond")
        runs.append(weights | {name: drawn[name] for name in ("x", "k")})
    scenario = mlp_scenario(runs, most=1500, how={1: "capture", 3: "capture"})
    played = build.play(scenario, tmp_path / "play", cuda=Path("libcuda.so.1"))
    assert played.status == 0 and played.report["independent"] and not played.report["log"]
    for run, row in zip(runs, played.results, strict=True):
        agree(row[0], mlp_expected(run), "float16")
    for record in INT8:
        inputs = int8_drawn(record, "float16")
        played = build.play(int8_scenario(record, inputs), tmp_path / record.name, cuda=Path("libcuda.so.1"))
        assert played.status == 0 and not played.report["log"]
        agree(played.results[0][0], record.expected(inputs)[0].astype("float32"), "float16")
