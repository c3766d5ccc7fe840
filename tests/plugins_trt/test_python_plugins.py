"""The Python plugins as TensorRT sees them when it builds an engine, by a stand-in and by NVIDIA's own package."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import sys
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptrt.plugins_trt import python_plugins
from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.kernel_records import KERNEL_RECORDS
from adaptrt.plugins_trt.manifest import Factor, ImageFile, Kernel, KernelArgument, Manifest
from adaptrt.plugins_trt.part_plugins import PART_PLUGINS
from adaptrt.plugins_trt.python_plugins import OPS, register_plugins
from tests.plugins_trt.plugin_stand_in import NvidiaPackage, StandInPackage, Tensor

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # in NVIDIA's sources

ARCH = 87
PARTS = ("ConditionalMLPOrder", "ConditionalMLPDown", "ConditionalMLPDownW8A16", "ConditionalMLPDownW8A8")
NAMES = {"float16": "HALF", "bfloat16": "BF16", "float32": "FLOAT", "int32": "INT32", "bool": "BOOL", "int64": "INT64"}
NAMES["int8"] = "INT8"
PER = {"BLOCK_T": 64, "BLOCK_H": 128, "BLOCK_E": 32, "BLOCK_D": 16}
ATTRIBUTES = {"ConditionalMLPOrder": {"learners": 4}, "SelectTokens": {"limits": "none"}}


def type_of(op, argument, dtype):
    """TensorRT's name of the type of a plugin's tensor where its numbers are of a dtype."""
    kinds = dict(zip(("values", "weights", "activations"), PART_PLUGINS[op].dtypes(dtype), strict=True))
    return NAMES[kinds.get(argument.dtype, argument.dtype)]


def make_kernel(op, dtype, variant, requires, *, scale=1, **changes):
    """A kernel of the manifest's form, its grid as its record says, with tiles of its own."""
    record = KERNEL_RECORDS[op]
    dtype = dtype if record.has_values else "int32"
    grid = tuple(
        tuple(Factor(f.size, f.per if isinstance(f.per, int) else scale * PER[f.per]) for f in factors)
        for factors in record.grid
    )
    arguments = tuple(KernelArgument(a.name, a.kind, a.dtype) for a in record.arguments_of())
    fields = {
        "op": op, "version": 1, "variant": variant, "arch": ARCH, "dtype": dtype, "weights": dtype,
        "activations": dtype, "entry": record.entry, "ptx": None, "cubin": None, "threads": 128 * scale,
        "shared_bytes": 1024 * scale,
        "registers": 1, "spill_bytes": 0, "requires": requires, "at_least": {"T": 512} if scale == 2 else {},
        "arguments": arguments, "grid": grid,
    }  # fmt: skip
    return Kernel(**{**fields, **changes})


@pytest.fixture
def manifest(tmp_path):
    kernels = []
    for name, plugin in PART_PLUGINS.items():
        op, record = plugin.kernel.op, plugin.kernel
        halves = ("float16", "bfloat16")
        for dtype in (*halves, *(() if plugin.form else ("float32",))) if record.has_values else ("int32",):
            _, weights, activations = plugin.dtypes(dtype)
            aligned = dict.fromkeys(record.aligned, 16)
            variants = [("large", aligned, 2), ("small", aligned, 1), ("any", {}, 3)] if aligned else [("any", {}, 1)]
            for variant, requires, scale in variants:
                text = f"// {name} {dtype} {variant}".encode()
                file = f"{name}.{dtype}.{variant}.ptx"
                (tmp_path / file).write_bytes(text)
                image = ImageFile(file, hashlib.sha256(text).hexdigest())
                kinds = {"weights": weights, "activations": activations}
                kernels.append(make_kernel(op, dtype, variant, requires, scale=scale, ptx=image, cubin=image, **kinds))
    return Manifest(tmp_path, "3.9.0", "a" * 64, tuple(kernels))


