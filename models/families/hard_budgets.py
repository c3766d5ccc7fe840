"""Exact numbers of learners and tokens, the same for every input: knobs beside the price, without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptrt.models.families.family import Family

if TYPE_CHECKING:
    from adaptrt.models.encoder_config import EncoderConfig


@dataclass(frozen=True)
class HardBudgets(Family):
    """Gates and selections can also be told how much runs; which knobs that gives, their families say."""

    name: ClassVar[str] = "hard_budgets"

    def check(self, shape: EncoderConfig) -> None:
        """Refuse gates that cannot be told.

        Raises:
            ValueError: Argmax gates, or gates of projections.
        """
        acm = shape.acm
        if acm is not None and (acm.gate != "price" or acm.projections):
            raise ValueError("got hard budgets with an argmax gate or projections, expected price gates in FFNs")
