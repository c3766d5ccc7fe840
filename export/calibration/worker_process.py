"""What runs the batches of a calibration: a bundle on one thread, in this process or in one started for it.

Such a process imports neither torch nor onnx, and lives until who started it ends it or is gone. One thread, whatever
the machine has: how an operator is divided among threads may change the last bit of its result.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime

from adaptrt import AdaptrtError
from adaptrt.runtime.backends import Backend, BackendSettings
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND, BackendRecord
from adaptrt.runtime.backends.selection import open_unsplit
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.loading import open_bundle

Array = npt.NDArray[Any]

WORK = "from adaptrt.export.calibration.worker_process import work; work()"
"""What such an interpreter executes; behind it stands the number of its end of the pipe."""


@dataclass(frozen=True)
class Call:
    """One batch to run.

    Attributes:
        method: Of ``StagedModel``.
        inputs: Its first argument.
        options: Its arguments by name.
    """

    method: str
    inputs: Mapping[str, Array]
    options: Mapping[str, Any] = field(default_factory=dict)

    def on(self, model: Any) -> Any:
        """What a model gives for it."""
        return getattr(model, self.method)(self.inputs, **self.options)


@dataclass(frozen=True)
class Failed:
    """What came instead of an answer.

    Attributes:
        error: One of ours, or the trace of another one.
    """

    error: AdaptrtError | str


class EngineOptions(NamedTuple):
    """What runs a bundle while it is calibrated; see ``adaptrt.runtime.load``.

    Attributes:
        backend: Its name.
        precision: To compute in; None: what the backend usually does.
    """

    backend: str = DEFAULT_BACKEND
    precision: str | None = None

    @property
    def record(self) -> BackendRecord:
        """Of the backend."""
        return BACKENDS[self.backend]

    @property
    def computes_in(self) -> str:
        """The precision by its name."""
        return self.precision or self.record.precisions[0]


PORTABLE = EngineOptions()
"""The portable files as they are."""


class SingleThreaded:
    """A bundle's stages, and the dense model beside them once it is asked for, on one thread each.

    Args:
        folder: The bundle's files.
        bundle: What they are; a ``bundle.json`` need not be among them.
        engine: What runs the stages.

    Raises:
        BundleError: A file is missing, damaged or another one.
        BackendError: ONNX Runtime refuses the graphs.
    """

    def __init__(self, folder: Path, bundle: Bundle, engine: EngineOptions = PORTABLE) -> None:
        self.bundle, self._folder, self._engine = bundle, folder, engine
        # The one graph for where everything runs would be loaded for nothing, and a curve is what is to be found.
        dense = msgspec.structs.replace(bundle.dense, unsplit=False, answers_full=False)
        stages = msgspec.structs.replace(bundle, curve=[], budget_table=None, dense=dense)
        self._model = open_bundle(folder, stages, threads=1, **engine._asdict())

    def run(self, inputs: Mapping[str, Array], *, knobs: Any = None, decisions: bool = False) -> Any:
        """Run a batch; see ``AdaptiveModel.run``."""
        return self._model.run(inputs, knobs=knobs, decisions=decisions)

    def run_stages(self, inputs: Mapping[str, Array], *, knobs: Any = None) -> list[dict[str, Array]]:
        """Run every stage on all samples; see ``AdaptiveModel.run_stages``."""
        return self._model.run_stages(inputs, knobs=knobs)

    def run_dense(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of the dense model that the bundle carries, by name, on the engine that runs it there."""
        if self._engine != PORTABLE:
            return self._unsplit.run({name: inputs[name] for name in self._unsplit.inputs})
        names = [output.name for output in self._dense.get_outputs()]
        return dict(zip(names, map(np.asarray, self._dense.run(names, dict(inputs))), strict=True))

    @cached_property
    def _dense(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        file = self._folder / str(self.bundle.dense.file)
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    @cached_property
    def _unsplit(self) -> Backend:
        engine = self._engine
        settings = BackendSettings(threads=1, precision=engine.precision)
        backend = open_unsplit(engine.record, self._folder, self.bundle, settings, engine.computes_in)
        assert backend is not None  # nobody asks for it else
        return backend


def work() -> None:
    """A process's life: it gets a folder and what is in it, then numbered calls, and sends each number's answer."""
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, ConnectionError):  # who started it is gone
        folder, bundle, engine = pickle.loads(connection.recv_bytes())
        model = _answer(lambda: SingleThreaded(folder, bundle, engine))
        while True:
            number, call = pickle.loads(connection.recv_bytes())
            answer = model if isinstance(model, Failed) else _answer(partial(call.on, model))
            connection.send((number, answer))


def _answer(give: Callable[[], Any]) -> Any:
    """What a function gives, or how it failed."""
    try:
        return give()
    except AdaptrtError as error:
        return Failed(error)
    except Exception:
        return Failed(traceback.format_exc())
