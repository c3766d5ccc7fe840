"""What executes a stage. One file per backend; each imports its engine only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adaptrt.runtime.bundle_schema import TensorSpec
from adaptrt.runtime.errors import BackendError

Array = np.ndarray[Any, Any]
Provider = str | tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class StageProgram:
    """A verified stage, ready to be handed to an engine.

    Attributes:
        model: the bytes of its ONNX file.
        file: where they come from, for messages.
        data_folder: the folder that its listed external data lies in; None if all is in ``model``.
        outputs: names of the outputs wanted, in this order.
    """

    model: bytes = field(repr=False)
    file: Path
    data_folder: Path | None
    outputs: tuple[str, ...]


class Backend(Protocol):
    """An engine holding one stage. ``run`` may be called from any number of threads at once."""

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


def _onnxruntime(program: StageProgram, threads: int | None, providers: Sequence[Provider] | None) -> Backend:
    from adaptrt.runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(program, threads=threads, providers=providers)


_BACKENDS: dict[str, Callable[[StageProgram, int | None, Sequence[Provider] | None], Backend]] = {
    "onnxruntime": _onnxruntime,
}


def check_backend(name: str) -> None:
    """Refuse the name of a backend that does not exist.

    Raises:
        BackendError: lists those that do.
    """
    if name not in _BACKENDS:
        raise BackendError(f"got backend {name!r}, expected one of {', '.join(map(repr, _BACKENDS))}; name one")


def create_backend(
    name: str, program: StageProgram, *, threads: int | None, providers: Sequence[Provider] | None
) -> Backend:
    """Hand a stage to the backend of that name.

    Args:
        name: ``"onnxruntime"``.
        program: what to run.
        threads: that one operator may use; None leaves it to the engine.
        providers: the engine's execution providers in order of preference; None is the CPU.

    Raises:
        BackendError: no such backend, its package is missing, or it refuses the graph or the settings.
    """
    check_backend(name)
    return _BACKENDS[name](program, threads, providers)
