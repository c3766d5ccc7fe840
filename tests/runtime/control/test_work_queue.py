"""The queue's decisions: properties of each, and a simulated server under load. No clock anywhere."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime.control.call_costs import CallCosts
from adaptrt.runtime.control.controller import LatencyController
from adaptrt.runtime.control.response_curve import ResponseCurve
from adaptrt.runtime.control.work_queue import Job, ModelLoad, WorkQueue

CURVE = ResponseCurve((0.3, 1.0), (4.0, 10.0))


def model(batches: dict[int, float] | None = None) -> ModelLoad:
    return ModelLoad(CallCosts(batches or {1: 10.0}), CURVE, LatencyController(100.0, CURVE, noise=0.05))


def test_a_request_alone_may_take_its_whole_budget() -> None:
    queue, load = WorkQueue(10, 1), model()
    assert queue.admit(Job(load, 1, 0.0, target=100.0), 0.0) is None
    batch = queue.take(0.020)
    assert batch is not None and batch.allowed_ms == pytest.approx(80.0)
    assert batch.choice is not None and batch.choice.fraction == 1.0
    assert queue.take(0.021) is None  # one runs


def test_the_work_falls_with_the_queue() -> None:
    shares = []
    for waiting in (1, 4, 8, 18):
        queue, load = WorkQueue(100, 1), model()
        for _ in range(waiting):
            assert queue.admit(Job(load, 1, 0.0, target=150.0), 0.0) is None
        batch = queue.take(0.0)
        assert batch is not None and batch.choice is not None
        shares.append(batch.choice.fraction)
    assert shares[0] == 1.0 and shares == sorted(shares, reverse=True) and shares[-1] == pytest.approx(0.3)


def test_refused_only_where_the_cheapest_is_too_much() -> None:
    queue, load = WorkQueue(100, 1), model()
    taken = 0
    while (refusal := queue.admit(Job(load, 1, 0.0, target=50.0), 0.0)) is None:
        taken += 1
    assert taken == 11  # of 4 ms each, and what they scatter
    assert not refusal.full and refusal.waiting == 11 and 46.0 < refusal.ahead_ms < 50.0


def test_a_budget_below_the_cheapest_call_is_not_refused_for_it() -> None:
    queue, load = WorkQueue(2, 1), model()
    assert queue.admit(Job(load, 1, 0.0, target=1.0), 0.0) is None
    assert queue.admit(Job(load, 1, 0.0, target=1.0), 0.0) is None
    refusal = queue.admit(Job(load, 1, 0.0, target=1.0), 0.0)
    assert refusal is not None and refusal.full
    batch = queue.take(0.0)
    assert batch is not None and batch.choice is not None and not batch.choice.reachable


def test_given_work_is_not_lessened_but_counted() -> None:
    queue, load = WorkQueue(100, 1), model()
    for _ in range(9):
        assert queue.admit(Job(load, 1, 0.0), 0.0) is None  # everything
    assert queue.admit(Job(load, 1, 0.0, target=50.0), 0.0) is not None
    batch = queue.take(0.0)
    assert batch is not None and batch.choice is None and batch.expected_ms == pytest.approx(10.0)


def test_requests_with_equal_keys_share_a_call() -> None:
    queue, load = WorkQueue(100, 4), model({1: 10.0, 4: 20.0})
    jobs = [Job(load, 1, 0.0, key=key, target=200.0) for key in "ababaab"]
    for job in jobs:
        assert queue.admit(job, 0.0) is None
    assert queue.batch_full()
    batch = queue.take(0.0)
    assert batch is not None and batch.jobs == [jobs[0], jobs[2], jobs[4], jobs[5]] and batch.samples == 4
    assert batch.scale == 2.0
    queue.end(batch, 0.02, 1.0, 1.0, 20.0)
    assert not queue.batch_full()
    batch = queue.take(0.02)
    assert batch is not None and batch.jobs == [jobs[1], jobs[3], jobs[6]]


def test_a_batch_stays_within_the_budget_of_the_first_of_its_requests() -> None:
    queue, load = WorkQueue(100, 8), model({1: 10.0, 8: 80.0})
    for _ in range(8):
        assert queue.admit(Job(load, 1, 0.0, key="a", target=36.0), 0.0) is None
    batch = queue.take(0.009)  # 27 ms are left: six of 4 ms, and what they scatter
    assert batch is not None and batch.samples == 6


def test_those_who_left_are_not_run() -> None:
    queue, load = WorkQueue(10, 1), model()
    job = Job(load, 1, 0.0)
    queue.admit(job, 0.0)
    assert queue.withdraw(job) and not queue.withdraw(job)
    assert queue.take(0.0) is None and len(queue) == 0


def test_what_an_answer_takes_beside_its_call_is_taken_from_the_budget() -> None:
    queue, load = WorkQueue(10, 1), model()
    queue.beside.observe(30.0)
    queue.admit(Job(load, 1, 0.0, target=100.0), 0.0)
    batch = queue.take(0.0)
    assert batch is not None and batch.allowed_ms == pytest.approx(70.0)


def test_a_failed_call_leaves_the_queue_going() -> None:
    queue, load = WorkQueue(10, 1), model()
    for _ in range(2):
        queue.admit(Job(load, 1, 0.0, target=100.0), 0.0)
    batch = queue.take(0.0)
    assert batch is not None
    queue.fail(batch)
    assert queue.take(0.0) is not None


@given(
    st.lists(st.tuples(st.floats(0, 0.1), st.one_of(st.none(), st.floats(1, 500)), st.integers(0, 9)), max_size=30),
    st.integers(1, 8),
    st.integers(1, 40),
)
def test_every_request_is_refused_or_run_once(
    requests: list[tuple[float, float | None, int]], most_samples: int, most_waiting: int
) -> None:
    queue, load, now, ran, taken = WorkQueue(most_waiting, most_samples), model({1: 10.0, 8: 50.0}), 0.0, [], 0
    for wait, target, samples in requests:
        now += wait
        taken += queue.admit(Job(load, samples, now, key=target, target=target), now) is None
        assert len(queue) <= most_waiting
    while (batch := queue.take(now)) is not None:
        now += batch.expected_ms / 1e3
        ran += batch.jobs
        assert len(batch.jobs) == 1 or batch.samples <= most_samples
        assert batch.choice is None or 0.3 <= batch.choice.fraction <= 1.0
        queue.end(batch, now, 0.5, 0.5, batch.expected_ms)
    assert len(ran) == taken == len(set(map(id, ran)))


@dataclass
class Simulated:
    """What a server made of a load.

    Attributes:
        latencies: Milliseconds, with when the request came.
        shares: Of the work, of every answer.
        refused: Requests.
    """

    latencies: list[tuple[float, float]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    refused: int = 0

    def share_of_windows_in_time(self, target: float, seconds: float = 1.0) -> float:
        windows: dict[int, list[float]] = {}
        for came, latency in self.latencies:
            windows.setdefault(int(came / seconds), []).append(latency)
        kept = [sorted(all_)[math.ceil(0.95 * len(all_)) - 1] <= target for all_ in windows.values()]
        return sum(kept) / len(kept)


def simulate(
    arrivals: list[float],
    target: float | None,
    *,
    slowdown: dict[float, float] | None = None,
    most_samples: int = 1,
    seed: int = 1,
) -> Simulated:
    """A device whose calls scatter by 5%, now and then by half, and that is slower from given times on."""
    draw, result = random.Random(seed), Simulated()
    load = model({1: 10.0, 4: 30.0})
    queue, free, events = WorkQueue(256, most_samples), True, [(came, 0, None) for came in arrivals]
    heapq.heapify(events)
    order = itertools.count(1)
    while events:
        now, _, ended = heapq.heappop(events)
        if ended is None:
            refused = queue.admit(Job(load, 1, now, key="all", target=target), now)
            result.refused += refused is not None
        else:
            batch, took, share = ended
            queue.end(batch, now, share, share, took)
            free = True
            for job in batch.jobs:
                result.latencies.append((job.arrived, (now - job.arrived) * 1e3))
                result.shares.append(share)
        if free and (batch := queue.take(now)) is not None:
            share = 1.0 if batch.choice is None else batch.choice.fraction
            factor = math.prod(by for since, by in (slowdown or {}).items() if now >= since)
            noise = draw.gauss(1, 0.05) * (1.5 if draw.random() < 0.01 else 1)
            took = CURVE.at(share) * batch.scale * factor * max(noise, 0.5)
            heapq.heappush(events, (now + took / 1e3, next(order), (batch, took, share)))
            free = False
    return result


def poisson(rate: float, seconds: float, seed: int = 7) -> list[float]:
    draw, now, came = random.Random(seed), 0.0, []
    while (now := now + draw.expovariate(rate)) < seconds:
        came.append(now)
    return came


def test_at_twice_the_capacity_of_full_work_nothing_is_lost_and_the_budget_holds() -> None:
    load = poisson(200.0, 40.0)  # everything running: 100 a second; the cheapest: 250
    held = simulate(load, 100.0)
    assert held.refused == 0 and len(held.latencies) == len(load)
    assert held.share_of_windows_in_time(100.0) >= 0.95
    assert 0.4 < sum(held.shares) / len(held.shares) < 0.5  # what 200 a second leave: 5 ms each
    full = simulate(load, None)
    assert full.refused > 0.4 * len(load) and full.share_of_windows_in_time(100.0) < 0.1


def test_a_light_load_runs_everything() -> None:
    held = simulate(poisson(20.0, 30.0), 100.0)
    assert held.refused == 0 and min(held.shares[20:]) > 0.9


def test_bursts_are_answered_with_less_work() -> None:
    """Twenty at once, every half second."""
    load = [burst * 0.5 + number * 1e-4 for burst in range(40) for number in range(20)]
    held = simulate(load, 150.0)
    assert held.refused == 0 and held.share_of_windows_in_time(150.0) >= 0.95


def test_a_device_that_turns_slower_is_followed() -> None:
    held = simulate(poisson(100.0, 60.0), 120.0, slowdown={20.0: 1.6, 40.0: 1 / 1.6})
    assert held.refused == 0 and held.share_of_windows_in_time(120.0) >= 0.95


def test_more_than_the_cheapest_can_is_refused_at_once_and_the_rest_is_in_time() -> None:
    load = poisson(400.0, 30.0)
    held = simulate(load, 100.0)
    assert 0.3 < held.refused / len(load) < 0.5  # 150 of 400 are too many
    assert held.share_of_windows_in_time(100.0) >= 0.9


def test_batches_take_more_than_single_calls_can() -> None:
    load = poisson(260.0, 30.0)  # one by one the cheapest answers 250 a second, in batches of four 333
    held = simulate(load, 120.0, most_samples=4)
    assert held.refused <= 0.01 * len(load) and held.share_of_windows_in_time(120.0) >= 0.95
