"""What a user says of a network of their own: what it takes, its stages, and where a sample may leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

Named = dict[str, Tensor]
"""Tensors by name; the first axis of each is the samples."""

Arrays = Mapping[str, npt.NDArray[Any]]
Judge = Callable[[Arrays, Arrays], tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]]
"""``judge(outputs, targets)`` gives quality (higher is better) and loss (lower is better) of each sample, ``[n]`` each.

Outputs are the network's, by name; targets are the data's: ``labels`` ``[n, ...]``.
"""


class Knob(NamedTuple):
    """A number of the network's own that changes how much is computed.

    Attributes:
        name: By which ``stage`` gets it.
        full: Its value where everything runs.
        least: Its value where least runs. Between the two less runs the nearer it is to this one.
        size: How many numbers it has, each with that range: one for each layer, say.
        whole: Whether it takes whole numbers only; ``stage`` gets int32 then, else float32.
    """

    name: str
    full: float
    least: float
    size: int = 1
    whole: bool = False


class Leave(NamedTuple):
    """What a sample has that leaves after a stage.

    Attributes:
        outputs: The network's outputs: the same names, dtypes and ranks after every stage, sizes fixed or those of
            the inputs' axes.
        sure: float ``[B]``, on any scale: a sample leaves where it is above the stage's threshold. None after the
            last stage, where it is not read.
    """

    outputs: Named
    sure: Tensor | None = None


class Adaptive(nn.Module):
    """A network of the user's own. Derive from it, write ``example``, ``stage`` and ``leave``, and export it.

    In evaluation mode a sample's result must not depend on the others in its batch. What ``stage`` and ``leave`` do
    must be traceable: no Python ``if`` on data, no ``.item()``; ``take`` is for what depends on the data in size.

    Attributes:
        axes: Shape of every input: ``"batch"``, then sizes or names of axes, as ``{"points": ("batch", "m", 2)}``.
        padding: For a named axis the input, bool ``[batch, axis]``, that marks what is real. Work is that of the
            real places, of which each sample has at least one.
        stages: How many there are. A sample may leave after each.
        knobs: Numbers that ``stage`` gets and that calibration walks, each entry, from full to least.
        rule: Thresholds of its own, one for each stage but the last: a point ``rule`` of the curve.
        judge: What is good; None: accuracy and cross-entropy of ``outputs["logits"]`` ``[n, classes]``.
    """

    axes: Mapping[str, tuple[int | str, ...]]
    padding: Mapping[str, str] = {}
    stages: int = 1
    knobs: Sequence[Knob] = ()
    rule: Sequence[float] | None = None
    judge: Judge | None = None

    def example(self, batch: int) -> Named:
        """Typical inputs, by name: work is a share of what the dense network does for these.

        Named axes have the sizes that are typical; four times as much is the longest that the bundle takes.
        """
        raise NotImplementedError

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        """Run a stage.

        Args:
            number: Of the stage, from 0.
            state: The inputs for stage 0; then what the stage before gave.
            knobs: Every knob, ``[size]``.

        Returns:
            What ``leave`` and the next stage get. Inputs may be handed on as they are.
        """
        raise NotImplementedError

    def leave(self, number: int, state: Named) -> Leave:
        """What a sample has that leaves after a stage, from what that stage gave."""
        raise NotImplementedError
