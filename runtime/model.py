"""Loading a bundle, and running it under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from adaptrt.runtime import bundle_files
from adaptrt.runtime.backends import Backend, Provider, StageProgram, check_backend, create_backend
from adaptrt.runtime.budget import Budget
from adaptrt.runtime.bundle import Bundle, TensorSpec, read_bundle
from adaptrt.runtime.bundle_schema import MACS_OUTPUT
from adaptrt.runtime.errors import BundleError
from adaptrt.runtime.inputs import InputContract
from adaptrt.runtime.operating_point import OperatingPoint
from adaptrt.runtime.plan import Planner

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Result:
    """What one call returned and cost.

    Attributes:
        outputs: every output of the bundle by name, except ``macs_fraction``.
        macs_fraction: float32 [B], the share of the dense model's multiply-accumulates that each
            sample used.
        latency_ms: wall-clock time of executing the graph, in milliseconds.
        budget: that this call was to obey; None where ``knobs`` were passed.
        knobs: values fed.
        reachable: False where the budget is below the cheapest calibrated point, which then ran.
        message: says so in words; None if there is nothing to say.
    """

    outputs: dict[str, Array]
    macs_fraction: Array
    latency_ms: float
    budget: Budget | None
    knobs: dict[str, float]
    reachable: bool
    message: str | None


class AdaptiveModel:
    """A loaded bundle. Any number of threads may use one; make it with ``load``.

    A call sees one budget from beginning to end: its own, or the one that ``budget`` held when it began.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self._bundle = bundle
        self._backend = backend
        self._contract = InputContract(bundle.inputs)
        self._planner = Planner(bundle)
        self._plan = self._planner.for_budget(Budget.full())  # replaced whole, never changed
        axis = next(spec.shape[0] for spec in bundle.outputs if spec.name == MACS_OUTPUT)
        self._batch = axis if isinstance(axis, str) else None

    @property
    def bundle(self) -> Bundle:
        """What ``bundle.json`` says."""
        return self._bundle

    @property
    def backend(self) -> Backend:
        """What executes the graph."""
        return self._backend

    @property
    def budget(self) -> Budget:
        """The budget of calls that name none; ``Budget.full()`` at first.

        Raises:
            BudgetError: on setting something that is no ``Budget``, or that the bundle cannot obey.
        """
        return self._plan.budget or Budget.full()

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self._plan = self._planner.for_budget(budget)

    def operating_point(self, budget: Budget | None = None) -> OperatingPoint:
        """What a call under ``budget`` (None: the model's own) would run, and what to expect of it.

        Raises:
            BudgetError: as setting ``budget``.
        """
        point = (self._plan if budget is None else self._planner.for_budget(budget)).point
        return OperatingPoint(dict(point.knobs), point.macs_fraction, point.quality, point.reachable)

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        budget: Budget | None = None,
        knobs: Mapping[str, float] | None = None,
    ) -> Result:
        """Run a batch.

        Args:
            inputs: an array for every input of the bundle, exactly of its dtype and shape. The batch
                may be empty.
            budget: for this call; None takes the model's.
            knobs: values to feed instead of obeying a budget; those not named stand at their defaults.

        Raises:
            InputError: an input or knob value is not what the bundle declares.
            BudgetError: the bundle cannot obey the budget, or both a budget and knobs are given.
            BackendError: the engine failed.
        """
        if knobs is not None:
            plan = self._planner.for_knobs(knobs, budget)
        else:
            plan = self._plan if budget is None else self._planner.for_budget(budget)
        feeds, sizes = self._contract.check(inputs)
        feeds.update(plan.feeds)
        start = perf_counter()
        outputs = self._empty(sizes) if 0 in sizes.values() else None
        if outputs is None:
            outputs = self._backend.run(feeds)
        latency_ms = (perf_counter() - start) * 1e3
        macs_fraction = outputs.pop(MACS_OUTPUT)
        point = plan.point
        return Result(
            outputs, macs_fraction, latency_ms, plan.budget, point.knobs.copy(), point.reachable, plan.message
        )

    def _empty(self, sizes: Mapping[str, int]) -> dict[str, Array] | None:
        """The outputs for no samples, made without the graph: not every operator takes empty tensors.

        None where there are samples, or an output's shape does not follow from the inputs: the graph
        is run then.
        """
        if self._batch is None or sizes.get(self._batch) != 0:
            return None
        outputs = {}
        for spec in self._bundle.outputs:
            shape = [sizes.get(size, -1) if isinstance(size, str) else size for size in spec.shape]
            if self._batch not in spec.shape or -1 in shape:
                return None
            outputs[spec.name] = np.empty(shape, dtype=spec.dtype)
        return outputs


