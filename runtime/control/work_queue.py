"""Which waiting requests run next, on how much work, and which are refused: a queue whose waiting counts.

One device runs one batch at a time, in the order of arrival. A request under a latency budget has it from its arrival
to its answer, so what it waits is taken from what its call may take. When a batch begins, all that wait behind it are
looked at as well: the largest work is chosen with which every one of them, run on as much, is answered in its budget.
As the queue grows the work falls, and a request is refused only where the cheapest work is too much for it.

Those behind are planned to be answered within a part of their budget (``_PLANNED``). With all of it a steady overload
would build a queue as long as the budgets allow, where every answer is nearly late and nothing is gained: what the
device answers per second depends on the work alone, not on how many wait.

Time comes in as numbers: there is no clock inside. Not safe to share between threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from adaptrt.runtime.control.call_costs import CallCosts, RecentQuantile
from adaptrt.runtime.control.controller import Choice, LatencyController
from adaptrt.runtime.control.response_curve import ResponseCurve

_PLANNED = 0.5
_SHORTEST_MS = 1e-3


class ModelLoad:
    """What the calls of one model take, as far as a queue has to know.

    Args:
        costs: By the size of batches and samples.
        curve: Milliseconds of a call of one sample over the share of work; None of a model without operating points.
        controller: Of latency budgets, on that curve; None likewise.
    """

    def __init__(
        self, costs: CallCosts, curve: ResponseCurve | None = None, controller: LatencyController | None = None
    ) -> None:
        self.costs, self.curve, self.controller = costs, curve, controller
        self.latest = math.inf if controller is None else controller.limits[1]

    def milliseconds(self, share: float, scale: float) -> float:
        """Expected of a call that asks for a share of work, everything where it is infinite."""
        if self.controller is None:
            return self.costs.base_ms * scale
        return self.controller.forecast(min(share, self.controller.limits[1]), scale)[0]

    def at_most(self, share: float, scale: float) -> float:
        """What the wanted share of such calls stays under."""
        if self.controller is None:
            return self.costs.base_ms * scale
        return self.controller.forecast(min(share, self.controller.limits[1]), scale)[1]

    @property
    def cheapest(self) -> float:
        """The smallest share of work."""
        return math.inf if self.controller is None else self.controller.limits[0]


@dataclass(eq=False)
class Job:
    """One request.

    Attributes:
        model: What its model's calls take.
        samples: In it.
        arrived: Seconds.
        key: Requests with equal keys may share a call; None: it runs alone.
        target: Milliseconds from its arrival to its answer; None where its work is given.
        share: Of the work, where that is given; infinite for everything.
        size: Of a sample, over that of the profiled ones.
        content: The caller's.
    """

    model: ModelLoad
    samples: int
    arrived: float
    key: Hashable = None
    target: float | None = None
    share: float = math.inf
    size: float = 1.0
    content: Any = None

    def due_ms(self, now: float, part: float = 1.0) -> float:
        """Milliseconds until a part of the budget is over; infinite without one."""
        return math.inf if self.target is None else self.target * part - (now - self.arrived) * 1e3


@dataclass(eq=False)
class Batch:
    """Requests that run in one call.

    Attributes:
        jobs: In the order of their arrival.
        samples: Of all of them.
        scale: What such a call takes over the profile's.
        begun: Seconds.
        choice: The controller's; None where the work is given.
        expected_ms: That the call takes.
        allowed_ms: That it may take; infinite where the work is given.
    """

    jobs: list[Job]
    samples: int
    scale: float
    begun: float
    choice: Choice | None
    expected_ms: float
    allowed_ms: float


@dataclass(frozen=True)
class Refusal:
    """Why a request was not taken.

    Attributes:
        full: Whether the queue holds all that it may; else the budget cannot be met.
        waiting: Requests that wait.
        ahead_ms: Milliseconds until it would begin at the latest, if all before it ran the cheapest work.
        own_ms: That it takes itself at most, at the cheapest.
    """

    full: bool
    waiting: int
    ahead_ms: float
    own_ms: float


class WorkQueue:
    """The queue of one device.

    Args:
        most_waiting: Requests that may wait; those that run are not counted.
        most_samples: That requests together have in one call; one that has more runs alone.
    """

    def __init__(self, most_waiting: int, most_samples: int) -> None:
        self._most_waiting, self._most_samples = most_waiting, most_samples
        self._waiting: list[Job] = []
        self._running: Batch | None = None
        self.beside = RecentQuantile()
        """Milliseconds that an answer takes from the end of its call until it is sent."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def newest(self) -> Job | None:
        """The one that came last."""
        return self._waiting[-1] if self._waiting else None

    def admit(self, job: Job, now: float) -> Refusal | None:
        """Take a request, or say why not.

        Args:
            job: The request.
            now: Seconds.
        """
        ahead = self._ahead_ms(now) if job.target is not None else 0.0
        own = job.model.at_most(job.model.cheapest, job.model.costs.scale(max(job.samples, 1), job.size))
        if len(self._waiting) >= self._most_waiting:
            return Refusal(True, len(self._waiting), ahead, own)
        # A budget below the cheapest call is answered late, and says so, as without a queue: waiting is not why.
        left = job.due_ms(now) - self.beside.value
        if ahead > 0 and own <= left < ahead + own:
            return Refusal(False, len(self._waiting), ahead, own)
        self._waiting.append(job)
        return None

    def withdraw(self, job: Job) -> bool:
        """Whoever asked has gone; whether it still waited."""
        if job not in self._waiting:
            return False
        self._waiting.remove(job)
        return True

    def batch_full(self) -> bool:
        """Whether the oldest request has as many beside it as may share its call."""
        return bool(self._waiting) and not self._room(self._together(self._waiting[0]))

    def take(self, now: float) -> Batch | None:
        """The next batch, with its work chosen; None where nobody waits or one runs.

        Args:
            now: Seconds.
        """
        if not self._waiting or self._running is not None:
            return None
        head = self._waiting[0]
        jobs = self._together(head)
        model, target = head.model, head.target
        if target is not None:
            while len(jobs) > 1 and not self._in_time(jobs, now):
                jobs.pop()
        samples = sum(job.samples for job in jobs)
        scale = model.costs.scale(max(samples, 1), head.size)
        chosen = set(map(id, jobs))
        self._waiting = [job for job in self._waiting if id(job) not in chosen]
        controller = model.controller
        if target is None or controller is None:
            batch = Batch(jobs, samples, scale, now, None, model.milliseconds(head.share, scale), math.inf)
        else:
            allowed = self._allowed(jobs, samples, scale, now)
            controller.target = max(allowed, _SHORTEST_MS)
            choice = controller.choose(now, scale)
            model.latest = choice.fraction
            batch = Batch(jobs, samples, scale, now, choice, choice.expected, allowed)
        self._running = batch
        return batch

    def end(self, batch: Batch, now: float, asked: float, done: float, measured_ms: float) -> None:
        """A batch was answered.

        Args:
            batch: It.
            now: Seconds.
            asked: The share of work that its operating point was expected to take.
            done: The share that was done.
            measured_ms: That the call took.
        """
        self._running = None
        head, choice = batch.jobs[0], batch.choice
        model = head.model
        controller, curve = model.controller, model.curve
        if controller is None or curve is None or not done > 0:
            return
        if choice is None:
            return
        # Where nothing is interpolated, or more work is no better, less runs than was asked for: no easier input.
        expected = choice.expected * curve.at(asked) / curve.at(choice.fraction)
        choice = choice._replace(fraction=asked, expected=expected)
        if model.costs.learn(batch.samples, head.size, batch.scale * measured_ms / expected):
            controller.passed(now, choice)
        else:
            controller.target = max(batch.allowed_ms, _SHORTEST_MS)
            controller.observe(now, choice, done, measured_ms, batch.scale)

    def fail(self, batch: Batch) -> None:
        """A batch's call failed: nothing is learned."""
        if self._running is batch:
            self._running = None

    def _together(self, head: Job) -> list[Job]:
        jobs, samples = [head], head.samples
        if head.key is None:
            return jobs
        for job in self._waiting[1:]:
            if job.key == head.key and job.model is head.model and samples + job.samples <= self._most_samples:
                jobs.append(job)
                samples += job.samples
        return jobs

    def _room(self, jobs: list[Job]) -> bool:
        return jobs[0].key is not None and sum(job.samples for job in jobs) < self._most_samples

    def _in_time(self, jobs: list[Job], now: float) -> bool:
        """Whether a batch's cheapest call ends before the first of its budgets does."""
        model = jobs[0].model
        scale = model.costs.scale(max(sum(job.samples for job in jobs), 1), jobs[0].size)
        left = min(job.due_ms(now) for job in jobs) - self.beside.value
        return model.at_most(model.cheapest, scale) <= left

    def _allowed(self, jobs: list[Job], samples: int, scale: float, now: float) -> float:
        """Milliseconds that a batch may take so that it and those behind it are answered in their budgets."""
        head, beside = jobs[0], self.beside.value
        allowed = min(job.due_ms(now) for job in jobs) - beside
        own = head.model.milliseconds(head.model.latest, scale)
        steered, given = own, 0.0
        for job in self._waiting:
            if job.target is None:
                given += self._part_ms(job, job.model.milliseconds, job.share, samples)
                continue
            steered += self._part_ms(job, job.model.milliseconds, job.model.latest, samples)
            # Where all take the same multiple of what they take now: given + multiple * steered <= what is left.
            left = job.due_ms(now, _PLANNED) - beside - given
            allowed = min(allowed, own * left / steered)
        return allowed

    def _part_ms(self, job: Job, takes: Callable[[float, float], float], share: float, together: int) -> float:
        """What a request takes in a batch of so many samples: its part of that."""
        samples = max(job.samples, 1)
        shared = max(together if job.key is not None else 0, samples)
        return takes(share, job.model.costs.scale(shared, job.size)) * samples / shared

    def _ahead_ms(self, now: float) -> float:
        """Milliseconds that all which is there now takes at most, on the cheapest work."""
        running = self._running
        ahead = 0.0 if running is None else max(running.expected_ms - (now - running.begun) * 1e3, 0.0)
        for job in self._waiting:
            share = job.share if job.target is None else job.model.cheapest
            ahead += self._part_ms(job, job.model.at_most, share, self._most_samples)
        return ahead
