"""What a request can meet with, and what each protocol calls it."""

from __future__ import annotations

from dataclasses import dataclass

from adaptrt import AdaptrtError
from adaptrt.runtime.errors import BudgetError, InputError
from adaptrt.runtime.table import Table


class ServingError(AdaptrtError):
    """A server cannot start as it is told to."""


class RequestError(AdaptrtError):
    """A request that is not what the protocol or the model takes."""


class UnknownModel(RequestError):  # noqa: N818 - what it is
    """A request to a model that is not served."""


class TooLarge(RequestError):  # noqa: N818 - what it is
    """A request of more bytes than the server takes."""


class QueueFull(AdaptrtError):  # noqa: N818 - what it is, not that it went wrong
    """As many requests wait as may."""


class BudgetLost(AdaptrtError):  # noqa: N818 - what it is, not that it went wrong
    """Even the cheapest work for all that wait would end after the request's budget."""


class Stopping(AdaptrtError):  # noqa: N818 - what it is, not that it went wrong
    """The server is about to end."""


@dataclass(frozen=True)
class Outcome:
    """How a request ended.

    Attributes:
        name: in the metrics.
        errors: that end a request so.
        status: of HTTP.
        code: of gRPC, by its name.
        retry: whether the same request may be answered later.
    """

    name: str
    errors: tuple[type[Exception], ...]
    status: int
    code: str
    retry: bool = False


OUTCOMES = Table(
    "outcome",
    (
        Outcome("answered", (), 200, "OK"),
        Outcome("unknown_model", (UnknownModel,), 404, "NOT_FOUND"),
        Outcome("too_large", (TooLarge,), 413, "RESOURCE_EXHAUSTED"),
        Outcome("wrong", (RequestError, InputError, BudgetError), 400, "INVALID_ARGUMENT"),
        Outcome("queue_full", (QueueFull,), 429, "RESOURCE_EXHAUSTED", retry=True),
        Outcome("budget_lost", (BudgetLost,), 503, "RESOURCE_EXHAUSTED", retry=True),
        Outcome("stopping", (Stopping,), 503, "UNAVAILABLE", retry=True),
        Outcome("left", (), 499, "CANCELLED"),
        Outcome("failed", (Exception,), 500, "INTERNAL"),
    ),
)
"""All outcomes; an error is the first that names its class."""

FAILED = "got an error of the engine for this request, expected an answer; the server's log says which"


def outcome_of(error: Exception) -> Outcome:
    """The outcome that an error is."""
    return next(outcome for outcome in OUTCOMES.values() if isinstance(error, outcome.errors))


def text_of(error: Exception) -> str:
    """What the client is told: nothing of the inside of the server."""
    return FAILED if outcome_of(error) is OUTCOMES["failed"] else " ".join(str(error).split())