@pytest.fixture(params=["stand-in", "NVIDIA's"])
def package(request, monkeypatch):
    monkeypatch.setattr(python_plugins, "_REGISTERED", {})
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        monkeypatch.delitem(sys.modules, name)
    if request.param == "stand-in":
        made = StandInPackage()
        monkeypatch.setitem(sys.modules, "tensorrt", made.core)
        monkeypatch.setitem(sys.modules, "tensorrt.plugin", made.package)
        yield made
        return
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("TensorRT's Python bindings are not installed, so NVIDIA's tensorrt.plugin cannot be had")
    yield NvidiaPackage()
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        del sys.modules[name]


def tensors(op, dtype, *, dynamic=("T", "B")):
    """The op's inputs; sizes of weights are known when the engine is built, those of activations are not."""
    found = []
    for argument in PART_PLUGINS[op].arguments:
        if argument.kind == "input":
            axes = tuple((axis, axis not in dynamic) for axis in argument.axes)
            found.append(Tensor(type_of(op, argument, dtype), axes))
    return found


def all_sizes(**sizes):
    return {**sizes, "N*h": sizes["N"] * sizes["h"]}


def expected_sizes(op, sizes):
    return {**sizes, "limits": 0} if op == "SelectTokens" else sizes


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_shapes_types_and_launch(package, manifest, op, dtype):
    register_plugins(manifest, ARCH)
    plugin = PART_PLUGINS[op]
    if plugin.form and dtype == "float32":
        pytest.skip("int8 kernels are compiled with numbers in half precision")
    generator = np.random.default_rng(zlib.crc32(f"{op} {dtype}".encode()))
    for _ in range(20):
        drawn = {axis: int(generator.integers(1, 3000)) for axis in "TBE"}
        sizes = all_sizes(**drawn, N=4, D=int(generator.integers(1, 100)), h=16 * int(generator.integers(1, 20)))
        built = package.build(op, ATTRIBUTES.get(op, {}), tensors(op, dtype), sizes)
        known = expected_sizes(op, sizes)
        outputs = [argument for argument in plugin.arguments if argument.kind == "output"]
        assert built.shapes == [[sizes[axis] for axis in argument.axes] for argument in outputs]
        types = [type_of(op, argument, dtype) for argument in plugin.arguments if argument.kind != "size"]
        assert built.dtypes == types[len(types) - len(outputs) :]
        assert built.types == [types]
        suitable = [
            k for k in manifest.kernels
            if k.op == plugin.kernel.op and k.dtype in {dtype, "int32"}
            and (k.dtype, k.weights, k.activations) == plugin.dtypes(k.dtype)
            and all(sizes[n] % of == 0 for n, of in k.requires.items())
        ]  # fmt: skip
        assert built.tactics == [*range(1, len(suitable) + 1)]
        for tactic, kernel in enumerate(suitable, 1):
            built = package.build(op, ATTRIBUTES.get(op, {}), tensors(op, dtype), sizes, tactic)
            assert built.grid == kernel.extents(known)
            assert built.block == (kernel.threads, 1, 1)
            assert built.shared == kernel.shared_bytes
            assert built.entry == plugin.kernel.entry
            assert built.ptx == f"// {op} {kernel.dtype} {kernel.variant}"
            assert built.extras == [known[a.name] for a in plugin.arguments if a.kind == "size"]


def test_the_comparison_of_grids_can_fail(package, manifest):
    register_plugins(manifest, ARCH)
    sizes = all_sizes(T=65, B=1, E=1, N=4, D=16, h=16)
    built = package.build("ConditionalMLPUp", {}, tensors("ConditionalMLPUp", "float16"), sizes)
    kernel = manifest.kernels[[k.op for k in manifest.kernels].index("ConditionalMLPUp")]
    assert built.grid != kernel.extents({**sizes, "T": 129})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    grid=st.lists(
        st.lists(st.tuples(st.sampled_from("TNDh"), st.integers(1, 300)), max_size=3), min_size=3, max_size=3
    ),
    sizes=st.tuples(*[st.integers(1, 5000)] * 4),
)
def test_any_grid_rule(manifest, grid, sizes):
    rule = tuple(tuple(Factor(size, per) for size, per in factors) for factors in grid)
    image = manifest.kernels[0].ptx
    kernel = make_kernel("ConditionalMLPUp", "float16", "drawn", {}, grid=rule, ptx=image, cubin=image)
    drawn = Manifest(manifest.folder, "3.9.0", "b" * 64, (kernel,))
    named = all_sizes(**dict(zip("TNDh", sizes, strict=True)))
    made = StandInPackage()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(python_plugins, "_REGISTERED", {})
        patch.setitem(sys.modules, "tensorrt", made.core)
        patch.setitem(sys.modules, "tensorrt.plugin", made.package)
        register_plugins(drawn, ARCH, ["ConditionalMLPUp"])
    built = made.build("ConditionalMLPUp", {}, tensors("ConditionalMLPUp", "float16"), named)
    extents = [math.prod(math.ceil(named[size] / per) for size, per in factors) for factors in grid]
    assert list(built.grid) == extents


