"""Recorded traces of the controller: what it was told call after call, and what it chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptrt.runtime.control.controller import Choice, LatencyController
from adaptrt.runtime.control.response_curve import ResponseCurve

CALLS = 500
TOLERANCE = 1e-9
COLUMNS = [
    "choose_now", "scale", "fraction", "expected", "upper", "reachable", "cold", "steered", "observe_now", "done",
    "measured", "set_target_before",
]  # fmt: skip


@dataclass(frozen=True)
class Story:
    """What happens to a device in one trace.

    Attributes:
        kind: name of the trace.
        config: of the controller.
        slowdown: factor of the device against its profile, over the share of the trace that has passed.
        spikes: share of calls that something else holds up.
        pauses: share of calls before which the app waits.
        lost: share of calls whose measurement is lost.
        batches: factors of batch sizes that calls come with.
        targets: target by the number of the call that it is set before.
    """

    kind: str
    config: dict[str, Any]
    slowdown: tuple[tuple[float, float], ...]
    spikes: float = 0.0
    pauses: float = 0.0
    lost: float = 0.0
    batches: tuple[float, ...] = (1.0,)
    targets: Mapping[int, float] | None = None


_CURVE = {"fractions": [0.2, 0.35, 0.5, 0.75, 1.02], "responses": [2.1, 3.0, 4.2, 6.1, 8.3]}
_CONFIG = {"curve": _CURVE, "percentile": 0.95, "noise": 0.05, "cold": [1.7, 1.3, 1.1], "idle_after": 0.25,
           "limits": None}  # fmt: skip
STORIES = [
    Story("drift", {**_CONFIG, "target": 6.0}, ((0.0, 1.0), (0.4, 1.0), (0.8, 1.5), (1.0, 1.2)), lost=0.02),
    Story(
        "steps",
        {**_CONFIG, "target": 5.0, "percentile": 0.9},
        ((0.0, 1.0), (0.3, 1.0), (0.301, 1.6), (0.6, 1.6), (0.601, 0.8), (1.0, 0.8)),
        pauses=0.03,
        targets={250: 4.0, 400: 7.0},
    ),
    Story(
        "spikes",
        {**_CONFIG, "target": 6.5, "percentile": 0.99, "noise": 0.08, "limits": [0.25, 0.9]},
        ((0.0, 1.1), (1.0, 1.1)),
        spikes=0.03,
        batches=(1.0, 3.7),
    ),
    Story(
        "energy",
        {**_CONFIG, "target": 90.0, "percentile": 0.5, "cold": [],
         "curve": {"fractions": [0.3, 0.6, 1.0], "responses": [40.0, 85.0, 160.0]}},
        ((0.0, 0.9), (1.0, 1.3)),
        spikes=0.01,
    ),
]  # fmt: skip


def controller_of(config: Mapping[str, Any]) -> LatencyController:
    """The controller that a trace begins with."""
    curve = ResponseCurve(tuple(config["curve"]["fractions"]), tuple(config["curve"]["responses"]))
    return LatencyController(
        config["target"],
        curve,
        percentile=config["percentile"],
        noise=config["noise"],
        cold=tuple(config["cold"]),
        idle_after=config["idle_after"],
        limits=None if config["limits"] is None else tuple(config["limits"]),
    )


def record(story: Story, seed: int) -> Iterator[Any]:
    """The lines of a trace: a header, then an array for every call."""
    yield {
        "trace": 1, "kind": story.kind, "tolerance": TOLERANCE, "config": story.config, "columns": COLUMNS,
    }  # fmt: skip
    draw, controller = np.random.RandomState(seed), controller_of(story.config)
    curve = ResponseCurve(tuple(story.config["curve"]["fractions"]), tuple(story.config["curve"]["responses"]))
    now, cold = 10.0, 0
    for call in range(CALLS):
        target = (story.targets or {}).get(call)
        if target is not None:
            controller.target = target
        paused = draw.random_sample() < story.pauses
        now += round(0.6 if paused else 0.004 + 0.004 * draw.random_sample(), 6)
        cold = 0 if paused or call == 0 else cold + 1
        scale = story.batches[draw.randint(len(story.batches))]
        begun, choice = now, controller.choose(now, scale)
        done = round(choice.fraction * (0.97 + 0.05 * draw.random_sample()), 6)
        slowdown = float(np.interp(call / CALLS, *zip(*story.slowdown, strict=True)))
        measured = curve.at(done) * slowdown * scale * float(np.exp(draw.normal(0, 0.04)))
        factors = story.config["cold"]
        measured *= factors[cold] if cold < len(factors) else 1.0
        measured *= 8.0 if draw.random_sample() < story.spikes else 1.0
        measured = round(measured, 6)
        lost = draw.random_sample() < story.lost
        now = round(now + 0.003 * scale, 6)
        if lost:
            controller.passed(now, choice)
        else:
            controller.observe(now, choice, done, measured, scale)
        yield [begun, scale, *choice, now, done, None if lost else measured, target]


def replay(lines: list[Any]) -> tuple[float, int]:
    """Largest relative difference of a trace's numbers from a controller's, and how many flags differ."""
    header, *calls = lines
    controller, largest, flags = controller_of(header["config"]), 0.0, 0
    for call in calls:
        entry = dict(zip(header["columns"], call, strict=True))
        if entry["set_target_before"] is not None:
            controller.target = entry["set_target_before"]
        choice = controller.choose(entry["choose_now"], entry["scale"])
        wanted = Choice(*(entry[name] for name in Choice._fields))
        for name in ("fraction", "expected", "upper"):
            got, expected = getattr(choice, name), getattr(wanted, name)
            largest = max(largest, abs(got - expected) / max(abs(expected), 1e-9))
        flags += sum(getattr(choice, name) != getattr(wanted, name) for name in ("reachable", "cold", "steered"))
        if entry["measured"] is None:
            controller.passed(entry["observe_now"], choice)
        else:
            controller.observe(entry["observe_now"], choice, entry["done"], entry["measured"], entry["scale"])
    return largest, flags
