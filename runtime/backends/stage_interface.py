"""Comparing the inputs and outputs of a stage's graph with what its bundle declares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from adaptrt.runtime.backends import Backend
from adaptrt.runtime.bundle.schema import CONFIDENCE_OUTPUT, MACS_OUTPUT, THRESHOLDS_KNOB, Bundle, TensorSpec
from adaptrt.runtime.bundle.stage_validation import batch_axis
from adaptrt.runtime.errors import BundleError

_RANKS = {"runs": 1, "index": 2, "count": 1}
"""Axes of the outputs that tell decisions, by role; of learners that are not flat it is one more."""


def check_interfaces(bundle: Bundle, backends: Sequence[Backend], folder: Path) -> None:
    """Check every stage's graph, and that together they take all inputs and knobs.

    Raises:
        BundleError: a stage takes something that the bundle does not declare, or not what it declares;
            lacks an output, or has it with another dtype or shape; or no stage takes an input or knob.
    """
    taken: set[str] = set()
    for number, backend in enumerate(backends):
        _check_stage(bundle, number, backend, folder / bundle.stages[number].file)
        taken |= backend.inputs.keys()
        taken |= {carry.source for carry in bundle.stages[number].carry}
    for spec in _given(bundle):
        if spec.name not in taken:
            raise BundleError(
                f"{folder}: no stage's graph has the input {spec.name!r} that bundle.json declares; "
                "export the model again"
            )


def check_unsplit(bundle: Bundle, backend: Backend, file: Path) -> None:
    """Check the graph that stands for all stages: it takes the bundle's inputs and gives its outputs.

    Raises:
        BundleError: it does not.
    """
    declared = {spec.name: spec for spec in bundle.inputs}
    outputs = dense_outputs(bundle)
    if not backend.inputs.keys() <= declared.keys() or not {spec.name for spec in outputs} <= backend.outputs.keys():
        raise BundleError(
            f"{file}: the graph's inputs are {sorted(backend.inputs)} and its outputs {sorted(backend.outputs)}, "
            f"expected some of {sorted(declared)} and {sorted(spec.name for spec in outputs)}, as it stands for all "
            "stages; export the model again"
        )
    _compare(file, (declared[name] for name in backend.inputs), backend.inputs, fed=True)
    _compare(file, outputs, backend.outputs, fed=False)


def dense_outputs(bundle: Bundle) -> list[TensorSpec]:
    """What the graph that stands for all stages gives: where it is no other network, its work goes without saying."""
    return [spec for spec in bundle.outputs if bundle.dense.answers_full or spec.name != MACS_OUTPUT]


def _given(bundle: Bundle) -> list[TensorSpec]:
    """What a caller's call feeds to the graphs."""
    knobs = [TensorSpec(k.name, k.dtype, [*k.shape]) for k in bundle.knobs if k.name != THRESHOLDS_KNOB]
    return [*bundle.inputs, *knobs]


def _check_stage(bundle: Bundle, number: int, backend: Backend, file: Path) -> None:
    carried = [TensorSpec(carry.name, carry.dtype, carry.shape) for carry in bundle.stages[number].carry]
    given = _given(bundle)
    declared = {spec.name: spec for spec in [*carried, *given]}
    several = len(bundle.stages) > 1
    must = {spec.name for spec in carried} if several else declared.keys()
    if not must <= backend.inputs.keys() <= declared.keys():
        free = f", and any of {sorted(spec.name for spec in given)}," if several else ""
        raise BundleError(
            f"{file}: the graph's inputs are {sorted(backend.inputs)}, expected {sorted(must)}{free} as "
            f"bundle.json declares{' for this stage; the stages were mixed up:' if several else ';'} "
            "export the model again"
        )
    outputs = _outputs(bundle, number)
    for spec in outputs:
        if spec.name not in backend.outputs:
            raise BundleError(
                f"{file}: the graph's outputs are {sorted(backend.outputs)}, expected {spec.name!r} among "
                f"them as bundle.json declares{' for this stage; the stages were mixed up:' if several else ';'} "
                "export the model again"
            )
    _compare(file, (declared[name] for name in backend.inputs), backend.inputs, fed=True)
    _compare(file, outputs, backend.outputs, fed=False)


def _outputs(bundle: Bundle, number: int) -> list[TensorSpec]:
    """All outputs that a stage's graph must have."""
    batch = batch_axis(bundle) or "?"
    outputs = [*bundle.outputs]
    if number + 1 < len(bundle.stages):
        outputs.append(TensorSpec(CONFIDENCE_OUTPUT, "float32", [batch]))
    for decision in bundle.stages[number].decisions:
        more = 0 if decision.flat else 1
        outputs += [TensorSpec(name, "int32", ["?"] * (_RANKS[role] + more)) for role, name in decision.outputs.items()]
    if number + 1 < len(bundle.stages):
        inputs = {spec.name for spec in bundle.inputs}
        carried = [carry for carry in bundle.stages[number + 1].carry if carry.source not in inputs]
        outputs += [TensorSpec(carry.source, carry.dtype, carry.shape) for carry in carried]
    return outputs


def _compare(file: Path, declared: Iterable[TensorSpec], graph: dict[str, TensorSpec], *, fed: bool) -> None:
    for spec in declared:
        actual = graph[spec.name]
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
