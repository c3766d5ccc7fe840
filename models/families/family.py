"""One way of being adaptive: what ``Network`` asks of it.

A family is its own configuration, a frozen dataclass: where it stands in a network, which knobs it has, which scale its
price has, what it refuses to stand beside. Its modules, their count of work and its training losses are in its file or
beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import nn

from adaptrt.models.staged_network import KnobSpec

if TYPE_CHECKING:
    from adaptrt.models.block import Block
    from adaptrt.models.encoder_config import EncoderConfig
    from adaptrt.models.network import Network


class Family:
    """What every family can be asked; each overrides what it has.

    Attributes:
        name: Key of its configuration in ``config.json``.
        scale: Name of its entry among a network's price scales; empty where it has no price.
        own_price: Knob that its price can be set by where another family comes first; empty: it always follows.
    """

    name: ClassVar[str]
    scale: ClassVar[str] = ""
    own_price: ClassVar[str] = ""

    def check(self, shape: EncoderConfig) -> None:
        """Check that it fits a network's shape and the families beside it, which the shape names.

        Raises:
            ValueError: It does not.
        """

    def price_limits(self, network: Network) -> tuple[float, float] | None:
        """Prices on its own scale at which everything runs, and at which as little as may be does; None: no price."""
        return None

    def number_knobs(self, network: Network) -> list[KnobSpec]:
        """Knobs that say how much is computed as numbers, whatever the input."""
        return []

    def part(self, shape: EncoderConfig, number: int) -> nn.Module | None:
        """Its module at the end of a block; None: none there.

        ``part(tokens, prices)`` gives the tokens that go on and what was decided, and ``part.count(work, tokens)``
        counts one run. ACMs, selections and heads stand elsewhere, where ``Block`` and ``Network`` have their places.
        """
        return None

    def stands_in(self, block: Block) -> bool:
        """Whether any of its modules is in a block, so that a stage with it reads the family's knobs."""
        return self.name in block.parts
