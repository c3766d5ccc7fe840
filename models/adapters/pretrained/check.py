"""Is the network the checkpoint? Its hidden states and outputs against transformers' own forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptrt.models.adapters.pretrained.observed import Observed
from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.block import Prices

if TYPE_CHECKING:
    from adaptrt.models.network import Network

TOLERANCE = 2e-5
"""Largest difference, relative to the largest value. A wrong epsilon of MiniLM's gives 9e-5."""


@dataclass(frozen=True)
class Difference:
    """How far a network is from the checkpoint.

    Attributes:
        hidden: Of the tokens after each block, relative to their largest value.
        outputs: Of the task's outputs, by name.
    """

    hidden: tuple[float, ...]
    outputs: Mapping[str, float]

    @property
    def largest(self) -> float:
        """The worst of all; not a number where any is not."""
        return float(torch.tensor([*self.hidden, *self.outputs.values()]).max())


@torch.no_grad()
def compare(
    network: Network, inputs: Mapping[str, Tensor], observed: Observed, wanted: Mapping[str, Tensor]
) -> Difference:
    """Run a dense network on what transformers ran on.

    Args:
        network: In evaluation mode.
        inputs: By name.
        observed: transformers' run on the same.
        wanted: Outputs of that run, by the task's names.
    """
    tokens = network.embed_inputs(dict(inputs))
    hidden = []
    for block, call in zip(network.blocks, observed.calls, strict=True):
        tokens, _ = block(tokens, Prices())
        hidden.append(relative(tokens.grouped(), call.hidden, tokens.valid))
    given = network.run(dict(inputs), {}).outputs
    outputs = {
        name: relative(given[name], value, tokens.valid if network.task.per_token else None)
        for name, value in wanted.items()
    }
    return Difference(tuple(hidden), outputs)


def require_same(difference: Difference, name: str) -> None:
    """Refuse a network that computes something else.

    Raises:
        PretrainedError: It does.
    """
    if difference.largest <= TOLERANCE:
        return
    where = next((str(place) for place, error in enumerate(difference.hidden) if not error <= TOLERANCE), None)
    where = f"after layer {where}" if where is not None else f"in {', '.join(difference.outputs)}"
    raise PretrainedError(
        f"{name} computes something that its layers' names do not say: values {where} differ from transformers' own "
        f"by {difference.largest:.1e} of the largest, expected at most {TOLERANCE:.0e}; use a model of a family that "
        "is covered"
    )


def relative(given: Tensor, wanted: Tensor, valid: Tensor | None = None) -> float:
    """Largest difference relative to the largest value; ``valid`` ``[B, K]`` says which tokens are compared."""
    if given.shape != wanted.shape:
        return float("inf")
    if valid is not None:
        given, wanted = given[valid], wanted[valid]
    return float((given - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
