"""Running a network stage after stage, while those samples leave that are sure enough.

After each stage but the last, a sample leaves if the confidence of that stage's head is strictly above
its threshold; one whose confidence is NaN is not confident and stays. What the others carry to the next
stage is compacted to them. Where nobody leaves, the tensors go on as they are, without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptrt.runtime.backends import Backend, Value
from adaptrt.runtime.bundle.schema import CONFIDENCE_OUTPUT, Bundle, Carry, DecisionSpec
from adaptrt.runtime.compaction import Compaction, masks_of
from adaptrt.runtime.decisions import DecisionRecorder
from adaptrt.runtime.device.stage_times import Deadline
from adaptrt.runtime.errors import OutputError
from adaptrt.runtime.single_sample import SingleSample

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Step:
    """One stage, and what goes into and comes out of it.

    Attributes:
        backend: that executes it.
        file: its name, for messages.
        given: the bundle's inputs and knobs that it takes.
        results: its outputs of the bundle, and its confidence if another stage follows.
        fetched: these and what the next stage takes.
        handed: what is wanted of it where nobody can leave.
        decisions: those that are told on request.
        disclosed: the outputs that tell them.
        carried: what the next stage takes from it; empty after the last.
        passed: what the next stage takes of the bundle's inputs under names of its own.
        compaction: of both.
        later: the inputs with a batch axis that stages after this one take.
    """

    backend: Backend
    file: str
    given: tuple[str, ...]
    results: tuple[str, ...]
    fetched: tuple[str, ...]
    handed: tuple[str, ...]
    decisions: tuple[DecisionSpec, ...]
    disclosed: tuple[str, ...]
    carried: tuple[Carry, ...]
    passed: tuple[Carry, ...]
    compaction: Compaction
    later: tuple[str, ...]


class StageSequence:
    """The stages of one bundle; immutable, so any number of threads may run it.

    Args:
        bundle: what the stages carry and put out.
        backends: one for each stage, in order.
        batch: the axis that counts samples; None where their number is fixed.
    """

    def __init__(self, bundle: Bundle, backends: Sequence[Backend], batch: str | None) -> None:
        self._outputs = tuple(spec.name for spec in bundle.outputs)
        self._to_value = backends[0].to_value
        names = [*(spec.name for spec in bundle.inputs), *(knob.name for knob in bundle.knobs)]
        inputs = {spec.name for spec in bundle.inputs}
        per_sample = [spec.name for spec in bundle.inputs if spec.shape[:1] == [batch]]
        masks, whole = masks_of(bundle), {size for spec in bundle.outputs for size in spec.shape}
        steps = []
        for number, (stage, backend) in enumerate(zip(bundle.stages, backends, strict=True)):
            after = bundle.stages[number + 1].carry if number + 1 < len(backends) else []
            results = [*self._outputs, *([CONFIDENCE_OUTPUT] if after else [])]
            handed = [carry.source for carry in after if carry.source not in inputs]
            taken = {name for later in backends[number + 1 :] for name in later.inputs}
            step = _Step(
                backend=backend,
                file=stage.file,
                given=tuple(name for name in names if name in backend.inputs),
                results=tuple(results),
                fetched=tuple(dict.fromkeys([*results, *handed])),
                handed=tuple(dict.fromkeys(handed or results)),
                decisions=tuple(stage.decisions),
                disclosed=tuple(name for decision in stage.decisions for name in decision.outputs.values()),
                carried=tuple(carry for carry in after if carry.source not in inputs),
                passed=tuple(carry for carry in after if carry.source in inputs),
                compaction=Compaction.of(after, masks, whole),
                later=tuple(name for name in per_sample if name in taken),
            )
            steps.append(step)
        self._steps = tuple(steps)
        self._passed = tuple({carry.source: None for step in steps for carry in step.passed})
        self._single = SingleSample(bundle, backends, batch or "") if SingleSample.fits(bundle, batch) else None

    def run(
        self,
        arrays: Mapping[str, Array],
        samples: int,
        thresholds: Sequence[float],
        recorder: DecisionRecorder | None = None,
        deadline: Deadline | None = None,
    ) -> tuple[dict[str, Array], Array | None]:
        """Run a batch.

        Args:
            arrays: inputs, already checked, and knobs.
            samples: B, at least one.
            thresholds: for each stage but the last, the confidence above which a sample leaves; infinity
                lets none leave, and spares the comparison.
            recorder: takes in the stages' decisions; None leaves them out.
            deadline: a stage that would not end by it is not begun: all leave before; the first always runs.

        Returns:
            In the caller's order, every output of the bundle by name, [B, ...], and where there are
            several stages the one at whose head each sample left, int64 [B].

        Raises:
            BackendError: an engine failed, or gave something that is not as the bundle says.
        """
        if samples == 1 and recorder is None and deadline is None and self._single is not None:
            single = self._single.run(arrays, thresholds)
            if single is not None:
                return single
        given = {name: self._to_value(array) for name, array in arrays.items()}
        passed = {name: given[name] for name in self._passed}
        feeds: dict[str, Value] = {}
        assembly = _Assembly(samples)
        for step, threshold in zip(self._steps, (*thresholds, math.inf), strict=True):
            for name in step.given:
                feeds[name] = given[name]
            # Where nobody can leave, nobody reads what the head says: each output fetched costs microseconds.
            unread = threshold == math.inf and deadline is None
            there = assembly.there
            begun = 0.0 if deadline is None else deadline.clock()
            got = _execute(step, feeds, step.handed if unread else step.fetched, recorder)
            if deadline is not None:
                deadline.took(assembly.stage, there, deadline.clock() - begun)
            staying: Sequence[int] = () if step is self._steps[-1] else range(there)
            if threshold != math.inf:
                staying = _staying(_array(step, got, CONFIDENCE_OUTPUT, there, rank=1), threshold)
            late = deadline is not None and staying and not deadline.fits(assembly.stage + 1, len(staying))
            if not staying or late:
                assembly.leave(step, self._part(step, got, there))
                break
            if len(staying) < there:
                assembly.leave(step, self._part(step, got, there), staying)
                feeds = self._compact(step, got, given, passed, np.array(staying), there, recorder)
            else:
                feeds = self._handed_on(step, got, passed)
            del got  # what is not carried need not wait for the next stage
            assembly.stage += 1
        outputs, exits = assembly.result()
        return outputs, exits if len(self._steps) > 1 else None

    def run_all(self, arrays: Mapping[str, Array], samples: int) -> list[dict[str, Array]]:
        """Run every stage on all samples, nobody leaving.

        Args:
            arrays: as in ``run``.
            samples: as in ``run``.

        Returns:
            For each stage every output of the bundle by name, [B, ...], and for all but the last one
            ``confidence`` float32 [B].

        Raises:
            BackendError: as ``run``.
        """
        given = {name: self._to_value(array) for name, array in arrays.items()}
        carried: dict[str, Value] = {}
        stages = []
        for step in self._steps:
            feeds = {**carried, **{name: given[name] for name in step.given}}
            got = dict(zip(step.fetched, step.backend.run_values(feeds, step.fetched), strict=True))
            stages.append({name: _array(step, got, name, samples) for name in step.results})
            carried = self._handed_on(step, got, given)
        return stages

    def _part(self, step: _Step, got: Mapping[str, Value], there: int) -> dict[str, Array]:
        """The bundle's outputs at this stage, for all samples that reached it."""
        return {name: _array(step, got, name, there) for name in self._outputs}

    def _handed_on(self, step: _Step, got: Mapping[str, Value], passed: Mapping[str, Value]) -> dict[str, Value]:
        """What the next stage takes, where all samples go on."""
        feeds: dict[str, Value] = {carry.name: got[carry.source] for carry in step.carried}
        feeds.update((carry.name, passed[carry.source]) for carry in step.passed)
        for carry in step.passed:
            axes = step.compaction.token_axes[carry.name]
            if axes:  # an earlier stage may have cut the tokens that lie beside it
                widths = {mask: step.backend.to_array(feeds[mask]).shape[1] for _, mask in axes}
                array = step.backend.to_array(feeds[carry.name])
                feeds[carry.name] = self._to_value(np.ascontiguousarray(step.compaction.cut(carry.name, array, widths)))
        return feeds

    def _compact(
        self,
        step: _Step,
        got: Mapping[str, Value],
        given: dict[str, Value],
        passed: dict[str, Value],
        rows: Array,
        there: int,
        recorder: DecisionRecorder | None,
    ) -> dict[str, Value]:
        """What is carried on, and in ``given`` and ``passed`` the inputs for later stages, for ``rows`` alone."""
        host = step.backend.to_array
        arrays = {c.name: _array(step, got, c.source, there, rank=len(c.shape)) for c in step.carried}
        if step.passed:
            whole = self._handed_on(step, got, passed)
            arrays |= {c.name: host(whole[c.name]) for c in step.passed}
        kept, widths = step.compaction.apply(arrays, rows)
        for name in step.later:
            given[name] = self._to_value(host(given[name])[rows])
        values = {name: self._to_value(array) for name, array in kept.items()}
        if passed:
            cut = {carry.source: values[carry.name] for carry in step.passed}
            passed.update({n: cut[n] if n in cut else self._to_value(host(v)[rows]) for n, v in passed.items()})
        if recorder is not None:
            recorder.compact(rows, widths)
        return values


