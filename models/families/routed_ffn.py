"""Duo-LLM (arXiv 2410.10846): each token goes through a big feed-forward network, a small one, or past both.

A linear router scores the three routes, a price is taken off by what each costs, and the largest score wins. Routing
differs from a number of learners in that the small network is no part of the big one, so that neither has to be good as
a beginning of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from adaptrt.models.families.acm import AdaptiveFFN, per_token, presence_of
from adaptrt.models.families.family import Family
from adaptrt.models.families.gate import ArgmaxGate, Decision
from adaptrt.models.macs import Layer
from adaptrt.models.symbolic.call_record import current_record
from adaptrt.models.symbolic.conditional_mlp import ConditionalGLU, ConditionalMLP
from adaptrt.models.tokens import Tokens
from adaptrt.models.work import WorkCount

if TYPE_CHECKING:
    from adaptrt.models.block import Block, DenseFFN
    from adaptrt.models.encoder_config import EncoderConfig
    from adaptrt.models.network import Network

SKIP, SMALL, BIG = 0, 1, 2
"""Routes, as decisions number them."""


@dataclass(frozen=True)
class RoutedFFNConfig(Family):
    """Feed-forward networks with three routes.

    Attributes:
        small: Hidden units of the small network, as a share of the big one's; 1/16 in the paper.
    """

    name: ClassVar[str] = "routed_ffn"
    scale: ClassVar[str] = "routes"
    own_price: ClassVar[str] = "route_price"

    small: float = 0.125

    def __post_init__(self) -> None:
        if not isinstance(self.small, float) or not 0 < self.small < 1:
            raise ValueError(f"got a small network of {self.small!r} of the big one, expected a share between 0 and 1")

    def check(self, shape: EncoderConfig) -> None:
        """Check what it stands beside.

        Raises:
            ValueError: ACMs, which replace the same layers, selections or hard budgets; or no unit is left.
        """
        for other, reason in (
            (shape.acm, "ACMs, which replace the same layers"),
            (shape.pruning, "token selections, which would have a price of another scale"),
            (shape.hard_budgets or None, "hard budgets: routes have no order that a number could follow"),
        ):
            if other is not None:
                raise ValueError(f"got routed FFNs beside {reason}; leave one out")
        if self.units(shape) < 1:
            raise ValueError(f"got a small network of {self.small:g} of {shape.ffn_width} units, expected at least 1")

    def units(self, shape: EncoderConfig) -> int:
        """Hidden units of the small network."""
        return round(self.small * shape.ffn_width)

    def price_limits(self, network: Network) -> tuple[float, float] | None:
        """0: everything goes through the big network; 1: everything skips."""
        del network
        return 0.0, 1.0

    def stands_in(self, block: Block) -> bool:
        """Wherever a block has gates."""
        return bool(block.gates())


class Router(ArgmaxGate):
    """Scores of the three routes from a linear map, the price taken off by what each route costs.

    ``k = argmax_r (s_r - lambda * cost_r)`` with costs 0, the small network's share, and 1, scores within ±BOUND and
    ``lambda`` the logit of the price, stretched so that a price of 0 sends everything to the big network and one of 1
    nothing anywhere, whatever the scores are. Ties go to the cheaper route.

    Args:
        width: Width D of the tokens.
        small: What the small network costs, as a share of the big one's work.
    """

    BOUND = 4.0
    NEAREST = 1e-6  # prices nearer to 0 or 1 count as this near

    def __init__(self, width: int, small: float) -> None:
        nn.Module.__init__(self)
        self.learners, self.cost, self.at_least = 2, 1.0, 0
        self.score = nn.Linear(width, 3)
        costs = torch.tensor([0.0, small, 1.0])
        self.register_buffer("costs", costs, persistent=False)
        self.register_buffer("counts", torch.arange(3.0), persistent=False)
        self.costs: Tensor
        far = float(torch.logit(torch.tensor(1 - self.NEAREST, dtype=torch.float64)))
        self.stretch = 2.2 * self.BOUND / (far * min(small, 1 - small))
        with torch.no_grad():  # prices about 0.3 and 0.7 divide the routes, so that each is taken at some price
            nn.init.normal_(self.score.weight, std=0.02)
            middle = self.stretch * torch.logit(torch.tensor(0.7))
            self.score.bias.copy_(torch.stack([-middle * small, torch.zeros(()), -middle * (1 - small)]))

    @property
    def price_limits(self) -> tuple[float, float]:
        """Prices at which the big network does everything, and at which nothing runs."""
        return 0.0, 1.0

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates of the router for one token."""
        return 3 * self.score.in_features

    def logits(self, x: Tensor) -> Tensor:
        """Scores ``[T, D] -> [T, 3]``, within ±BOUND."""
        return self.BOUND * torch.tanh(self.score(x) / self.BOUND)

    def paid(self, price: Tensor) -> Tensor:
        """``lambda`` times each route's cost."""
        near = price.clamp(self.NEAREST, 1 - self.NEAREST)
        return self.stretch * (near.log() - (1 - near).log()) * self.costs

    def forward(
        self,
        x: Tensor,
        price: Tensor,
        valid: Tensor | None = None,
        capacity: Tensor | None = None,
        per_sample: int = 1,
    ) -> Decision:
        """Choose a route for every token; in training always in float32. See ``ArgmaxGate.forward``."""
        if not self.training:
            return super().forward(x, price, valid, capacity, per_sample)
        with torch.autocast(x.device.type, enabled=False):
            decision = super().forward(x.float(), price, valid, capacity, per_sample)
        return decision._replace(costs=torch.diff(self.costs))