def load(
    path: str | Path,
    *,
    threads: int | None = None,
    backend: str = "onnxruntime",
    providers: Sequence[Provider] | None = None,
) -> AdaptiveModel:
    """Load an exported folder.

    Everything is checked first: the schema, that no path and no reference to weights leaves the folder,
    and every file's hash, on the very bytes that then run.

    Args:
        path: the folder that ``adaptrt export`` wrote.
        threads: that one operator may use; None leaves it to the backend.
        backend: ``"onnxruntime"``.
        providers: ONNX Runtime's execution providers in order of preference; None is the CPU.

    Raises:
        BundleError: the bundle is missing, damaged, or of another version.
        BackendError: the backend is missing or refuses the model or a setting.
    """
    check_backend(backend)
    bundle = read_bundle(path, verify_hashes=False)  # the hash is taken below, where the bytes are used
    root = bundle_files.bundle_root(path)
    if len(bundle.stages) != 1:
        raise BundleError(
            f"{root}: got {len(bundle.stages)} stages, expected 1; this version of adaptrt runs models "
            "without early exits: export one, or install a newer adaptrt"
        )
    stage = bundle.stages[0]
    file = root / stage.file
    program = StageProgram(
        model=bundle_files.read_stage(root, stage),
        file=file,
        data_folder=file.parent if stage.external_data else None,
        outputs=tuple(spec.name for spec in bundle.outputs),
    )
    engine = create_backend(backend, program, threads=threads, providers=providers)
    _check_graph(bundle, engine, file)
    return AdaptiveModel(bundle, engine)


def _check_graph(bundle: Bundle, engine: Backend, file: Path) -> None:
    """Compare the graph's inputs and outputs with those that the bundle declares."""
    knobs = [TensorSpec(knob.name, knob.dtype, [*knob.shape]) for knob in bundle.knobs]
    declared = {spec.name: spec for spec in [*bundle.inputs, *knobs]}
    if declared.keys() != engine.inputs.keys():
        raise BundleError(
            f"{file}: the graph's inputs are {sorted(engine.inputs)}, expected {sorted(declared)} as "
            "bundle.json declares; export the model again"
        )
    for spec in bundle.outputs:
        if spec.name not in engine.outputs:
            raise BundleError(
                f"{file}: the graph's outputs are {sorted(engine.outputs)}, expected {spec.name!r} among "
                "them as bundle.json declares; export the model again"
            )
    pairs = [(spec, engine.inputs[name], True) for name, spec in declared.items()]
    pairs += [(spec, engine.outputs[spec.name], False) for spec in bundle.outputs]
    for spec, actual, fed in pairs:
        if not _agree(spec, actual, fed=fed):
            raise BundleError(
                f"{file}: {spec.name!r} is {actual.dtype} {actual.shape} in the graph, expected {spec.dtype} "
                f"{spec.shape} as bundle.json declares; export the model again"
            )


def _agree(declared: TensorSpec, actual: TensorSpec, *, fed: bool) -> bool:
    """Whether two descriptions can be of one tensor.

    A size fixed in the bundle may be dynamic in the graph; the other way round an input would be
    refused at the first call. ONNX Runtime gives an unknown rank as no axes.
    """
    if declared.dtype != actual.dtype:
        return False
    if not actual.shape and not fed:
        return True
    return len(declared.shape) == len(actual.shape) and all(
        want == have or isinstance(have, str) or (isinstance(want, str) and not fed)
        for want, have in zip(declared.shape, actual.shape, strict=True)
    )
