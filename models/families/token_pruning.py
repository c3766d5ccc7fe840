"""Dynamic token pruning: which tokens go on, decided from the attention that they receive.

``PriceSelector`` keeps a token where its gain exceeds the price, so that easy inputs keep fewer
(learned threshold per layer and instance, as in ATP-LLaVA, arXiv 2412.00447). ``FixedCountSelector`` is the
rule of EViT (arXiv 2202.07800): a given number of the most attended tokens stay, the others are fused
into one. Merging (ToMe) is in ``token_merging``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.families.family import Family
from adaptrt.models.families.gate import logistic_noise
from adaptrt.models.staged_network import KnobSpec
from adaptrt.models.symbolic.graph_sizes import scalar
from adaptrt.models.symbolic.segment_reduce import segment_reduce
from adaptrt.models.symbolic.select_tokens import select_tokens
from adaptrt.models.tasks import TASKS
from adaptrt.models.tokens import Attention, Dropped, Selection, Tokens

RULES = ("price", "fixed", "merge")
"""``price``: learned, input-adaptive. ``fixed``: EViT. ``merge``: ToMe."""


if TYPE_CHECKING:
    from adaptrt.models.block import Block
    from adaptrt.models.encoder_config import EncoderConfig
    from adaptrt.models.network import Network


@dataclass(frozen=True)
class PruningConfig(Family):
    """Where tokens are selected, and how.

    Attributes:
        blocks: Blocks, from 0 and ascending, between whose attention and FFN tokens are selected.
        rule: One of ``RULES``.
        averages_dropped: Whether dropped tokens still count in the mean that the head reads, as what a learned linear
            map makes of their states: a mean over many tokens then hardly moves where most of them are dropped.
    """

    name: ClassVar[str] = "pruning"
    scale: ClassVar[str] = "tokens"
    own_price: ClassVar[str] = "token_price"

    blocks: tuple[int, ...]
    rule: str = "price"
    averages_dropped: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"got pruning rule {self.rule!r}, expected one of {', '.join(RULES)}")
        if not isinstance(self.blocks, tuple) or not all(type(block) is int for block in self.blocks):
            raise ValueError(f"got pruning in {self.blocks!r}, expected a tuple of whole numbers, such as (1, 3)")
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks)) or self.blocks[0] < 0:
            raise ValueError(f"got pruning in blocks {list(self.blocks)}, expected ascending numbers from 0")

    def check(self, shape: EncoderConfig) -> None:
        """Check where it stands, and beside what.

        Raises:
            ValueError: Behind the last block, beside families that its rule does not go with, or for a task whose
                answer needs every token.
        """
        if self.blocks[-1] >= shape.depth:
            raise ValueError(f"got pruning in block {self.blocks[-1]}, expected 0 to {shape.depth - 1}")
        if self.rule != "price" and (shape.acm or shape.exits):
            raise ValueError(f"got pruning rule {self.rule!r} with ACMs or exits, expected 'price' beside them")
        if self.averages_dropped and (self.rule != "price" or not shape.averages_tokens):
            raise ValueError(
                "got dropped tokens in the mean, expected it of the rule 'price' before a head that reads a mean; set "
                "averages_dropped=False"
            )
        if TASKS[shape.task].per_token:
            raise ValueError(f"got pruning for {shape.task}, expected it left out: every token needs an answer")

    def price_limits(self, network: Network) -> tuple[float, float] | None:
        """0 keeps all; only the rule ``price`` has one."""
        del network
        return (0.0, 1.0) if self.rule == "price" else None

    def number_knobs(self, network: Network) -> list[KnobSpec]:
        """``keep``: tokens that stay after each selection, where budgets may be hard or the rule is a number."""
        if self.rule == "price" and not network.hard_budgets:
            return []
        return [KnobSpec("keep", "int32", (len(self.blocks),), -1, network.tokens, -1)]

    def stands_in(self, block: Block) -> bool:
        """Where a block selects."""
        return block.selector is not None


def counts_at_share(config: PruningConfig, share: float, tokens: int, class_token: bool) -> list[int]:
    """How many tokens stay after each selection that keeps that share of what it gets; the knob ``keep``.

    Args:
        config: Where tokens are selected. Merging keeps at least half of them, whatever the share.
        share: In 0..1.
        tokens: Before the first selection, the class token included.
        class_token: Whether the first token always stays.
    """
    counts = []
    for _ in config.blocks:
        staying = max(1 + int(class_token), round(share * tokens))
        if config.rule == "merge":
            staying = max(staying, tokens - (tokens - int(class_token)) // 2)
        counts.append(staying)
        tokens = staying
    return counts


def received(attention: Attention, tokens: Tokens, class_token: bool) -> Tensor:
    """Attention that each token receives, a mean over heads, ``[B, K]``.

    From the class token where there is one, else from all tokens of the sample.
    """
    if class_token:
        return attention.probabilities[:, :, 0].mean(1)
    from_all = attention.probabilities.mean(1)
    if tokens.presence is not None:
        return (from_all * tokens.presence[:, :, None]).sum(1) / tokens.presence.sum(1, keepdim=True)
    if tokens.valid is None:
        return from_all.mean(1)
    weight = tokens.valid.to(from_all.dtype)[:, :, None]
    return (from_all * weight).sum(1) / weight.sum(1)


class PriceSelector(nn.Module):
    """Keeps the tokens whose gain exceeds the price.

    ``gain_t = sigmoid(slope * log(n * score_t + 0.01) - threshold)``, n the number of tokens and ``threshold``
    learned, with a part that reads the class token: the decision is one threshold on the score, per
    layer and instance, that the price moves. A price of 0 keeps everything; 1 keeps the class token
    (or, without one, the best token) only.
    """

    TEMPERATURE = 0.8
    LEAST_SHARE = 0.01  # of the mean attention: below it all tokens are alike, and gradients stay small
    LIMIT = 16.0  # beyond it the sigmoid of some engines is exactly 0 or 1

    def __init__(self, width: int, class_token: bool, averages_dropped: bool = False) -> None:
        super().__init__()
        self.class_token = class_token
        self.stand_in = nn.Linear(width, width) if averages_dropped else None
        if self.stand_in is not None:
            nn.init.eye_(self.stand_in.weight)
            nn.init.zeros_(self.stand_in.bias)
        self.log_slope = nn.Parameter(torch.tensor(0.7))
        self.threshold = nn.Linear(width, 1)
        nn.init.zeros_(self.threshold.weight)
        nn.init.zeros_(self.threshold.bias)
        self.width = width

    def macs(self, tokens: int, key_width: int) -> int:
        """Multiply-accumulates for one sample of so many tokens: the threshold's, and the map's of those dropped."""
        del tokens, key_width
        return self.width if self.stand_in is None else self.width + self.width**2

    def logits(self, tokens: Tokens, score: Tensor) -> Tensor:
        """Gains on the logit scale, ``[B, K]``, from scores ``[B, K]``."""
        if tokens.presence is not None:
            number = tokens.presence.detach().sum(1, keepdim=True)
        elif tokens.valid is not None:
            number = tokens.counts()[:, None]
        else:
            number = torch.full_like(score[:, :1], float(tokens.per_sample))
        grouped = tokens.grouped()
        sample = grouped[:, 0] if self.class_token else _mean(tokens)
        # A threshold that follows the sample slowly: its gradient sums over all tokens.
        sample = functional.layer_norm(sample, sample.shape[-1:]) * sample.shape[-1] ** -0.5
        relative = torch.log(score * number + self.LEAST_SHARE)
        gains: Tensor = self.log_slope.exp() * relative - self.threshold(sample)
        return gains.clamp(-self.LIMIT, self.LIMIT)

    def forward(
        self,
        tokens: Tokens,
        attention: Attention,
        price: Tensor,
        keep: Tensor | None,
    ) -> tuple[Tokens, Selection]:
        """Select.

        Args:
            tokens: After attention.
            attention: Of this block.
            price: float32 ``[1]``, in training ``[B, 1]``.
            keep: int32 ``[1]``: exactly that many tokens stay, -1 leaves it to the price. None: as -1.
        """
        score = received(attention, tokens, self.class_token)
        if self.training:
            return self._sampled(tokens, score, price)
        gains = torch.sigmoid(self.logits(tokens, score))
        batch, count = gains.shape
        valid = tokens.valid if tokens.valid is not None else torch.ones_like(gains, dtype=torch.bool)
        forced = torch.zeros_like(valid)
        if self.class_token:
            forced = (torch.arange(count, device=gains.device) == 0)[None] & valid
        least, most = keep_limits(keep, count)
        threshold = price.expand(batch)
        # The class token always stays: without a number to keep, the price alone decides.
        limits = "none" if self.class_token and keep is None else "any"
        chosen = select_tokens(tokens.grouped(), gains, valid, forced, threshold, least, most, limits=limits)
        selected = _after(tokens, chosen.y, chosen.index, chosen.count)
        if self.stand_in is not None:
            there = tokens.grouped() * valid.to(tokens.x.dtype)[:, :, None]
            number = valid.sum(1, dtype=torch.int32) - chosen.count
            gone = there.sum(1) - chosen.y.sum(1)
            selected = selected._replace(dropped=self._with_dropped(tokens, gone, number.to(torch.float32)))
        margin = torch.zeros_like(gains)
        if not torch.onnx.is_in_onnx_export():
            margin = selection_margin(gains, valid, forced, threshold, chosen.index, chosen.count)
        return selected, Selection(chosen.index, chosen.count, margin)

    def _with_dropped(self, tokens: Tokens, total: Tensor, count: Tensor) -> Dropped:
        """What stands for those dropped before and now; of these the sum of their states ``[B, D]``, and their number.

        The map of a sum, with its offset as often as there are tokens, is the sum of the maps: it costs the same for
        any number of them.
        """
        assert self.stand_in is not None
        mapped = functional.linear(total, self.stand_in.weight) + count[:, None].to(total.dtype) * self.stand_in.bias
        if tokens.dropped is None:
            return Dropped(mapped, count)
        return Dropped(mapped + tokens.dropped.total, count + tokens.dropped.number)

    def _sampled(self, tokens: Tokens, score: Tensor, price: Tensor) -> tuple[Tokens, Selection]:
        with torch.autocast(score.device.type, enabled=False):
            # Attention learns from the task alone: through the logarithm its gradients would be large.
            logits = self.logits(tokens._replace(x=tokens.x.float().detach()), score.float().detach())
        threshold = torch.logit(price.clamp(1e-4, 1 - 1e-4))
        margin = logits - threshold + self.TEMPERATURE * logistic_noise(logits)
        soft = torch.sigmoid(margin / self.TEMPERATURE)
        keeping = (margin > 0).to(soft.dtype) + soft - soft.detach()
        present = tokens.presence if tokens.presence is not None else torch.ones_like(keeping)
        # As in evaluation one token always stays: the first, or the best.
        first = 0 if self.class_token else torch.where(present > 0, margin, -torch.inf).argmax(1, keepdim=True)
        always = torch.arange(tokens.per_sample, device=margin.device) == first
        keeping = torch.where(always, 1.0, keeping)
        everything = torch.arange(tokens.per_sample, dtype=torch.int32, device=margin.device).expand(len(keeping), -1)
        count = (keeping * present).detach().sum(1).round().to(torch.int32)
        after = tokens._replace(presence=present * keeping)
        if self.stand_in is not None:
            leaving = present * (1 - keeping)
            gone = (leaving.to(tokens.x.dtype)[:, None] @ tokens.grouped())[:, 0]
            after = after._replace(dropped=self._with_dropped(tokens, gone, leaving.sum(1)))
        return after, Selection(everything, count, margin, keeping, present)


class FixedCountSelector(nn.Module):
    """EViT: a given number of tokens stay, the others become one, their mean weighted by attention."""

    def __init__(self, class_token: bool) -> None:
        super().__init__()
        self.class_token = class_token

    def macs(self, tokens: int, key_width: int) -> int:
        """Multiply-accumulates for one sample: none, attention is there already."""
        del tokens, key_width
        return 0

    def forward(
        self, tokens: Tokens, attention: Attention, price: Tensor, keep: Tensor | None
    ) -> tuple[Tokens, Selection]:
        """Select ``keep`` tokens, the class token among them; the fused one comes last, as one more.

        Also in training tokens are really cut out: all samples keep the same number.
        """
        del price
        score = received(attention, tokens, self.class_token)
        count = score.shape[1]
        valid = tokens.valid if tokens.valid is not None else torch.ones_like(score, dtype=torch.bool)
        forced = torch.zeros_like(valid)
        if self.class_token:
            forced = (torch.arange(count, device=score.device) == 0)[None] & valid
        least, most = keep_limits(keep, count)
        everything = torch.full_like(score[:, 0], -1.0)
        chosen = select_tokens(tokens.grouped(), score.detach(), valid, forced, everything, least, most)
        dropped = valid & ~kept_mask(chosen.index, chosen.count, count)
        segment = torch.where(dropped, 0, -1).to(torch.int32)
        fused, _ = segment_reduce(tokens.grouped(), segment, score, 1, "mean")
        selected = _after(tokens, chosen.y, chosen.index, chosen.count)
        assert selected.valid is not None and selected.position is not None
        x = torch.cat([chosen.y, fused], 1)
        after = Tokens(
            x.reshape(-1, x.shape[2]),
            chosen.index.shape[1] + 1,
            torch.cat([selected.valid, dropped.any(1, keepdim=True)], 1),
            torch.cat([selected.position, torch.zeros_like(selected.position[:, :1])], 1),
        )
        margin = torch.ones_like(score)
        if not torch.onnx.is_in_onnx_export():
            margin = selection_margin(score, valid, forced, everything, chosen.index, chosen.count)
        return after, Selection(chosen.index, chosen.count, margin, disclosed=False)


def keep_limits(keep: Tensor | None, count: int) -> tuple[Tensor | int, Tensor | int]:
    """Least and most tokens that stay: exactly ``keep`` (but one at least), or 1 to all where it is off."""
    if keep is None:
        return 1, count
    wanted = keep.reshape(()).to(torch.int64)
    off, wanted = wanted < 0, wanted.clamp(min=1)
    return torch.where(off, 1, wanted), torch.where(off, scalar(count), wanted)


def selection_margin(
    score: Tensor, valid: Tensor, forced: Tensor, threshold: Tensor, index: Tensor, count: Tensor
) -> Tensor:
    """How far each token is from being decided the other way, ``[B, K]``.

    Where the limits decided, the distance is to the best token left out, or the worst one kept. Forced
    and padded tokens are as far as can be.
    """
    is_kept = kept_mask(index, count, score.shape[1])
    free = valid & ~forced
    by_price = (score > threshold[:, None]) | forced
    clipped = (by_price & valid).sum(1) != count
    best_out = torch.where(free & ~is_kept, score, -1.0).amax(1, keepdim=True)
    worst_in = torch.where(free & is_kept, score, 2.0).amin(1, keepdim=True)
    rival = torch.where(is_kept, best_out, worst_in)
    distance = torch.where(clipped[:, None], score - rival, score - threshold[:, None])
    return torch.where(free, distance, torch.ones_like(distance))


def kept_mask(index: Tensor, count: Tensor, tokens: int) -> Tensor:
    """Which of ``tokens`` tokens are kept: int32 ``[B, K']`` and ``[B]`` -> bool ``[B, tokens]``."""
    real = torch.arange(index.shape[1], device=index.device)[None] < count[:, None]
    position = torch.arange(tokens, device=index.device, dtype=index.dtype)
    return ((index[:, :, None] == position) & real[:, :, None]).any(1)


def _after(tokens: Tokens, y: Tensor, index: Tensor, count: Tensor) -> Tokens:
    """Tokens after a selection, positions and validity following them."""
    valid = torch.arange(index.shape[1], device=index.device)[None] < count[:, None]
    original = index if tokens.position is None else torch.gather(tokens.position, 1, index.to(torch.int64))
    return Tokens(y.reshape(-1, y.shape[2]), index.shape[1], valid, original)


def _mean(tokens: Tokens) -> Tensor:
    """Mean over the tokens that each sample has, ``[B, D]``."""
    there = tokens.valid if tokens.presence is None else tokens.presence
    if there is None:
        return tokens.grouped().mean(1)
    weight = there.to(tokens.x.dtype)[:, :, None]
    mean: Tensor = (tokens.grouped() * weight).sum(1) / weight.sum(1)
    return mean
