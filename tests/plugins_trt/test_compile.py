"""Compilation ahead of time, with no GPU: what lies in the folder is what the manifest and the records say."""

import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from adaptrt.plugins_trt import compile as compilation
from adaptrt.plugins_trt.compile import compile_kernels, main, source_hash, variants
from adaptrt.plugins_trt.compile_worker import PTX_VERSIONS, cut_scratch, entry_parameters
from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.kernel_records import KERNEL_RECORDS
from adaptrt.plugins_trt.kernels.configurations import FAMILIES
from adaptrt.plugins_trt.manifest import Kernel, Manifest, read_manifest

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed: install adaptrt[kernels]"
)

_TYPES = {"input": "u64", "output": "u64", "size": "u32"}


ONE_OF_EACH_FILE = list({record.entry: op for op, record in reversed(KERNEL_RECORDS.items())}.values())


@pytest.fixture(scope="module", params=[pytest.param(arch, marks=needs_triton) for arch in (87, 120)])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One op of each kernel file: compilation takes half a second each."""
    folder = tmp_path_factory.mktemp("kernels")
    return compile_kernels(folder, [request.param], ["float16"], ONE_OF_EACH_FILE)


@needs_triton
def test_ops_that_differ_in_a_constant_compile_to_different_kernels(tmp_path: Path) -> None:
    ops = [op for op, record in KERNEL_RECORDS.items() if record.constants]
    manifest = compile_kernels(tmp_path, [87], ["float32"], ops)
    assert {kernel.op for kernel in manifest.kernels} == set(ops)
    assert not any(kernel.spill_bytes for kernel in manifest.kernels)
    images = {kernel.cubin.sha256 for kernel in manifest.kernels}
    assert len(images) == len(manifest.kernels) == 2 * len(ops)


def test_every_kernel_is_there_and_takes_what_the_manifest_says(compiled: Manifest) -> None:
    assert {kernel.op for kernel in compiled.kernels} == set(ONE_OF_EACH_FILE)
    kinds = {(kernel.weights, kernel.activations) for kernel in compiled.kernels}
    assert kinds == {("float16", "float16"), ("int8", "float16"), ("int8", "int8"), ("int32", "int32")}
    for kernel in compiled.kernels:
        ptx = compiled.read(kernel.ptx).decode()
        record = KERNEL_RECORDS[kernel.op]
        names = [argument.name for argument in record.arguments_of(kernel.weights, kernel.activations)]
        assert [argument.name for argument in kernel.arguments] == names
        entry, parameters = entry_parameters(ptx)
        assert entry == kernel.entry == record.entry
        assert parameters == [_TYPES[argument.kind] for argument in kernel.arguments]
        assert re.search(rf"^\.target sm_{kernel.arch}a?$", ptx, re.MULTILINE)
        assert f".reqntid {kernel.threads}" in ptx
        major, minor = divmod(PTX_VERSIONS[kernel.arch], 10)
        assert f".version {major}.{minor}" in ptx
        assert compiled.read(kernel.cubin).startswith(b"\x7fELF")
        assert record.entry.encode() in compiled.read(kernel.cubin)


def test_registers_suffice_and_multiplications_are_those_of_tensor_cores(compiled: Manifest) -> None:
    for kernel in compiled.kernels:
        assert kernel.spill_bytes == 0 and 0 < kernel.registers <= 255 and ".local" not in text(compiled, kernel)
        assert kernel.registers * kernel.threads <= 65536
        if KERNEL_RECORDS[kernel.op].has_weights:
            assert "mma.sync" in text(compiled, kernel)
            assert (".s32.s8.s8.s32" in text(compiled, kernel)) == (kernel.activations == "int8")
            assert kernel.requires == {} or "cp.async" in text(compiled, kernel)


def test_nothing_in_the_images_depends_on_where_they_were_made(compiled: Manifest) -> None:
    for kernel in compiled.kernels:
        for line in text(compiled, kernel).splitlines():
            assert not line.lstrip().startswith((".file", ".loc", ".section"))
        for image in (kernel.ptx, kernel.cubin):
            content = compiled.read(image)
            assert b"/tmp" not in content and b".py" not in content and b"site-packages" not in content


def text(manifest: Manifest, kernel: Kernel) -> str:
    return manifest.read(kernel.ptx).decode()


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and compilation.CACHE not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@needs_triton
def test_two_compilations_give_the_same_bytes_and_old_kernels_go(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    for name in ("one", "two"):
        compile_kernels(
            tmp_path / name,
            [90],
            ["float16"],
            ["ConditionalMLPDown", "ConditionalMLPOrder"],
            on_done=lambda *numbers: done.append(numbers),
        )
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two") and len(one) > 4
    assert done[0] == (0, len(one) // 2) and done[-1] == (len(one) // 2,) * 2
    large = read_manifest(tmp_path / "one").find("ConditionalMLPDown", 90, "float16", {"T": 8192, "h": 768, "E": 768})
    assert large.variant == "aligned16-large" and b"wgmma" in one[large.ptx.file]
    # Two CTAs of the large tile share an SM of Hopper: registers and shared memory.
    assert 2 * large.threads * (large.registers + 7) // 8 * 8 <= 65536 and 2 * large.shared_bytes <= 227 * 1024
    done.clear()
    compile_kernels(
        tmp_path / "one", [90], ["float16"], ["ConditionalMLPOrder"], on_done=lambda *numbers: done.append(numbers)
    )
    assert done == [(1, 1)]  # out of the cache
    assert len(contents(tmp_path / "one")) == 3


def worker_that_fails(message: str) -> object:
    import contextlib

    @contextlib.contextmanager
    def worker():  # type: ignore[no-untyped-def]
        yield lambda _job: {"error": message}

    return worker


@needs_triton
def test_a_kernel_that_does_not_compile_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.json").write_text("old")
    monkeypatch.setattr(compilation, "_worker", worker_that_fails("no such instruction"))
    with pytest.raises(KernelError, match=r"sm_87/ConditionalMLPOrder.int32.any did not compile: no such instruct"):
        compile_kernels(tmp_path, [87], ["float16"], ["ConditionalMLPOrder"])
    assert contents(tmp_path) == {"manifest.json": b"old"}


@needs_triton
def test_a_compiler_that_ends_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(KernelError, match="the compiler ended: it said nothing"):
        compile_kernels(tmp_path, [87], ["float16"], ["ConditionalMLPOrder"])
    assert not contents(tmp_path)


@needs_triton
def test_a_damaged_cache_is_not_believed(tmp_path: Path) -> None:
    compile_kernels(tmp_path, [87], ["float16"], ["ConditionalMLPOrder"])
    (file,) = (tmp_path / compilation.CACHE).iterdir()
    whole, before = file.read_bytes(), contents(tmp_path)
    file.write_bytes(whole[:100])
    compile_kernels(tmp_path, [87], ["float16"], ["ConditionalMLPOrder"])
    assert contents(tmp_path) == before and json.loads(file.read_bytes()) == json.loads(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "53"], "got architecture 53, expected one of 80, 86, 87"),
        (["--arch", "orin"], "got architecture 'orin', expected a number such as 87"),
        (["--dtype", "float64"], "got dtype float64, expected some of float16"),
        (["--op", "Softmax"], "got op Softmax, expected some of ConditionalMLPOrder"),
        pytest.param(["--output", "/dev/null/kernels"], "cannot write /dev/null/kernels", marks=needs_triton),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(
    arguments: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "kernels")]
    assert main([*arguments, *output]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and message in said[0]
    assert not (tmp_path / "kernels").exists()


def test_all_architectures_have_a_ptx_version_and_names_are_unique() -> None:
    assert set(PTX_VERSIONS) == set(FAMILIES) and set(compilation.ARCHITECTURES) <= set(FAMILIES)
    every = variants(list(FAMILIES))
    assert len({variant.stem for variant in every}) == len(every)


def test_the_source_hash_is_one_of_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "plugins_trt"
    (room / "kernels").mkdir(parents=True)
    here = Path(compilation.__file__).resolve().parent
    for path in [*here.glob("*.py"), *here.glob("kernels/*.py")]:
        (room / path.relative_to(here)).write_bytes(path.read_bytes())
    before = source_hash()
    monkeypatch.setattr(compilation, "__file__", str(room / "compile.py"))
    assert source_hash() == before
    (room / "kernels" / "select_tokens.py").write_text("changed")
    assert source_hash() != before


PTX = """.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0,
	.param .u32 kernel_param_1,
	.param .u64 .ptr .global .align 1 kernel_param_2,
	.param .u64 .ptr .global .align 1 kernel_param_3
)
{
	ld.param.b32 %r1, [kernel_param_1];
	ret;
}
"""


def test_scratch_pointers_are_cut_only_where_nobody_uses_them() -> None:
    cut = cut_scratch(PTX, 2)
    assert entry_parameters(cut) == ("kernel", ["u64", "u32"]) and cut.endswith(PTX[PTX.index("\n)\n{") :])
    with pytest.raises(KernelError, match="kernel has 4 parameters in PTX, expected 3 and 2"):
        cut_scratch(PTX, 3)
    for used in (2, 3):
        with pytest.raises(KernelError, match=rf"uses its scratch memory kernel_param_{used}"):
            cut_scratch(PTX.replace("[kernel_param_1]", f"[kernel_param_{used}]"), 2)
    with pytest.raises(KernelError, match="got PTX with 2 entries"):
        cut_scratch(PTX + PTX, 2)
    with pytest.raises(KernelError, match="got PTX with 0 entries"):
        cut_scratch("", 2)
