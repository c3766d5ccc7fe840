"""What executes a stage. One file per backend; each imports its engine only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from adaptrt.runtime.bundle.schema import TensorSpec
from adaptrt.runtime.device.processors import check_startable
from adaptrt.runtime.errors import BackendError

Array = np.ndarray[Any, Any]
Provider = str | tuple[str, Mapping[str, Any]]
Value = Any
"""A tensor where the engine keeps it: an array, or a buffer on a device that only its backend can read."""


@dataclass(frozen=True)
class BackendSettings:
    """How the engine is to run, apart from what it runs.

    Attributes:
        threads: that one operator may use; None leaves it to the engine, which goes by the host's processors. A GPU
            has no use for it.
        providers: ONNX Runtime's execution providers in order of preference; None is the CPU.
        precision: to compute in: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or ``"fp8"``; None is the backend's
            usual one.
        plugin_library: shared library with adaptrt's TensorRT plugins, for engines that need it. A bundle
            cannot name one: it would be code from whoever made the bundle.
    """

    threads: int | None = None
    providers: Sequence[Provider] | None = None
    precision: str | None = None
    plugin_library: Path | None = None


@dataclass(frozen=True)
class StageProgram:
    """A verified stage, ready to be handed to an engine.

    Attributes:
        model: the bytes of its ONNX file, or of its engine.
        file: where they come from, for messages.
        data_folder: the folder that its listed external data lies in; None if all is in ``model``.
        outputs: names of the outputs wanted of ``run``, in this order.
        alone: whether no other stage's engine runs in turn with this one in the process.
    """

    model: bytes = field(repr=False)
    file: Path
    data_folder: Path | None
    outputs: tuple[str, ...]
    alone: bool = True


class Bound(NamedTuple):
    """A stage tied to the arrays that it reads and writes.

    Attributes:
        run: executes it, and raises what the engine raises: nothing stands between the two.
        failed: what to raise instead.
        current: whether the engine is still the one that was bound; made anew after a failure, it is another.
    """

    run: Callable[[], object]
    failed: Callable[[Exception], BackendError]
    current: Callable[[], bool] = lambda: True


class Backend(Protocol):
    """An engine holding one stage. Any number of threads may use it at once.

    A model of one stage goes in and out as arrays, by ``run``. Between the stages of one model tensors
    stay where the engine keeps them: ``run_values`` takes and gives those, and every backend of one kind
    takes the values of another. On a device, ``to_array`` is what copies to the host.
    """

    @property
    def engine_version(self) -> str:
        """What executes it, with its version and settings that change its speed: what a profile holds for."""

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """The graph's inputs as the engine sees them, knobs included."""

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        """All of the graph's outputs as the engine sees them."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Execute on checked inputs; the wanted outputs by name.

        Raises:
            BackendError: the engine failed.
        """

    def run_values(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Sequence[Value]:
        """Execute on the engine's own tensors; those of the graph's outputs that are named, in that order.

        Raises:
            BackendError: the engine failed.
        """

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Bound | None:
        """Execution on these very arrays, contiguous and of the exact sizes, as often as wanted.

        None where the engine does not work on the host's memory.

        Args:
            inputs: for every input of the graph where to read it.
            outputs: for those outputs that are wanted, where to write them.
        """

    def recover(self) -> None:
        """Forget what a call that failed, or answered wrongly, may have left behind: the next one starts afresh.

        Called by the backend itself where an engine raises, and by others where what it gave is not as declared.
        """

    def to_value(self, array: Array) -> Value:
        """An array as the engine takes it. It is read while the value is in use, and never changed."""

    def to_array(self, value: Value) -> Array:
        """A value's content, without a copy where the host can read it."""


def check_threads(threads: int) -> int:
    """A number of threads as a plain number, which the system lets this process start.

    Raises:
        BackendError: it is none, or too many.
    """
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 1 <= threads <= 1024:
        raise BackendError(f"got threads={threads!r}, expected 1 to 1024, or None for one per core granted")
    check_startable(int(threads))
    return int(threads)