class _Assembly:
    """The outputs of the samples that have left.

    What numpy does to a few elements costs tens of microseconds after an engine has had the caches, each kind of
    operation anew. So rows are counted in Python, and put in the caller's order once, at the end.

    Attributes:
        stage: number of the stage that runs.
        there: how many samples it runs on.
    """

    def __init__(self, samples: int) -> None:
        self.stage = 0
        self.there = samples
        self._samples = samples
        self._rows: Sequence[int] = range(samples)  # of the caller's samples those still there
        self._left: list[tuple[int, Sequence[int], dict[str, Array]]] = []

    def leave(self, step: _Step, part: dict[str, Array], staying: Sequence[int] = ()) -> None:
        """Take the outputs of those of the samples there that do not stay."""
        for name, array in part.items():
            first = self._left[0][2][name] if self._left else array
            if first.shape[1:] != array.shape[1:] or first.dtype != array.dtype:
                raise _wrong(step, name, array, ["batch", *first.shape[1:]])
        gone = self._rows
        if staying:
            stay = set(staying)
            leaving = [row for row in range(self.there) if row not in stay]
            gone, part = [gone[row] for row in leaving], _taken(part, np.array(leaving))
            self._rows = [self._rows[row] for row in staying]
            self.there = len(self._rows)
        self._left.append((self.stage, gone, part))

    def result(self) -> tuple[dict[str, Array], Array]:
        """In the caller's order, every output of the bundle, [B, ...], and the stage each sample left at, int64 [B]."""
        if len(self._left) == 1:
            stage, _, outputs = self._left[0]
            return outputs, np.full(self._samples, stage)
        places, exits, place = [0] * self._samples, [0] * self._samples, 0
        for stage, rows, _ in self._left:
            for row in rows:
                places[row], exits[row] = place, stage
                place += 1
        names = self._left[0][2]
        together = {name: np.concatenate([part[name] for _, _, part in self._left]) for name in names}
        return _taken(together, np.array(places)), np.array(exits)


