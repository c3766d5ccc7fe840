"""What a request asks for, whichever protocol it came by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.budget_text import budget_forms, parse_budget
from adaptrt.runtime.errors import BudgetError, shown
from adaptrt.runtime.result import Result
from adaptrt.runtime.serving.errors import RequestError
from adaptrt.runtime.table import either

Array = np.ndarray[Any, Any]

BUDGET, HARD, DEADLINE = "budget", "hard", "deadline_ms"
_KNOWN = (BUDGET, HARD, DEADLINE)
_LONGEST_TEXT = 64


@dataclass(frozen=True)
class Asked:
    """A request that makes sense.

    Attributes:
        inputs: arrays by name.
        budget: of this request; None takes the server's.
        written: the budget as it was written; None without one.
        deadline_ms: milliseconds from its arrival; None without one.
    """

    inputs: dict[str, Array]
    budget: Budget | None = None
    written: str | None = None
    deadline_ms: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a request is answered with.

    Attributes:
        outputs: arrays by name.
        parameters: numbers, texts and truth values.
    """

    outputs: dict[str, Array]
    parameters: dict[str, bool | int | float | str]


def asked(inputs: Mapping[str, Array], parameters: Mapping[str, object], ignored: Sequence[str] = ()) -> Asked:
    """A request from its arrays and its parameters.

    Args:
        inputs: arrays by name.
        parameters: of the request.
        ignored: names of parameters that the protocol itself uses.

    Raises:
        RequestError: a parameter is unknown or of another type.
        BudgetError: the budget is none.
    """
    for name in parameters:
        if name not in _KNOWN and name not in ignored:
            raise RequestError(f"got parameter {shown(name)}, expected {either(_KNOWN)}; leave it out")
    budget = parameters.get(BUDGET)
    if BUDGET in parameters and (not isinstance(budget, str) or len(budget) > _LONGEST_TEXT):
        raise BudgetError(
            f"got {BUDGET} {shown(budget)[:_LONGEST_TEXT]}, expected a text: {budget_forms()}; write it so"
        )
    deadline = parameters.get(DEADLINE)
    hard = parameters.get(HARD, False)
    if not isinstance(hard, bool) or (hard and budget is None):
        raise BudgetError(
            f"got {HARD} {shown(hard)[:_LONGEST_TEXT]}, expected true or false beside a budget; give both"
        )
    return Asked(
        dict(inputs),
        None if budget is None else replace(parse_budget(str(budget)), hard=hard),
        None if budget is None else str(budget).strip(),
        None if DEADLINE not in parameters else _milliseconds(deadline),
    )


def _milliseconds(value: object) -> float:
    """A deadline as a number, or as a text for protocols whose parameters are no fractions."""
    number = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not 0 < number < math.inf:
        raise BudgetError(
            f"got {DEADLINE} {shown(value)[:_LONGEST_TEXT]}, expected milliseconds above 0 and finite, such as 5"
        )
    return number


def parameters_of(
    result: Result, rows: slice, written: str | None, queue_ms: float, together: int
) -> dict[str, bool | int | float | str]:
    """What an answer says beside its outputs.

    Args:
        result: of the call.
        rows: of it that are this request's.
        written: the budget as the request wrote it.
        queue_ms: that it waited.
        together: samples of the call.
    """
    work = result.macs_fraction[rows]
    parameters: dict[str, bool | int | float | str] = {
        "knobs": msgspec.json.encode(result.knobs).decode(),
        "reachable": result.reachable,
        "latency_ms": round(result.latency_ms, 4),
        "queue_ms": round(queue_ms, 4),
        "batch": together,
    }
    if work.size:
        parameters["macs_fraction"] = float(np.mean(work))
    if result.exit is not None:
        parameters["exit"] = ",".join(map(str, result.exit[rows].tolist()))
    if written is not None:
        parameters[BUDGET] = written
    if result.deadline_met is not None:
        parameters["deadline_met"] = result.deadline_met
    if result.message is not None:
        parameters["message"] = result.message
    return parameters
