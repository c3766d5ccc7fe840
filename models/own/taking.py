"""Taking rows of a set by their scores: pruning, routing, several sets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptrt.models.symbolic.call_record import SelectionCall, current_record
from adaptrt.models.symbolic.graph_sizes import scalar
from adaptrt.models.symbolic.select_tokens import select_tokens
from adaptrt.models.tokens import Selection

_LOWEST = float(torch.finfo(torch.float32).min)
_FAR = 1e9
"""Margin of a row that cannot be decided otherwise."""


@dataclass(frozen=True)
class Taken:
    """Rows that were taken from B sets of K, packed to the front in their order; K' is the longest sample's number.

    Attributes:
        rows: ``[B, K', D]``, exact copies, 0 behind a sample's last.
        index: int64 ``[B, K']``: where each row was, 0 behind a sample's last.
        valid: bool ``[B, K']``: which of them are real.
    """

    rows: Tensor
    index: Tensor
    valid: Tensor

    def back(self, base: Tensor, rows: Tensor) -> Tensor:
        """``base`` with rows added where they came from; the other rows of ``base`` stay as they are.

        Args:
            base: ``[B, K, D']``.
            rows: ``[B, K', D']``; those that are not valid are not added.
        """
        if rows.ndim != 3 or base.ndim != 3 or rows.shape[2] != base.shape[2]:
            raise ValueError(
                f"got rows {list(rows.shape)} to add to {list(base.shape)}, expected [batch, taken, width] and [batch, "
                "tokens, width] of one width"
            )
        batch, tokens, width = base.shape
        # Each row of the base reads its row by number: gathering whole rows is what engines do fastest. A row of zeros
        # before each sample's is what the others read, and keeps the table from being empty where nothing was taken.
        table = torch.cat([rows.new_zeros(batch, 1, width), rows], 1)
        first = torch.arange(batch, device=base.device)[:, None] * table.shape[1]
        number = torch.arange(1, table.shape[1], device=base.device)[None].expand(batch, -1)
        place = torch.where(self.valid, self.index, tokens)
        numbers = torch.zeros(batch, tokens + 1, dtype=torch.int64, device=base.device).scatter(1, place, number)
        flat = (numbers[:, :tokens] + first).reshape(-1)
        return base + table.flatten(0, 1).index_select(0, flat).reshape(batch, tokens, width)


def take(
    x: Tensor,
    score: Tensor,
    *,
    above: Tensor | float | None = None,
    most: Tensor | int | None = None,
    always: Tensor | None = None,
    valid: Tensor | None = None,
) -> Taken:
    """Take the rows whose score is above a threshold, at most the best ``most`` of them, in order.

    Every sample takes its own rows. In the dense network, of which all work is a share, every row is taken.

    Args:
        x: ``[B, K, D]``.
        score: ``[B, K]``, higher is better; ties go to the earlier row, NaN is below every number.
        above: A number, or a tensor of one, or one for each sample, ``[B]``. None: every score is above it.
        most: A whole number, or a tensor of one, the same for all samples; below 0 counts as 0. None: no limit.
        always: bool ``[B, K]``: rows that come first, whatever their score, where they are valid.
        valid: bool ``[B, K]``; false for padding, which is never taken. None: all rows are real.

    Raises:
        ValueError: Shapes do not fit together, or ``most`` has several numbers.
    """
    _require_fit(x, score, always, valid)
    if isinstance(most, Tensor) and most.numel() != 1:
        raise ValueError(f"got most of shape {list(most.shape)}, expected one number for all samples")
    batch, tokens = score.shape
    everything = torch.ones_like(score, dtype=torch.bool)
    valid = everything if valid is None else valid
    record = current_record()
    if record is not None and record.dense:
        index = torch.arange(tokens, device=x.device).expand(batch, tokens)
        return Taken(x, index, valid)
    score = score.to(torch.float32)
    forced = ~everything if always is None else always & valid
    threshold = _threshold(above, score)
    largest = scalar(tokens) if most is None else scalar(most).clamp(min=0)
    limits = "any" if record is None else record.limits
    chosen = select_tokens(x, score.detach(), valid, forced, threshold.detach(), 0, largest, limits=limits)
    place = torch.arange(chosen.index.shape[1], device=x.device)
    if record is not None:
        margin = torch.full_like(score, _FAR)
        if not (torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting()):
            margin = taking_margin(score, valid, forced, threshold, chosen.index, chosen.count)
        record.selections.append(SelectionCall(Selection(chosen.index, chosen.count, margin), tokens, most is not None))
    return Taken(chosen.y, chosen.index.to(torch.int64), place[None] < chosen.count[:, None])


def taking_margin(
    score: Tensor, valid: Tensor, forced: Tensor, threshold: Tensor, index: Tensor, count: Tensor
) -> Tensor:
    """How far each row is from being decided otherwise, ``[B, K]``, relative where scores are above 1.

    A row that is taken is as far as it is from the threshold, and from the best row left out where the number was
    limited; one left out the other way round. Padding and rows that come first are as far as can be.
    """
    real = torch.arange(index.shape[1], device=index.device)[None] < count[:, None]
    place = torch.arange(score.shape[1], device=index.device, dtype=index.dtype)
    taken = ((index[:, :, None] == place) & real[:, :, None]).any(1)
    free, wanted = valid & ~forced, valid & (forced | (score > threshold[:, None]))
    limited = (wanted.sum(1) > count)[:, None]
    lowest, highest = torch.full_like(score, _LOWEST), torch.full_like(score, -_LOWEST)
    best_out = torch.where(wanted & free & ~taken, score, lowest).amax(1, keepdim=True)
    worst_in = torch.where(free & taken, score, highest).amin(1, keepdim=True)
    rival = torch.where(taken, best_out, worst_in)
    by_threshold, by_rival = score - threshold[:, None], score - rival
    distance = torch.where(limited & wanted, by_rival, by_threshold)
    scale = torch.maximum(score.abs(), torch.ones_like(score))
    distance = (distance / scale).clamp(-_FAR, _FAR)
    return torch.where(free, distance, torch.full_like(distance, _FAR))


def _threshold(above: Tensor | float | None, score: Tensor) -> Tensor:
    """The threshold of each sample, float32 ``[B]``."""
    if not isinstance(above, Tensor):
        return torch.full_like(score[:, 0], _LOWEST if above is None else above)
    if above.numel() != 1 and above.ndim != 1:
        raise ValueError(f"got above of shape {list(above.shape)}, expected one number, or one for each sample")
    return above.to(torch.float32).reshape(-1).expand(score.shape[0])


def _require_fit(x: Tensor, score: Tensor, always: Tensor | None, valid: Tensor | None) -> None:
    if x.ndim != 3 or score.ndim != 2:
        raise ValueError(
            f"got rows {list(x.shape)} and scores {list(score.shape)}, expected [batch, tokens, width] and "
            "[batch, tokens]"
        )
    for name, given in (("always", always), ("valid", valid)):
        if given is not None and (given.dtype != torch.bool or given.ndim != 2):
            raise ValueError(f"got {name} of {given.dtype} {list(given.shape)}, expected bool [batch, tokens]")
