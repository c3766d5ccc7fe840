"""The backends: one row each, from which lists, messages, choices, their order and documents are derived.

To add one write a file with a loader (``BackendRecord.loader``) and add a row. Nothing here imports an engine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from adaptrt.runtime.table import Table, imported

if TYPE_CHECKING:
    from typing import Protocol

    from adaptrt.runtime.backends import Backend, BackendSettings
    from adaptrt.runtime.bundle.schema import Bundle

    class Loader(Protocol):
        """Hands the stages of a bundle to an engine."""

        def __call__(
            self, record: BackendRecord, root: Path, bundle: Bundle, settings: BackendSettings
        ) -> tuple[str, list[Backend]]:
            """The precision that is computed in, and an engine for each stage.

            Args:
                record: the backend's row.
                root: the bundle's folder.
                bundle: its content, already checked.
                settings: how to run.

            Raises:
                BundleError: files are missing or damaged, or are not what ``bundle.json`` says.
                BackendError: a package is missing, or the engine refuses the graph or the settings.
            """


AUTO = "auto"
"""What stands for the first backend that can run a bundle here."""


class BackendRecord(NamedTuple):
    """One backend.

    Attributes:
        name: as ``load`` and ``--backend`` take it.
        title: the engine's name in sentences.
        loader: a ``Loader``, as ``module:function``; imported when a bundle is loaded.
        modules: names that the engine's Python module goes by, the first that is there is taken.
        extras: of adaptrt, each of which installs the engine; empty where it comes from elsewhere.
        target: what it runs of a bundle, a name of ``TARGETS``; empty for the portable files.
        prepared: what it runs instead of the portable files in a precision that these do not have, likewise.
        precisions: that ``precision`` may name; of engines in a bundle the first that was built is taken.
        usual: what it computes in unless told otherwise, for the documentation.
        place: in the order in which ``auto`` tries, the lowest first.
        prepared_place: likewise, of what was prepared; 0: ``auto`` leaves that out.
        because: why ``auto`` takes it.
        on_host: whether it computes in the host's memory alone, so that a forked child may load it anew.
        providers: whether it takes ``providers``.
        dense: what runs the bundle's dense model beside it in benchmarks, a class as ``module:name`` that takes a
            ``StageProgram`` and ``BackendSettings``; empty where it has no engine of that.
        on_machine: what it needs there, for the documentation.
        proved: how far it was proved, likewise.
    """

    name: str
    title: str
    loader: str
    modules: tuple[str, ...]
    extras: tuple[str, ...]
    target: str
    precisions: tuple[str, ...]
    usual: str
    place: int
    because: str
    on_host: bool
    on_machine: str
    proved: str
    providers: bool = False
    dense: str = ""
    prepared: str = ""
    prepared_place: int = 0

    def built_for(self, precision: str) -> str:
        """The target whose build it runs in a precision; empty where that is the portable files."""
        return self.target or self.prepared_for(precision)

    def prepared_for(self, precision: str) -> str:
        """The target whose prepared graphs it runs in a precision; empty where it takes the portable files itself."""
        return self.prepared if precision != self.precisions[0] else ""

    @property
    def install(self) -> str:
        """What to do where it is missing."""
        return f"install {' or '.join(f'adaptrt[{extra}]' for extra in self.extras) or 'it'}"

    @property
    def installed(self) -> bool:
        """Whether the engine's module is there; nothing is imported."""
        return any(importlib.util.find_spec(module) is not None for module in self.modules)

    def installed_version(self) -> str | None:
        """Of the engine's package, without importing it; None where it is not installed."""
        from importlib.metadata import packages_distributions, version  # takes milliseconds

        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                continue
            packages = packages_distributions().get(module)
            return version(packages[0]) if packages else "of unknown version"
        return None

    def load(self, root: Path, bundle: Bundle, settings: BackendSettings) -> tuple[str, list[Backend]]:
        """As ``Loader``, which is imported now."""
        return cast("Loader", imported(self.loader))(self, root, bundle, settings)


_HERE = "adaptrt.runtime.backends"