def _staying(confidence: Array, threshold: float) -> list[int]:
    """The rows whose confidence, float32 [there], is not above the threshold; NaN is not."""
    bound = float(np.float32(threshold))
    return [row for row, value in enumerate(confidence.tolist()) if not value > bound]


def _taken(arrays: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    return {name: array[rows] for name, array in arrays.items()}


def _execute(
    step: _Step, feeds: Mapping[str, Value], wanted: tuple[str, ...], recorder: DecisionRecorder | None
) -> dict[str, Value]:
    if recorder is None:
        return dict(zip(wanted, step.backend.run_values(feeds, wanted), strict=True))
    names = wanted + step.disclosed
    got = dict(zip(names, step.backend.run_values(feeds, names), strict=True))
    recorder.record(step.decisions, {name: step.backend.to_array(got[name]) for name in step.disclosed})
    return got


def _array(step: _Step, got: Mapping[str, Value], name: str, there: int, *, rank: int | None = None) -> Array:
    """An output on the host, with an entry for each sample that the stage ran on."""
    array = step.backend.to_array(got[name])
    if array.shape[:1] != (there,) or (rank is not None and array.ndim != rank):
        raise _wrong(step, name, array, [there, "..."] if rank is None else [there, *["?"] * (rank - 1)])
    return array


def _wrong(step: _Step, name: str, array: Array, expected: Sequence[int | str]) -> OutputError:
    sizes = ", ".join(map(str, expected))
    return OutputError(
        f"{step.file}: {name!r} came out as {array.dtype} {list(array.shape)}, expected [{sizes}]; "
        "run `adaptrt verify` on the bundle, or export the model again"
    )