def test_sizes_that_vary_are_no_known_multiples(package, manifest):
    register_plugins(manifest, ARCH)
    sizes = all_sizes(T=7, B=1, E=48, N=2, D=32, h=32)
    inputs = tensors("ConditionalMLPUp", "float16", dynamic=("T", "B", "D"))
    built = package.build("ConditionalMLPUp", {}, inputs, sizes)
    assert built.tactics == [1]
    assert built.ptx == "// ConditionalMLPUp float16 any"


def test_odd_sizes_take_the_kernel_for_any(package, manifest):
    register_plugins(manifest, ARCH)
    sizes = all_sizes(T=7, B=1, E=48, N=2, D=33, h=32)
    built = package.build("ConditionalMLPUp", {}, tensors("ConditionalMLPUp", "float16"), sizes)
    assert built.ptx == "// ConditionalMLPUp float16 any"


def test_an_engine_must_not_allow_no_tokens(package, manifest):
    register_plugins(manifest, ARCH)
    sizes = all_sizes(T=7, B=1, E=48, N=2, D=32, h=32)
    with pytest.raises(
        KernelError, match=r"x may be of shape \[0, 32\].*raise the minimum of the optimisation profile"
    ):
        package.build("ConditionalMLPUp", {}, tensors("ConditionalMLPUp", "float16"), sizes, smallest=0)


def test_limits_reach_the_kernel(package, manifest):
    register_plugins(manifest, ARCH)
    sizes = all_sizes(T=7, B=3, E=1, N=1, D=32, h=1)
    for limits, number in (("any", 1), ("none", 0)):
        built = package.build("SelectTokens", {"limits": limits}, tensors("SelectTokens", "float32"), sizes)
        assert built.extras == [3, 7, 32, number]


@pytest.mark.usefixtures("package")
def test_registering_again_does_nothing(manifest):
    register_plugins(manifest, ARCH)
    register_plugins(manifest, ARCH, ["ConditionalMLPUp"])
    other = Manifest(manifest.folder, "3.9.0", "c" * 64, manifest.kernels)
    with pytest.raises(KernelError, match="build in another process"):
        register_plugins(other, ARCH)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"ops": ["GatherAttention"]}, "got op 'GatherAttention', expected some of"),
        ({"arch": 110}, 'no kernel of ConditionalMLPOrder for 110 in .*; make kernels ARCH="110"'),
    ],
)
@pytest.mark.usefixtures("package")
def test_what_there_is_not(manifest, change, match):
    with pytest.raises(KernelError, match=match):
        register_plugins(**{"manifest": manifest, "arch": ARCH, **change})


def test_a_dtype_without_kernels(package, manifest):
    half = tuple(kernel for kernel in manifest.kernels if kernel.dtype in {"float16", "int32"})
    register_plugins(Manifest(manifest.folder, "3.9.0", "d" * 64, half), ARCH)
    sizes = all_sizes(T=7, B=1, E=48, N=2, D=32, h=32)
    with pytest.raises(KernelError, match="no kernel of ConditionalMLPUp for 87 in float32"):
        package.build("ConditionalMLPUp", {}, tensors("ConditionalMLPUp", "float32"), sizes)


