"""The engines of one loaded bundle: run in turn, checked, made anew after a failure or a fork."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from time import perf_counter
from typing import Any

import numpy as np

from adaptrt.runtime.backends import Backend
from adaptrt.runtime.bundle.schema import CONFIDENCE_OUTPUT, MACS_OUTPUT, Bundle
from adaptrt.runtime.bundle.stage_validation import batch_axis
from adaptrt.runtime.decisions import DecisionRecorder
from adaptrt.runtime.device.forked import in_forked_children, keep_for_ever
from adaptrt.runtime.device.stage_times import Deadline, StageTimes
from adaptrt.runtime.empty_batch import outputs_of_empty_batch
from adaptrt.runtime.errors import BackendError, BudgetError, OutputError, one_line, shown
from adaptrt.runtime.outputs import OutputContract
from adaptrt.runtime.stages import StageSequence

Array = np.ndarray[Any, Any]
Reload = Callable[[], "tuple[Sequence[Backend], Backend | None]"]
"""Gives the backends of the stages, and what runs them all in one, once more."""

_LONGEST_MS = 1e15
_STAGE_RUNS = 16
"""What a first estimate of the stages' times is made from."""


class Engines:
    """The backends of one bundle; any number of threads may run them.

    Args:
        bundle: what they run.
        backends: one for each stage, in order.
        reload: gives such backends once more; None: these were given ready-made.
        in_child: the owner's method, called first thing in a child that the process forks.
        unsplit: runs the whole network where everything runs; None: the stages do.
    """

    def __init__(
        self,
        bundle: Bundle,
        backends: Sequence[Backend],
        reload: Reload | None,
        in_child: Callable[[], None],
        unsplit: Backend | None = None,
    ) -> None:
        self._bundle, self._reload, self._in_child = bundle, reload, weakref.WeakMethod(in_child)
        self.batch = batch_axis(bundle)
        self._outputs = OutputContract(bundle.outputs)
        self.inherited, self._reloading = False, threading.Lock()
        self._use(backends, unsplit)
        _alive.add(self)

    def _use(self, backends: Sequence[Backend], unsplit: Backend | None) -> None:
        self.backends, self.unsplit = tuple(backends), unsplit
        self.stages = StageSequence(self._bundle, self.backends, self.batch)
        self._alone = self.backends[0] if len(self.backends) == 1 else None
        self._times = StageTimes()

    def run(
        self,
        feeds: Mapping[str, Array],
        sizes: dict[str, int],
        thresholds: Sequence[float],
        recorder: DecisionRecorder | None = None,
        deadline: Deadline | None = None,
    ) -> tuple[dict[str, Array], Array | None]:
        """Run a batch; see ``StageSequence.run``. No samples are answered without an engine.

        Args:
            feeds: inputs, already checked, and knobs.
            sizes: of every named axis of the inputs.
            thresholds: as there.
            recorder: likewise.
            deadline: likewise.

        Raises:
            BackendError: an engine failed, or gave something that is not as the bundle says.
        """
        try:
            outputs, exits = None, None
            if self.batch is not None and sizes.get(self.batch) == 0:
                outputs = outputs_of_empty_batch(self._bundle, self.batch, sizes)
            if outputs is not None:
                exits = np.empty(0, np.int64) if self._alone is None else None
            elif self._alone is not None and recorder is None:
                outputs = self._alone.run(feeds)
            else:
                outputs, exits = self.stages.run(feeds, sizes[self.batch or ""], thresholds, recorder, deadline)
            self._outputs.check(outputs, sizes)
        except OutputError:
            self._recover()
            raise
        except MemoryError as error:
            raise BackendError(
                f"memory ran out between the stages of {self._bundle.name!r} ({one_line(error)}); feed a smaller batch"
            ) from error
        return outputs, exits

    def run_unsplit(self, feeds: Mapping[str, Array], sizes: dict[str, int]) -> tuple[dict[str, Array], Array | None]:
        """Run a batch through the one graph without early exits: all of the dense work, and all leave at the end.

        Args:
            feeds: as for ``run``; knobs are not read.
            sizes: likewise.

        Raises:
            BackendError: as ``run``.
        """
        assert self.unsplit is not None
        samples, last = sizes[self.batch or ""], len(self.backends) - 1
        if samples == 0:
            return self.run(feeds, sizes, (math.inf,) * last)
        try:
            outputs = self.unsplit.run({name: feeds[name] for name in self.unsplit.inputs})
            outputs.setdefault(MACS_OUTPUT, np.ones(samples, np.float32))
            self._outputs.check(outputs, sizes)
        except OutputError:
            self._recover()
            raise
        return outputs, None if self._alone is not None else np.full(samples, last, np.int64)

    def run_all(self, feeds: Mapping[str, Array], sizes: dict[str, int]) -> list[dict[str, Array]]:
        """Run every stage on all samples, nobody leaving; see ``StageSequence.run_all``.

        Raises:
            BackendError: as ``run``.
        """
        empty = outputs_of_empty_batch(self._bundle, self.batch, sizes)
        if empty is not None:
            early = {CONFIDENCE_OUTPUT: np.empty(0, np.float32)}
            stages = [{**early, **empty} for _ in self.backends[1:]] + [empty]
            return [{name: array.copy() for name, array in stage.items()} for stage in stages]
        try:
            if self._alone is None:
                outputs_by_stage = self.stages.run_all(feeds, sizes[self.batch or ""])
            else:
                outputs_by_stage = [self._alone.run(feeds)]
            for outputs in outputs_by_stage:
                self._outputs.check(outputs, sizes)
        except OutputError:
            self._recover()
            raise
        return outputs_by_stage

    def deadline(
        self, entry: float, milliseconds: float, feeds: Mapping[str, Array], sizes: Mapping[str, int]
    ) -> Deadline | None:
        """The deadline of a call that began at ``entry``; where the stages' times are not known they are measured.

        None for no samples: they take no time.
        """
        rows, stages = sizes[self.batch or ""], len(self.backends)
        if rows == 0:
            return None
        if not self._times.knows(stages, rows):
            patient = Deadline(self._times, math.inf, perf_counter)
            for _ in range(_STAGE_RUNS):
                self.stages.run(feeds, rows, (math.inf,) * (stages - 1), None, patient)
        return Deadline(self._times, entry + milliseconds / 1e3, perf_counter)

    def check_deadline(self, milliseconds: float) -> None:
        """Refuse a deadline that is none, or that nothing can be done about.

        Raises:
            BudgetError: it is no finite number above 0, or there is one stage only.
        """
        usable = isinstance(milliseconds, Real) and not isinstance(milliseconds, bool)
        if not usable or not 0 < milliseconds < _LONGEST_MS:
            raise BudgetError(f"got deadline_ms={shown(milliseconds)}, expected milliseconds, a finite number above 0")
        if len(self.backends) == 1:
            raise BudgetError(
                f"got a deadline, but bundle {self._bundle.name!r} has no exits to answer early at; use "
                "Budget.latency, or export a model with exits"
            )

    def ready(self) -> None:
        """Load the engines that a process that forked could not hand on to this one.

        Raises:
            BackendError: they were given ready-made, or cannot be loaded a second time.
        """
        if not self.inherited:
            return
        with self._reloading:
            if not self.inherited:
                return  # another thread was first
            if self._reload is None:
                raise BackendError(
                    "got a model whose engines were made before this process was forked, expected one that was loaded; "
                    "load the bundle in each process"
                )
            self._use(*self._reload())
            self.inherited = False

    def begin_in_child(self) -> None:
        """The process forked: nothing of the engines can be used here, or ended."""
        keep_for_ever(self.backends, self.stages, self.unsplit)
        self.inherited, self._reloading = True, threading.Lock()
        owner = self._in_child()
        if owner is not None:
            owner()

    def _recover(self) -> None:
        """An engine gave something else than an answer: the next call is not to meet what is wrong with it."""
        for backend in (*self.backends, *([] if self.unsplit is None else [self.unsplit])):
            backend.recover()


_alive: weakref.WeakSet[Engines] = weakref.WeakSet()


def _begin_in_child() -> None:
    for engines in list(_alive):
        engines.begin_in_child()


in_forked_children(_begin_in_child)
