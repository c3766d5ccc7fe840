"""A user's own network whose work depends on its input: three methods say what it is, export derives the rest."""

from adaptrt.models.own.adaptive import Adaptive, Judge, Knob, Leave, Named
from adaptrt.models.own.taking import Taken, take

__all__ = ["Adaptive", "Judge", "Knob", "Leave", "Named", "Taken", "take"]