@pytest.mark.usefixtures("package")
def test_an_op_newer_than_the_plugin(manifest):
    newer = make_kernel("ConditionalMLPUp", "float16", "new", {}, version=2)
    with pytest.raises(KernelError, match="got version 2 of ConditionalMLPUp, expected 1; update adaptrt"):
        register_plugins(Manifest(manifest.folder, "3.9.0", "e" * 64, (newer,)), ARCH, ["ConditionalMLPUp"])


@pytest.mark.usefixtures("package")
def test_forms_without_kernels_are_refused_when_they_are_asked_for(manifest):
    real = tuple(kernel for kernel in manifest.kernels if kernel.weights == kernel.dtype)
    without = Manifest(manifest.folder, "3.9.0", "f" * 64, real)
    register_plugins(without, ARCH, ["ConditionalMLPUp"])
    with pytest.raises(KernelError, match="got no kernel of ConditionalMLPUpW8A8 for 87 in .*; make kernels"):
        register_plugins(without, ARCH, ["ConditionalMLPUpW8A8"])


def test_weights_of_another_form_are_no_kernel_of_the_plugin(package, manifest):
    """The same op and sizes: what its name says decides, not which kernels there are."""
    register_plugins(manifest, ARCH)
    sizes = all_sizes(T=7, B=1, E=48, N=2, D=32, h=32)
    for op in ("ConditionalMLPUp", "ConditionalMLPUpW8A16", "ConditionalMLPUpW8A8"):
        assert package.build(op, {}, tensors(op, "float16"), sizes).ptx == f"// {op} float16 large"


def test_an_altered_kernel(package, manifest):
    register_plugins(manifest, ARCH)
    for kernel in manifest.kernels:
        (manifest.folder / kernel.ptx.file).write_bytes(b"other")
    sizes = all_sizes(T=7, B=1, E=48, N=2, D=32, h=32)
    with pytest.raises(KernelError):
        package.build("ConditionalMLPUp", {}, tensors("ConditionalMLPUp", "float16"), sizes)


def test_without_tensorrt(manifest, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(KernelError, match=r"tensorrt\.plugin cannot be imported .*expected TensorRT 10\.9 or later"):
        register_plugins(manifest, ARCH)


def test_an_older_tensorrt(manifest, monkeypatch):
    made = StandInPackage()
    del made.package.aot_impl
    made.core.__version__ = "10.7.0"
    monkeypatch.setitem(sys.modules, "tensorrt", made.core)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", made.package)
    with pytest.raises(KernelError, match=r"got TensorRT 10\.7\.0, expected 10\.9 or later"):
        register_plugins(manifest, ARCH)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Kernels as ``make kernels`` makes them, of two parts in one dtype and its int8 forms."""
    pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")
    from adaptrt.plugins_trt.compile import compile_kernels

    return compile_kernels(tmp_path_factory.mktemp("kernels"), [ARCH], ["float16"], PARTS[:2])


@pytest.mark.parametrize("op", PARTS)
def test_compiled_kernels_take_what_tensorrt_passes(package, compiled, op):
    """TensorRT passes pointers of inputs, int32 extras, pointers of outputs, and nothing behind them."""
    register_plugins(compiled, ARCH, PARTS)
    sizes = all_sizes(T=197, B=1, E=192, N=4, D=192, h=96)
    inputs = tensors(op, "float16")
    for tactic in package.build(op, ATTRIBUTES.get(op, {}), inputs, sizes).tactics:
        built = package.build(op, ATTRIBUTES.get(op, {}), inputs, sizes, tactic)
        entry = re.search(rf"\.visible \.entry {built.entry}\((.*?)\)", built.ptx, re.DOTALL)
        assert entry is not None
        taken = re.findall(r"\.param \.(u64|u32|b64|b32)", entry[1])
        passed = ["64"] * len(inputs) + ["32"] * len(built.extras) + ["64"] * len(built.shapes)
        assert [kind[1:] for kind in taken] == passed
        threads = re.search(r"\.reqntid (\d+)", built.ptx)
        assert threads is None or int(threads[1]) == built.block[0]
        assert built.shared <= 48 * 1024  # more would have to be asked for
