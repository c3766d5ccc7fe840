"""The losses of an adaptation by phase, of one that is finished and of one at work: from its log or its checkpoints."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from adaptrt import AdaptrtError

SETTINGS_FILE, LOG_FILE, JOINT_FILE = "settings.json", "losses.json", "joint.pt"
"""In the folder that an adaptation works in; the log comes at its end, and is copied to the network."""
ADAPTED_FILE = "adapted.json"
"""In the folder of a network that was adapted."""
JOINT = Path(JOINT_FILE).stem
_LAYERS = re.compile(r"(distil|gate)(\d+)")
_MOST_BYTES = 100_000_000


class LossLogError(AdaptrtError):
    """Losses that are not there or cannot be read."""


@dataclass(frozen=True)
class PhaseLosses:
    """The losses of one phase.

    Attributes:
        phase: Its name: ``distil0``, ``gate0`` and so on by layer, ``joint``.
        done: Steps that it has done; of a log the last one in it.
        steps: That it is to do; None: a log does not say.
        step: Numbers of steps, ascending.
        loss: The mean over about the hundred steps up to each.
    """

    phase: str
    done: int
    steps: int | None
    step: list[int]
    loss: list[float]

    @property
    def kind(self) -> str:
        """What it does: ``distil``, ``gate``, ``joint``."""
        found = _LAYERS.fullmatch(self.phase)
        return self.phase if found is None else found[1]

    @property
    def layer(self) -> int | None:
        """The number of the block that it trains; None: all of the network."""
        found = _LAYERS.fullmatch(self.phase)
        return None if found is None else int(found[2])


def is_adaptation(folder: Path) -> bool:
    """Whether ``adaptrt adapt`` works or worked in a folder, or wrote it."""
    return any((folder / name).is_file() for name in (LOG_FILE, SETTINGS_FILE, ADAPTED_FILE))


def read_losses(folder: Path) -> list[PhaseLosses]:
    """Every phase's losses, layers in order, the joint phase last; those that have not begun are not there.

    Args:
        folder: Of the network, or the work folder of a training, which may be going on.

    Raises:
        LossLogError: There are none, or they are damaged.
    """
    log = folder / LOG_FILE
    if log.is_file():
        return _in_order(_of_log(log))
    found = [path for path in sorted(folder.glob("*.pt")) if path.stem == JOINT or _LAYERS.fullmatch(path.stem)]
    if not found:
        raise LossLogError(
            f"got {folder} with neither {LOG_FILE} nor checkpoints, expected one of them; the first checkpoint comes "
            "after a minute of training"
        )
    return _in_order([_of_checkpoint(path) for path in found])


def _of_log(path: Path) -> list[PhaseLosses]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        content = json.loads(path.read_text())
        return [_checked(name, None, None, pairs) for name, pairs in content.items()]
    except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise _damaged(path, error) from error


def _of_checkpoint(path: Path) -> PhaseLosses:
    import torch  # a log, and what is no adaptation at all, needs none

    try:
        # Mapped: only the losses are read, not the weights.
        state = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
        return _checked(path.stem, int(state["done"]), int(state["steps"]), state["losses"])
    except Exception as error:
        raise _damaged(path, error) from error


def _checked(name: str, done: int | None, steps: int | None, pairs: list[tuple[int, float]]) -> PhaseLosses:
    step, loss = [int(number) for number, _ in pairs], [float(value) for _, value in pairs]
    if step != sorted(set(step)) or any(number < 1 for number in step) or not all(map(math.isfinite, loss)):
        raise ValueError(f"of {name} expected steps that ascend, each with a number")
    last = step[-1] if step else 0
    return PhaseLosses(name, last if done is None else done, steps, step, loss)


def _damaged(path: Path, error: Exception) -> LossLogError:
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    return LossLogError(
        f"cannot read the losses in {path} ({cause}), expected what adaptrt adapt writes; copy it again, or adapt anew"
    )


def _in_order(phases: list[PhaseLosses]) -> list[PhaseLosses]:
    kinds = {"distil": 0, "gate": 1}
    return sorted(phases, key=lambda phase: (kinds.get(phase.kind, 2), phase.layer or 0, phase.phase))
