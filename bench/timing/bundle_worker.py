"""The child of ``BundleProcess``: a whole bundle on the runtime, answering the lines of ``session_worker``.

``python -m adaptrt.bench.timing.bundle_worker FOLDER --threads N --backend NAME``. A feed names an array for the
bundle's inputs and for those knobs that do not stand at their defaults, ``exit_thresholds`` among them. Outputs
are the bundle's and ``exit``, the stage at whose head each sample left. With ``--dense`` it is the bundle's
dense model that runs, on the same engine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from adaptrt.bench.timing.engine_choice import EngineChoice
from adaptrt.bench.timing.session_worker import Array, Runner, serve_process
from adaptrt.runtime import AdaptiveModel, Budget, load
from adaptrt.runtime.backends import Backend, BackendSettings, StageProgram
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.bundle_file import CurvePoint, KnobValue, read_bundle
from adaptrt.runtime.bundle.schema import MACS_OUTPUT
from adaptrt.runtime.table import imported

EXIT_OUTPUT = "exit"
_USUAL = EngineChoice()


class BundleRunner:
    """One bundle, as an application runs it.

    A model whose only calibrated point has the knobs that are fed stands for each setting of them: its
    calls cost what a user's do, whose budget was set once, and not what solving for it does.

    Args:
        folder: The bundle.
        threads: Threads that one operator may use.
        choice: The engine.
    """

    def __init__(self, folder: Path, threads: int, choice: EngineChoice = _USUAL) -> None:
        self._model = load(
            folder,
            threads=threads,
            backend=choice.backend,
            precision=choice.precision,
            plugin_library=choice.plugin_library,
        )
        self._knobs = {knob.name for knob in self._model.bundle.knobs}
        self._pinned: dict[str, AdaptiveModel] = {}

    def describe(self) -> dict[str, Any]:
        """Names of the bundle's inputs and knobs, and of its outputs; the engine."""
        bundle = self._model.bundle
        return {
            "inputs": [spec.name for spec in bundle.inputs] + [knob.name for knob in bundle.knobs],
            "outputs": [*(spec.name for spec in bundle.outputs), *([EXIT_OUTPUT] * (len(bundle.stages) > 1))],
            "backend": self._model.backend_name,
            "engine": self._model.backend.engine_version,
        }

    def prepare(self, feed: Mapping[str, Array]) -> Callable[[], object]:
        """A call of the model."""
        model, inputs = self._split(feed)
        return partial(model.run, inputs)

    def output(self, name: str, feed: Mapping[str, Array]) -> Array:
        """Run once and give one output.

        Raises:
            ValueError: There is none of that name.
        """
        model, inputs = self._split(feed)
        result = model.run(inputs)
        found: dict[str, Any] = {**result.outputs, MACS_OUTPUT: result.macs_fraction, EXIT_OUTPUT: result.exit}
        if found.get(name) is None:
            raise ValueError(f"got output {name!r}, expected one of {', '.join(self.describe()['outputs'])}")
        return np.asarray(found[name])

    def _split(self, feed: Mapping[str, Array]) -> tuple[AdaptiveModel, dict[str, Array]]:
        knobs: dict[str, KnobValue] = {n: [float(v) for v in a.ravel()] for n, a in feed.items() if n in self._knobs}
        key = repr(sorted(knobs.items()))
        if key not in self._pinned:
            only = CurvePoint(knobs=knobs, macs_fraction=0.0, quality=None, frontier=False)
            bundle = msgspec.structs.replace(self._model.bundle, curve=[only])
            pinned = AdaptiveModel(bundle, self._model.backends)
            pinned.budget = Budget.fraction(0.0)
            self._pinned[key] = pinned
        return self._pinned[key], {name: array for name, array in feed.items() if name not in self._knobs}


class DenseRunner:
    """The dense model of a bundle on an engine that reads its file as it is.

    Args:
        folder: The bundle.
        threads: Threads that one operator may use.
        choice: The engine, whose record names what runs a dense model.
        file: Another graph of it; None: the bundle's.

    Raises:
        BundleError: The bundle is damaged.
        BackendError: The engine refuses it.
    """

    def __init__(self, folder: Path, threads: int, choice: EngineChoice, file: Path | None = None) -> None:
        bundle = read_bundle(folder)
        beside = file is not None or bool(bundle.dense.external_data)
        if file is None:
            assert bundle.dense.file is not None
            file = folder / bundle.dense.file
        program = StageProgram(
            model=file.read_bytes(),
            file=file,
            data_folder=file.parent if beside else None,
            outputs=tuple(spec.name for spec in bundle.outputs if spec.name != MACS_OUTPUT),
        )
        self._name = choice.backend
        engine = imported(BACKENDS[choice.backend].dense)
        self._backend: Backend = engine(program, BackendSettings(threads=threads, precision=choice.precision))

    def describe(self) -> dict[str, Any]:
        """Names of inputs and outputs; the engine."""
        backend = self._backend
        return {
            "inputs": list(backend.inputs),
            "outputs": list(backend.outputs),
            "backend": self._name,
            "engine": backend.engine_version,
        }

    def prepare(self, feed: Mapping[str, Array]) -> Callable[[], object]:
        """A run of the graph."""
        return partial(self._backend.run, dict(feed))

    def output(self, name: str, feed: Mapping[str, Array]) -> Array:
        """Run once and give one output."""
        return self._backend.run(dict(feed))[name]


def _runner(chosen: argparse.Namespace) -> Runner:
    choice = EngineChoice(chosen.backend, chosen.precision, chosen.plugin_library)
    if chosen.dense or chosen.dense_file:
        return DenseRunner(chosen.folder, chosen.threads, choice, chosen.dense_file)
    return BundleRunner(chosen.folder, chosen.threads, choice)


def main() -> None:
    """Run one bundle."""
    parser = argparse.ArgumentParser(description="One bundle answering JSON lines.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default=DEFAULT_BACKEND)
    parser.add_argument("--precision")
    parser.add_argument("--plugin-library", type=Path)
    parser.add_argument("--dense", action="store_true", help="run the bundle's dense model")
    parser.add_argument("--dense-file", type=Path, help="run this form of it")
    serve_process(_runner, parser)


if __name__ == "__main__":
    main()