class RoutedFFN(AdaptiveFFN):
    """Two conditional networks of one learner each, and the router between them.

    ``k`` of its decisions is the route: 0 past both, 1 the small network, 2 the big one.
    """

    own_price = RoutedFFNConfig.own_price

    def __init__(self, config: RoutedFFNConfig, shape: EncoderConfig) -> None:
        nn.Module.__init__(self)
        kind = ConditionalGLU if shape.gated else ConditionalMLP
        width, units = shape.width, config.units(shape)
        self.big: ConditionalMLP | ConditionalGLU = kind(1, width, shape.ffn_width, width, shape.activation)
        self.small: ConditionalMLP | ConditionalGLU = kind(1, width, units, width, shape.activation)
        self.small.b2.requires_grad_(False).zero_()  # the big one's is added on every route
        self.gate = Router(width, units / shape.ffn_width)

    def layer(self, name: str, tokens: int, dense: int) -> Layer:
        """Count this layer for ``tokens`` tokens; a run is one of the big network."""
        return Layer(name, dense, self.gate.macs_per_token * tokens, self.big.macs_per_run)

    def count(self, work: WorkCount, tokens: Tokens, decision: Decision) -> None:
        """Count one run."""
        work.tokens(tokens, per_token=self.gate.macs_per_token)
        work.learners(tokens, (decision.k == SMALL).to(torch.int32), self.small.macs_per_run)
        work.learners(tokens, (decision.k == BIG).to(torch.int32), self.big.macs_per_run)

    @torch.no_grad()
    def take_over(self, source: DenseFFN, x: Tensor) -> None:
        """Make the big network the dense one, and the small one its units that contribute most for ``x`` ``[T, D]``."""
        source.split_into(self.big, x)
        units, weights = self.small.hidden, dict(self.small.named_parameters())
        for name, weight in self.big.named_parameters():
            if name == "w2":
                weights[name].copy_(weight[:, :units])
            elif name != "b2":
                weights[name].copy_(weight[..., :units])

    def forward(
        self, x: Tensor, price: Tensor, tokens: Tokens, capacity: Tensor | None = None
    ) -> tuple[Tensor, Decision]:
        """``[T, D]`` and the price -> ``[T, D]`` and the routes; see ``AdaptiveFFN.forward``."""
        decision: Decision = self.gate(x, per_token(price, tokens), tokens.valid, capacity)
        if self.training:
            small, big = decision.mask[:, :1] - decision.mask[:, 1:], decision.mask[:, 1:]
            y = self.big.masked(x, big) + self.small.masked(x, small)
            return y, decision._replace(present=presence_of(tokens))
        record = current_record()
        if record is not None and record.dense:  # of a user's own: there the big network does everything
            return self.big(x, decision.k), decision
        big = self.big(x, (decision.k == BIG).to(torch.int32))
        return big + self.small(x, (decision.k == SMALL).to(torch.int32)), decision
