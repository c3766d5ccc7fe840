"""The targets of ``adaptrt build`` and their precisions: a row each, read by runtime, export and command line.

To add one add a row; ``builder`` says where the code is that builds for it, which only ``adaptrt build`` imports.
``TARGETS`` are engines, which are kept in the bundle; ``REPOSITORIES`` what other servers read, which holds the bundle.
"""

from __future__ import annotations

from typing import NamedTuple

from adaptrt.runtime.table import Table


class PrecisionRecord(NamedTuple):
    """What a target can compute in.

    Attributes:
        name: as ``--precision`` takes it.
        quantized: whether large products are of bytes, by scales that were measured.
        architectures_from: compute capability from which on GPUs compute in it; 0: all do.
    """

    name: str
    quantized: bool = False
    architectures_from: int = 0


PRECISIONS = Table(
    "precision",
    (
        PrecisionRecord("fp32"),
        PrecisionRecord("fp16"),
        PrecisionRecord("int8", quantized=True),
        PrecisionRecord("fp8", quantized=True, architectures_from=89),
    ),
)


class TargetRecord(NamedTuple):
    """What a bundle can be built for.

    Attributes:
        name: as ``--target`` takes it and the folder in the bundle is called.
        backend: the runtime's backend that runs it, a name of ``BACKENDS``.
        builder: a ``TargetBuilder``, as ``module:class``; imported when something is built.
        precisions: of ``PRECISIONS``, that it can be built in, the portable file's first.
        plugins: where adaptrt's ops may come from.
        modules: of the builder's library, the first that is there is taken and the last is that of the extra.
        extra: of adaptrt that installs the library.
        required: whether nothing is built without the library.
        gpu: whether it runs on a GPU: knobs then become inputs on the device.
        sized: whether it is built for ranges of sizes, so that other ranges are another engine.
        made: what a build leaves in the bundle, where and with what, for help and documentation.
        needs: what building needs, for the documentation.
        examples: options of ``adaptrt build BUNDLE``.
        pairs: whether bytes are told to its engine by QuantizeLinear and DequantizeLinear around products.
    """

    name: str
    backend: str
    builder: str
    precisions: tuple[str, ...]
    plugins: tuple[str, ...]
    modules: tuple[str, ...]
    extra: str
    required: bool
    gpu: bool
    sized: bool
    made: str
    needs: str
    examples: tuple[str, ...]
    pairs: bool = False


_EXPORT = "adaptrt.export.targets"

TARGETS = Table(
    "target",
    (
        TargetRecord(
            name="openvino",
            backend="openvino",
            builder=f"{_EXPORT}.openvino_builder:OpenVinoBuilder",
            precisions=("fp32", "fp16", "int8"),
            plugins=("none",),
            modules=("openvino",),
            extra="openvino",
            required=False,
            gpu=False,
            sized=False,
            made="prepared graphs, which it compiles when it loads them",
            needs="any machine; with `adaptrt[openvino]` the graphs are compared with ONNX Runtime",
            examples=("",),
            pairs=True,
        ),
        TargetRecord(
            name="tensorrt",
            backend="tensorrt",
            builder=f"{_EXPORT}.nvidia_builder:TensorRTBuilder",
            precisions=("fp32", "fp16", "int8", "fp8"),
            plugins=("none", "library", "python"),
            modules=("tensorrt",),
            extra="tensorrt",
            required=False,
            gpu=True,
            sized=True,
            made="engines where TensorRT is installed, elsewhere the prepared graphs and the trtexec commands",
            needs="the device itself, with TensorRT 10 or 11",
            examples=(
                "--precision fp16",
                "--plugins library --plugin-library libadaptrt_trt.so --engine-version 10.3",
            ),
            pairs=True,
        ),
        TargetRecord(
            name="tensorrt-rtx",
            backend="tensorrt-rtx",
            builder=f"{_EXPORT}.nvidia_builder:TensorRTRTXBuilder",
            precisions=("fp32", "fp16", "int8", "fp8"),
            plugins=("none",),
            modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
            extra="tensorrt-rtx",
            required=True,
            gpu=True,
            sized=True,
            made="engines, here, no GPU needed",
            needs="any x86-64 Linux machine, with `adaptrt[tensorrt-rtx]`",
            examples=("--arch 89 --precision fp8", "--arch 86 --arch 89 --arch 120 --batch 1:8:64"),
            pairs=True,
        ),
        TargetRecord(
            name="onnxruntime",
            backend="onnxruntime",
            builder=f"{_EXPORT}.target_builder:TargetBuilder",
            precisions=("int8",),
            plugins=("none",),
            modules=("onnxruntime",),
            extra="cpu",
            required=False,
            gpu=False,
            sized=False,
            made="graphs in int8, for CPUs",
            needs="any machine",
            examples=("--precision int8", "--precision int8 --weight-bits 8"),
        ),
    ),
)


class RepositoryRecord(NamedTuple):
    """A form in which another server reads models, each in a folder of its own.

    Attributes:
        name: as ``--target`` takes it.
        builder: a ``RepositoryBuilder``, as ``module:class``; imported when something is built.
        precisions: that the model can run in, the portable file's first.
        suffix: what follows the bundle's name in the model's.
        made: what a build writes, for help and documentation.
        needs: what the server needs, for the documentation.
        proved: how far it was proved, likewise.
        examples: options of ``adaptrt build BUNDLE``.
    """

    name: str
    builder: str
    precisions: tuple[str, ...]
    suffix: str
    made: str
    needs: str
    proved: str
    examples: tuple[str, ...]


REPOSITORIES = Table(
    "target",
    (
        RepositoryRecord(
            name="triton",
            builder=f"{_EXPORT}.triton_repository:PythonModel",
            precisions=("fp32", "int8"),
            suffix="",
            made="a model for Triton's Python backend, with the bundle in it: a budget for every request",
            needs="Triton's Python backend; `adaptrt[cpu]` in its Python",
            proved="run in `make triton-test`",
            examples=("--output build/models", "--precision int8 --batch 1:8:32"),
        ),
        RepositoryRecord(
            name="triton-onnxruntime",
            builder=f"{_EXPORT}.triton_repository:OnnxModel",
            precisions=("fp32",),
            suffix="_onnxruntime",
            made="a model for Triton's ONNX Runtime backend, of bundles with one stage: knobs as optional inputs",
            needs="Triton's ONNX Runtime backend; nothing of adaptrt",
            proved="**has not run in Triton**; its files are checked in tests, the graph on ONNX Runtime",
            examples=("",),
        ),
    ),
)


def all_targets() -> tuple[str, ...]:
    """What ``--target`` takes."""
    return (*TARGETS, *REPOSITORIES)


def all_precisions() -> tuple[str, ...]:
    """Those of any target."""
    return tuple(dict.fromkeys(name for target in TARGETS.values() for name in target.precisions))


def all_plugins() -> tuple[str, ...]:
    """Where ops may come from in any target."""
    return tuple(dict.fromkeys(name for target in TARGETS.values() for name in target.plugins))
