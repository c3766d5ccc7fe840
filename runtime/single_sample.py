"""One sample through the stages, over buffers that are bound to the engines once.

A single sample never splits a batch: it leaves or it goes on whole. Where all sizes are known beforehand,
every stage can therefore read the buffers that the stage before wrote, without an array made or looked up
in between. At batch 1 that is what a division into stages costs most: the work between two stages meets
caches full of weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adaptrt.runtime.backends import Backend, Bound
from adaptrt.runtime.bundle.schema import CONFIDENCE_OUTPUT, Bundle, TensorSpec

Array = np.ndarray[Any, Any]


class SingleSample:
    """The stages of one bundle on one sample at a time; any number of threads may run it.

    Args:
        bundle: what the stages take, carry and put out.
        backends: one for each stage, in order.
        batch: the axis that counts samples.
    """

    def __init__(self, bundle: Bundle, backends: Sequence[Backend], batch: str) -> None:
        self._bundle, self._backends, self._batch = bundle, tuple(backends), batch
        self._idle: list[_BoundStages] = []  # as many as there were threads at once
        self._bindable = True

    @staticmethod
    def fits(bundle: Bundle, batch: str | None) -> bool:
        """Whether the bundle has several stages, and every size in it but the number of samples is fixed."""
        carried = [TensorSpec(c.source, c.dtype, c.shape) for stage in bundle.stages for c in stage.carry]
        return (
            batch is not None
            and len(bundle.stages) > 1
            and all(
                all(isinstance(size, int) or size == batch for size in spec.shape)
                for spec in [*bundle.inputs, *bundle.outputs, *carried]
            )
        )

    def run(self, arrays: Mapping[str, Array], thresholds: Sequence[float]) -> tuple[dict[str, Array], Array] | None:
        """Run one sample.

        Args:
            arrays: as in ``StageSequence.run``.
            thresholds: likewise.

        Returns:
            Its outputs, [1, ...], and the stage at whose head it left, int64 [1]; None if an engine does not
            run on the host's memory.

        Raises:
            BackendError: an engine failed.
        """
        if not self._bindable:
            return None
        try:
            bound = self._idle.pop()
            while not bound.current():
                bound = self._idle.pop()
        except IndexError:
            fresh = _BoundStages.make(self._bundle, self._backends, self._batch)
            if fresh is None:
                self._bindable = False  # an engine does not change its memory: ask once, not at every call
                return None
            bound = fresh
        answer = bound.run(arrays, thresholds)
        self._idle.append(bound)  # after an exception it is dropped: nothing says how it is left
        return answer


class _BoundStages:
    """All stages over one set of buffers.

    Args:
        given: for each input and knob its buffer.
        stages: each tied to the buffers, and its outputs of the bundle.
        confidences: for each stage but the last, float32 [1].
    """

    def __init__(
        self,
        given: dict[str, Array],
        stages: list[tuple[Bound, dict[str, Array]]],
        confidences: list[Array],
    ) -> None:
        self._given = tuple(given.items())
        self._bound = tuple(bound for bound, _ in stages)
        self._early = tuple(
            (bound.run, outputs, confidence)
            for (bound, outputs), confidence in zip(stages[:-1], confidences, strict=True)
        )
        self._last = self._bound[-1].run, stages[-1][1]

    @classmethod
    def make(cls, bundle: Bundle, backends: Sequence[Backend], batch: str) -> _BoundStages | None:
        """Bind every stage; None if one does not take the host's memory."""

        def buffer(spec: TensorSpec) -> Array:
            return np.zeros([1 if size == batch else int(size) for size in spec.shape], spec.dtype)

        given = {spec.name: buffer(spec) for spec in bundle.inputs}
        taken = {name for backend in backends for name in backend.inputs}
        given |= {k.name: np.zeros(k.shape, k.dtype) for k in bundle.knobs if k.name in taken}
        inputs = {spec.name for spec in bundle.inputs}
        stages, confidences = [], []
        carried: dict[str, Array] = {}
        for number, backend in enumerate(backends):
            after = bundle.stages[number + 1].carry if number + 1 < len(backends) else []
            outputs = {spec.name: buffer(spec) for spec in bundle.outputs}
            written = dict(outputs)
            for carry in after:
                if carry.source not in written and carry.source not in inputs:
                    written[carry.source] = buffer(TensorSpec(carry.source, carry.dtype, carry.shape))
            if after:
                confidences.append(written.setdefault(CONFIDENCE_OUTPUT, np.zeros(1, np.float32)))
            read = {name: array for name, array in {**given, **carried}.items() if name in backend.inputs}
            bound = backend.bind(read, written)
            if bound is None:
                return None
            stages.append((bound, outputs))
            carried = {
                carry.name: given[carry.source] if carry.source in inputs else written[carry.source] for carry in after
            }
        return cls(given, stages, confidences)

    def current(self) -> bool:
        """Whether all engines are those that were bound."""
        return all(bound.current() for bound in self._bound)

    def run(self, arrays: Mapping[str, Array], thresholds: Sequence[float]) -> tuple[dict[str, Array], Array]:
        """Run one sample; see ``SingleSample.run``."""
        for name, buffer in self._given:
            np.copyto(buffer, arrays[name])
        stage = 0
        try:
            for threshold, (run, outputs, confidence) in zip(thresholds, self._early, strict=True):
                run()
                if threshold != math.inf and confidence[0] > threshold:  # false for NaN
                    return _copied(outputs), np.array([stage])
                stage += 1
            run, outputs = self._last
            run()
        except Exception as error:  # an engine's exceptions share no base class
            raise self._bound[stage].failed(error) from error
        return _copied(outputs), np.array([stage])


def _copied(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The caller's own: the next call writes over the buffers."""
    return {name: array.copy() for name, array in outputs.items()}
