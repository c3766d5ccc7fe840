"""Running a bundle on any number of samples, a batch at a time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from adaptrt.runtime.bundle.schema import MACS_OUTPUT
from adaptrt.runtime.errors import InputError
from adaptrt.runtime.inputs import InputContract

if TYPE_CHECKING:
    from adaptrt.runtime import AdaptiveModel, Budget, Bundle, Decisions, Result
    from adaptrt.runtime.bundle.bundle_file import KnobValue, TensorSpec

Array = npt.NDArray[Any]

_SCORES = "logits"
MOST_SAMPLES = 64
"""In one call, unless told otherwise."""


@dataclass(frozen=True)
class Predictions:
    """What a bundle made of all samples.

    Attributes:
        outputs: Every output by name, except ``macs_fraction``.
        macs_fraction: float32 ``[B]``.
        latency_ms: Of all calls together.
        calls: Number of calls.
        budget: That was to be obeyed; None where knobs were given.
        knobs: Values fed.
        reachable: False where the budget is below the cheapest point.
        message: Says so in words.
        exit: int64 ``[B]``, the stage at whose head each sample left; None for a bundle of one stage.
        decisions: What was computed for each token, where that was asked for.
    """

    outputs: dict[str, Array]
    macs_fraction: npt.NDArray[np.float32]
    latency_ms: float
    calls: int
    budget: Budget | None
    knobs: dict[str, KnobValue]
    reachable: bool
    message: str | None
    exit: npt.NDArray[np.int64] | None = None
    decisions: Decisions | None = None

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.macs_fraction)

    @property
    def mean_macs_fraction(self) -> float | None:
        """Mean share of the dense work, None for no samples."""
        return float(self.macs_fraction.mean(dtype=np.float64)) if self.samples else None

    def classes(self, top: int) -> list[list[tuple[int, float]]] | None:
        """The likeliest classes of each sample with their probabilities (softmax of the logits).

        None where the bundle is no classifier: it has no output ``logits`` of shape ``[B, classes]``.
        """
        scores = self.outputs.get(_SCORES)
        if scores is None or scores.ndim != 2:
            return None
        exact = scores.astype(np.float64)
        weights = np.exp(exact - exact.max(axis=1, keepdims=True, initial=-np.inf))
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [(int(label), float(row[label])) for label in labels]
            for row, labels in zip(probabilities, order, strict=True)
        ]

    def encode(self) -> bytes:
        """All outputs as the bytes of an ``.npz`` file, with ``exit`` where there are several stages."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {**self.outputs, MACS_OUTPUT: self.macs_fraction}
        if self.exit is not None:
            arrays["exit"] = self.exit
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def predict(
    model: AdaptiveModel,
    inputs: Mapping[str, Array],
    *,
    budget: Budget | None,
    knobs: Mapping[str, KnobValue] | None,
    batch: int,
    decisions: bool = False,
    deadline_ms: float | None = None,
) -> Predictions:
    """Run all samples, at most ``batch`` in one call.

    Args:
        model: The bundle.
        inputs: An array for every input.
        budget: To obey; None where ``knobs`` are given.
        knobs: Values to feed instead.
        batch: Most samples in one call. Without effect where the bundle's batch is fixed, or an
            output does not have it as first axis.
        decisions: Also tell what was computed for each token; of samples that fit into one call.
        deadline_ms: Of each call; a first one measures the stages.

    Raises:
        InputError: An input or knob value is not what the bundle declares; checked for all samples
            before the first call.
        BudgetError: The bundle cannot obey the budget.
        BackendError: The engine failed.
    """
    _, sizes = InputContract(model.bundle.inputs, model.bundle.axes).check(inputs)
    axis = _batch_axis(model.bundle)
    samples = sizes.get(axis, 0) if axis is not None else 0
    results: list[Result] = []
    for start in range(0, max(samples, 1), batch):
        rows = slice(start, start + batch)
        fed = {
            spec.name: inputs[spec.name][rows] if axis in spec.shape[:1] else inputs[spec.name]
            for spec in model.bundle.inputs
        }
        if deadline_ms is not None and not results:
            model.run(fed, budget=budget, knobs=knobs, deadline_ms=deadline_ms)
        results.append(model.run(fed, budget=budget, knobs=knobs, decisions=decisions, deadline_ms=deadline_ms))
    first = results[0]
    return Predictions(
        outputs={name: _joined([result.outputs[name] for result in results]) for name in first.outputs},
        macs_fraction=_joined([result.macs_fraction for result in results]),
        latency_ms=sum(result.latency_ms for result in results),
        calls=len(results),
        budget=first.budget,
        knobs=first.knobs,
        reachable=first.reachable,
        message=first.message,
        exit=None if first.exit is None else _joined([result.exit for result in results if result.exit is not None]),
        decisions=first.decisions if len(results) == 1 else None,
    )


def check_samples(bundle: Bundle, inputs: Mapping[str, Array], *, some: bool = False) -> None:
    """Check arrays from a file before any of them is divided or repeated.

    Args:
        bundle: That they are for.
        inputs: Read from files.
        some: Whether there have to be samples.

    Raises:
        InputError: They are not what the bundle declares, or there are none where there have to be.
    """
    _, sizes = InputContract(bundle.inputs, bundle.axes).check(inputs)
    if some and 0 in sizes.values():
        raise InputError("got no samples, expected at least one; give a file with some")


def count_samples(bundle: Bundle, inputs: Mapping[str, Array]) -> int:
    """How many samples there are, at least one; one where the bundle has none that could be told apart."""
    counts = (len(inputs[spec.name]) for spec in bundle.inputs if _per_sample(spec))
    return max(next(counts, 1), 1)


def repeated(bundle: Bundle, inputs: Mapping[str, Array], start: int, batch: int) -> dict[str, Array]:
    """A batch of the samples from one on, which begin anew where they end."""
    rows = np.arange(start, start + batch) % count_samples(bundle, inputs)
    return {spec.name: inputs[spec.name][rows] if _per_sample(spec) else inputs[spec.name] for spec in bundle.inputs}


def _per_sample(spec: TensorSpec) -> bool:
    return bool(spec.shape) and isinstance(spec.shape[0], str)


def _joined(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _batch_axis(bundle: Bundle) -> str | None:
    """The axis that samples can be divided along: first in every output, and in inputs nowhere else."""
    axis = next(spec.shape[0] for spec in bundle.outputs if spec.name == MACS_OUTPUT)
    if not isinstance(axis, str):
        return None
    divisible = all(spec.shape[:1] == [axis] for spec in bundle.outputs)
    divisible = divisible and all(axis not in spec.shape[1:] for spec in bundle.inputs)
    return axis if divisible else None
