"""What can go wrong when a bundle is loaded or run, grouped by who can mend it.

Every message is one line: what was got, what was expected, what to do.
"""

from adaptrt import AdaptrtError

_LONGEST_DETAIL = 300


class BundleError(AdaptrtError):
    """The exported folder is missing, damaged, from another version, or reaches outside itself."""


class InputError(AdaptrtError):
    """An array or knob value handed to ``run`` is not what the bundle declares."""


class BudgetError(AdaptrtError):
    """A budget makes no sense, or the bundle cannot obey it (it was never calibrated)."""


class BackendError(AdaptrtError):
    """The engine that executes the graph is missing, refuses the graph, or failed while running it."""


class OutputError(BackendError):
    """The engine answered with something of another size or type than the bundle declares."""


class NotShareable(AdaptrtError, TypeError):  # noqa: N818 - what it is, not that it went wrong
    """A loaded model was to be pickled or copied, which engines cannot be."""


class TelemetryError(AdaptrtError):
    """Sensors were asked for in a way that makes no sense, or a package that serves them is missing."""


def one_line(error: BaseException) -> str:
    """The text of another library's exception on one line, cut where it grows long."""
    return _cut(str(error)) or type(error).__name__


def shown(value: object) -> str:
    """A caller's value as a message can show it: on one line, cut where it grows long."""
    return _cut(repr(value))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_DETAIL else f"{line[:_LONGEST_DETAIL]}…"