BACKENDS = Table(
    "backend",
    (
        BackendRecord(
            name="onnxruntime",
            title="ONNX Runtime",
            loader=f"{_HERE}.onnxruntime:load_stages",
            modules=("onnxruntime",),
            extras=("cpu", "gpu"),
            target="",
            precisions=("fp32", "int8"),
            usual="what the file says, float32",
            place=100,
            because="it runs every bundle",
            on_host=True,
            providers=True,
            dense=f"{_HERE}.onnxruntime:OnnxRuntimeBackend",
            prepared="onnxruntime",
            prepared_place=25,
            on_machine="`adaptrt[cpu]` or `adaptrt[gpu]`",
            proved="run in tests, on the CPU",
        ),
        BackendRecord(
            name="openvino",
            title="OpenVINO",
            loader=f"{_HERE}.openvino:load_stages",
            modules=("openvino",),
            extras=("openvino",),
            target="openvino",
            precisions=("fp32", "bf16", "fp16", "int8"),
            usual="float32",
            place=30,
            because="the bundle is prepared for OpenVINO, which is installed",
            on_host=True,
            dense=f"{_HERE}.openvino:OpenVinoBackend",
            on_machine="`adaptrt[openvino]`",
            proved="run in tests, on the CPU, beside ONNX Runtime at five prices",
        ),
        BackendRecord(
            name="tensorrt",
            title="TensorRT",
            loader=f"{_HERE}.tensorrt:load_stages",
            modules=("tensorrt", "tensorrt_bindings"),
            extras=(),
            target="tensorrt",
            precisions=("fp16", "fp32", "int8", "fp8"),
            usual="`fp16` if that was built, else `fp32`",
            place=10,
            because="the bundle has an engine for this TensorRT and this GPU",
            on_host=False,
            on_machine="TensorRT 10 or 11, `cuda-bindings`, a GPU",
            proved="**has not run on a GPU**; against a stand-in, see below",
        ),
        BackendRecord(
            name="tensorrt-rtx",
            title="TensorRT-RTX",
            loader=f"{_HERE}.tensorrt:load_rtx_stages",
            modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
            extras=("tensorrt-rtx",),
            target="tensorrt-rtx",
            precisions=("fp16", "fp32", "int8", "fp8"),
            usual="`fp16` if that was built, else `fp32`",
            place=20,
            because="the bundle has an engine for this TensorRT-RTX and this GPU",
            on_host=False,
            on_machine="`adaptrt[tensorrt-rtx]`, an RTX GPU",
            proved="engines built in tests; **not run on a GPU**; against the same stand-in",
        ),
    ),
)


DEFAULT_BACKEND = next(record.name for record in BACKENDS.values() if not record.target)
"""What runs a bundle unless another is asked for: it takes the portable files."""


class Attempt(NamedTuple):
    """What ``auto`` tries.

    Attributes:
        place: in the order, the lowest first.
        record: the backend.
        precision: of what was prepared; None: what the backend usually runs.
    """

    place: int
    record: BackendRecord
    precision: str | None

    @property
    def name(self) -> str:
        """Of the backend, with the precision where it is not the usual one."""
        return self.record.name if self.precision is None else f"{self.record.name} in {self.precision}"

    @property
    def because(self) -> str:
        """Why it is taken."""
        return self.record.because if self.precision is None else f"the bundle has graphs in {self.precision}"


def in_order() -> Sequence[BackendRecord]:
    """The backends as ``auto`` tries them."""
    return sorted(BACKENDS.values(), key=lambda record: record.place)


def attempts() -> Sequence[Attempt]:
    """What ``auto`` tries, in order: every backend, and what was prepared for one in the precisions it adds."""
    usual = [Attempt(record.place, record, None) for record in BACKENDS.values()]
    prepared = [
        Attempt(record.prepared_place, record, precision)
        for record in BACKENDS.values()
        if record.prepared_place
        for precision in record.precisions[1:]
    ]
    return sorted([*usual, *prepared], key=lambda attempt: attempt.place)


def provider_backend() -> BackendRecord:
    """The backend whose execution providers ``providers`` are."""
    return next(record for record in in_order() if record.providers)
