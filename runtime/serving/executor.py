"""The thread that runs the batches, so that no call of a model holds up those who listen."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import perf_counter

from adaptrt.runtime.control.work_queue import Batch, Job, Refusal, WorkQueue
from adaptrt.runtime.serving.errors import BudgetLost, QueueFull, Stopping
from adaptrt.runtime.serving.metrics import ServingMetrics
from adaptrt.runtime.serving.requests import Answer, Asked
from adaptrt.runtime.serving.served_model import ServedModel

_LOGGER = logging.getLogger("adaptrt.serving")


class Pending:
    """A request that was taken.

    Attributes:
        answer: is set when it is there.
        job: the request in the queue.
        ended: seconds when its call had ended; None before.
    """

    def __init__(self, model: ServedModel, job: Job) -> None:
        self.model, self.job = model, job
        self.answer: Future[Answer] = Future()
        self.ended: float | None = None


class Executor:
    """One queue and one thread for all models: they share the device.

    Args:
        most_waiting: requests that may wait.
        most_samples: that requests together have in one call.
        batch_wait_ms: that a batch which is not full waits for more.
        metrics: that count.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        most_waiting: int,
        most_samples: int,
        batch_wait_ms: float,
        metrics: ServingMetrics,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._queue = WorkQueue(most_waiting, most_samples)
        self._wait_s = batch_wait_ms / 1e3
        self._metrics, self.clock = metrics, clock
        self._changed = threading.Condition()
        self._pending: dict[int, Pending] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="adaptrt-serving", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, model: ServedModel, asked: Asked, arrived: float) -> Pending:
        """Take a request.

        Args:
            model: that is asked.
            asked: the request.
            arrived: seconds, of ``clock``.

        Raises:
            InputError: its arrays are not what the bundle declares.
            BudgetError: the bundle cannot obey its budget.
            QueueFull: as many wait as may.
            BudgetLost: its budget cannot be met on the cheapest work.
            Stopping: the server is about to end.
        """
        pending = Pending(model, model.job(asked, arrived))
        with self._changed:
            if self._stopping:
                raise Stopping("got a request while the server stops, expected it before; ask another replica")
            refusal = self._queue.admit(pending.job, self.clock())
            if refusal is not None:
                raise _refused(refusal, asked, model)
            self._pending[id(pending.job)] = pending
            self._changed.notify()
        return pending

    def leave(self, pending: Pending) -> bool:
        """Who asked has gone: a request that waits is not run. Whether it waited."""
        with self._changed:
            waited = self._queue.withdraw(pending.job)
            if waited:
                self._pending.pop(id(pending.job), None)
        return waited

    def sent(self, pending: Pending) -> None:
        """An answer has been sent: what that took beside the call is known now."""
        if pending.ended is not None:
            with self._changed:
                self._queue.beside.observe((self.clock() - pending.ended) * 1e3)

    def stop(self) -> None:
        """Take no more requests, and end when those that wait have been answered."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> bool:
        """Wait until the thread has ended; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not len(self._queue) and not self._stopping:
                    self._changed.wait()
                if not len(self._queue):
                    return
                self._gather()
                now = self.clock()
                batch = self._queue.take(now)
                pending = [] if batch is None else [self._pending.pop(id(job)) for job in batch.jobs]
            if batch is not None:
                self._run(batch, pending, now)

    def _gather(self) -> None:
        """Wait for more requests, if told to and there is room for them."""
        until = self.clock() + self._wait_s
        while not self._stopping and not self._queue.batch_full() and (left := until - self.clock()) > 0:
            self._changed.wait(left)

    def _run(self, batch: Batch, pending: Sequence[Pending], now: float) -> None:
        # Who leaves from now on is answered all the same, and nobody reads it.
        waited_for = [one.answer.set_running_or_notify_cancel() for one in pending]
        try:
            answers = self._call(batch, pending[0].model, now) if any(waited_for) else []
        except Exception as error:
            _LOGGER.exception("a call of model %r failed", pending[0].model.name)
            for one, waits in zip(pending, waited_for, strict=True):
                if waits:
                    one.answer.set_exception(error)
            answers = []
        finally:
            with self._changed:
                self._queue.fail(batch)  # where it has not ended
        for one, waits, answer in zip(pending, waited_for, answers, strict=False):
            one.ended = self.clock()
            if waits:
                one.answer.set_result(answer)

    def _call(self, batch: Batch, model: ServedModel, now: float) -> list[Answer]:
        """Run a batch and learn from it.

        Raises:
            BackendError: the engine failed.
        """
        result, expected, answers = model.run(batch, now)
        ended = self.clock()
        done = float(result.macs_fraction.mean()) if result.macs_fraction.size else 0.0
        with self._changed:
            self._queue.end(batch, ended, expected, done, (ended - now) * 1e3)
        for job, answer in zip(batch.jobs, answers, strict=True):
            self._metrics.ran(model.name, max(now - job.arrived, 0.0), answer)
        self._metrics.called(model.name, batch.samples)
        return answers


def _refused(refusal: Refusal, asked: Asked, model: ServedModel) -> QueueFull | BudgetLost:
    if refusal.full:
        return QueueFull(
            f"got a request while {refusal.waiting} wait, expected fewer; ask again later, or start the server with a "
            "larger --max-queue"
        )
    budget = asked.budget or model.budget
    return BudgetLost(
        f"got a budget of {budget}, but the {refusal.waiting} requests before this one take {refusal.ahead_ms:.4g} ms "
        f"and it {refusal.own_ms:.4g} ms even on the cheapest work; ask again later, or with a larger budget"
    )
