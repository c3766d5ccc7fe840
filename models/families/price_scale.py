"""From the common price to a family's own: what makes one price steer families without a common unit.

The common price is in units of loss per share of the dense model's work. Calibration measures what each
family's work buys along its own price, and stores the monotone map here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PriceScale(nn.Module):
    """A piecewise-linear, non-decreasing function of the price.

    Args:
        prices: Common prices at the knots, ascending from 0.
        values: The family's price at each, non-decreasing; beyond the last knot the last value holds.

    Raises:
        ValueError: Fewer than two knots, or they do not ascend.
    """

    def __init__(self, prices: Sequence[float], values: Sequence[float]) -> None:
        super().__init__()
        if len(prices) != len(values) or len(prices) < 2 or prices[0] != 0:
            raise ValueError(f"got {len(prices)} prices and {len(values)} values, expected as many, from price 0 on")
        knots, family_prices = torch.tensor(prices, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
        if not (torch.diff(knots) > 0).all() or not (torch.diff(family_prices) >= 0).all():
            raise ValueError("got knots that do not ascend, expected rising prices and values that never fall")
        self.prices, self.values = tuple(map(float, prices)), tuple(map(float, values))
        self.maximum, self.first, self.last = float(prices[-1]), float(values[0]), float(values[-1])
        self.register_buffer("starts", knots[:-1].float(), persistent=False)
        self.register_buffer("widths", torch.diff(knots).float(), persistent=False)
        # Rounded up a little, and cut off at the last value: the last knot must reach it.
        slopes = torch.diff(family_prices) / torch.diff(knots) * (1 + 1e-6)
        self.register_buffer("slopes", slopes.float(), persistent=False)
        self.starts: Tensor
        self.widths: Tensor
        self.slopes: Tensor

    def forward(self, price: Tensor) -> Tensor:
        """float32 ``[1] -> [1]``."""
        along = torch.minimum((price - self.starts).clamp(min=0.0), self.widths)
        value = (along * self.slopes).sum(0, keepdim=True) + self.first
        return value.clamp(max=self.last)
