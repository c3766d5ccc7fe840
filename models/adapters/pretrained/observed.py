"""What transformers' own forward does, seen from outside: what each layer gets and gives, what follows the last.

Options of a block that layers do not name are read from there: masks, windows, rotary angles, biases of positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.pretrained.rows import PretrainedError, Row

_HIDDEN = -1e4
"""What is added to a score to hide a key is below this."""


@dataclass
class LayerCall:
    """One call of a layer.

    Attributes:
        path: Of the layer.
        layer: The layer; a shared one is called several times.
        given: Tensors beside the hidden states, in the order of the arguments.
        pair_bias: What the module of that name in the layer gave, ``[1, H, K, K]``.
        hidden: What came out, ``[B, K, D]``.
        returns_tuple: Whether it came in a tuple.
    """

    path: str
    layer: nn.Module
    given: list[Any] = field(default_factory=list)
    pair_bias: Tensor | None = None
    hidden: Tensor = field(default_factory=lambda: torch.zeros(0))
    returns_tuple: bool = False


@dataclass(frozen=True)
class Observed:
    """One run.

    Attributes:
        calls: Of all layers, in order.
        final_norm: What normalised the last layer's tokens; None: nothing did.
        outputs: What the model gave.
    """

    calls: list[LayerCall]
    final_norm: nn.Module | None
    outputs: Any


@torch.no_grad()
def observe(
    model: nn.Module, base: str, layers: Mapping[str, nn.Module], row: Row, inputs: Mapping[str, Tensor]
) -> Observed:
    """Run a model and note what its layers do; ``base`` is the name of its base model, of which the last norm is.

    Raises:
        PretrainedError: The model does not run, or none of its layers did.
    """
    calls: list[LayerCall] = []
    normed: list[tuple[nn.Module, Tensor]] = []
    handles = []

    def before(path: str, layer: nn.Module) -> Any:
        def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls.append(LayerCall(path, layer, [*given[1:], *named.values()]))

        return note

    def after(_: nn.Module, __: Any, result: Any) -> None:
        calls[-1].returns_tuple = isinstance(result, tuple)
        calls[-1].hidden = result[0] if calls[-1].returns_tuple else result

    def bias(_: nn.Module, __: Any, result: Tensor) -> None:
        calls[-1].pair_bias = result

    def norm(module: nn.Module, given: tuple[Any, ...], _: Any) -> None:
        if given:
            normed.append((module, given[0]))

    for path, layer in layers.items():
        handles.append(layer.register_forward_pre_hook(before(path, layer), with_kwargs=True))
        handles.append(layer.register_forward_hook(after))
        if row.pair_bias and getattr(layer, row.pair_bias, None) is not None:
            handles.append(getattr(layer, row.pair_bias).register_forward_hook(bias))
    inside = tuple(f"{path}." for path in layers)
    for path, module in model.named_modules():
        within = not base or path.startswith(f"{base}.")
        if within and norm_kind(module) is not None and not path.startswith(inside):
            handles.append(module.register_forward_hook(norm))
    try:
        outputs = model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        raise PretrainedError(
            f"none of the {len(layers)} layers of {type(model).__name__} ran, expected them to; report the model"
        )
    last = calls[-1].hidden
    final = [module for module, given in normed if given.shape == last.shape and torch.equal(given, last)]
    return Observed(calls, final[0] if final else None, outputs)


def norm_kind(module: nn.Module) -> str | None:
    """Which of ``models.encoder_config.NORMS`` a module is."""
    if isinstance(module, nn.LayerNorm):
        return "layer"
    return "rms" if "RMSNorm" in type(module).__name__ else None


def norm_epsilon(module: nn.Module) -> float:
    """Epsilon of a normalisation."""
    for name in ("eps", "variance_epsilon"):
        if getattr(module, name, None) is not None:
            return float(getattr(module, name))
    raise PretrainedError(f"got a {type(module).__name__} without epsilon, expected eps; report the model")


@dataclass(frozen=True)
class Positions:
    """How layers know where tokens are.

    Attributes:
        options: Of ``EncoderConfig``.
        biases: Of each block's attention, by difference or by pair; empty where there are none.
        tables: Cosines and sines of each block, ``[K, d / 2]``; empty where nothing is rotated.
    """

    options: dict[str, Any]
    biases: list[Tensor]
    tables: list[tuple[Tensor, Tensor]]


def read_positions(observed: Observed, head_width: int) -> Positions:
    """Read windows, rotary angles and biases from a run of samples of the full length without padding.

    Raises:
        PretrainedError: Layers do something that a block has no option for.
    """
    tokens = observed.calls[0].hidden.shape[1]
    causal, windows, biases, tables = [], [], [], []
    for call in observed.calls:
        added, table = torch.zeros(1, 1, tokens, tokens), None
        for value in call.given:
            if isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2:] == (tokens, tokens):
                hiding = torch.where(value, 0.0, 2 * _HIDDEN) if value.dtype == torch.bool else value
                added = added + hiding[:1].to(torch.float32)
            elif _rotary(value, head_width):
                table = _table(value, tokens)
        if call.pair_bias is not None:
            added = added + call.pair_bias
        if table is not None:
            tables.append(table)
        seen = (added > _HIDDEN)[0].all(0)
        before, window = _pattern(seen, call.path)
        causal.append(before)
        windows.append(window)
        biases.append(torch.where(added > _HIDDEN, added, 0.0)[0])
    return Positions(*_described(causal, windows, biases, tables, tokens))


def _described(
    causal: list[bool], windows: list[int], biases: list[Tensor], tables: list[tuple[Tensor, Tensor]], tokens: int
) -> tuple[dict[str, Any], list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Options, biases and tables.

    Raises:
        PretrainedError: The layers differ in more than their windows.
    """
    biased = any(bool(bias.any()) for bias in biases)
    if len(set(causal)) > 1 or len(tables) not in (0, len(windows)) or (biased and tables):
        raise PretrainedError(
            "got layers of which some are causal, rotated or biased and others are not, expected all alike; use "
            "another model"
        )
    options: dict[str, Any] = {"causal": causal[0], "windows": tuple(windows) if any(windows) else ()}
    if tables:
        return {**options, "positions": "table", "position_rows": tokens}, [], tables
    if not biased:
        return options, [], []
    by_distance = [_by_distance(bias) for bias in biases]
    if all(table is not None for table in by_distance):
        known = [table for table in by_distance if table is not None]
        return {**options, "positions": "relative", "relative_reach": max(tokens - 1, 1)}, known, []
    return {**options, "positions": "pair", "position_rows": tokens}, biases, []


def _rotary(value: Any, head_width: int) -> bool:
    """Whether this is cosines and sines."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(part, Tensor) and part.shape[-1] == head_width for part in value)
    )


def _table(value: tuple[Tensor, Tensor], tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each token, ``[K, d / 2]``; tokens before the rotated ones do not turn.

    Raises:
        PretrainedError: They are no angles of pairs made of one dimension of each half.
    """
    parts = []
    for part, still in zip(value, (1.0, 0.0), strict=True):
        rows = part.reshape(-1, *part.shape[-2:])[0]
        half = rows.shape[1] // 2
        if not torch.equal(rows[:, :half], rows[:, half:]) or len(rows) > tokens:
            raise PretrainedError(
                "got rotary angles that differ between the halves of a head, expected the same; use another model"
            )
        prefix = torch.full((tokens - len(rows), half), still)
        parts.append(torch.cat([prefix, rows[:, :half].to(torch.float32)]))
    return parts[0], parts[1]


def _pattern(seen: Tensor, path: str) -> tuple[bool, int]:
    """Whether a layer's tokens see no later ones, and its window, from which tokens see which, ``[K, K]``.

    Raises:
        PretrainedError: It is another pattern.
    """
    place = torch.arange(len(seen))
    distance = place[None] - place[:, None]
    causal = len(seen) > 1 and not bool(seen[distance > 0].any())
    allowed = distance <= 0 if causal else torch.ones_like(seen)
    reach = int(distance[seen].abs().max()) if bool(seen.any()) else 0
    window = 2 * reach if reach < len(seen) - 1 else 0
    if window:
        allowed = allowed & (distance.abs() <= reach)
    if not torch.equal(seen, allowed):
        raise PretrainedError(
            f"got a pattern of attention in {path} that is no window and not causal, expected one of these; use "
            "another model"
        )
    return causal, window


def _by_distance(bias: Tensor) -> Tensor | None:
    """A bias ``[H, K, K]`` as one for each distance, ``[H, 2 K - 1]``; None where it is more than that."""
    tokens = bias.shape[1]
    table = torch.cat([bias[:, tokens - 1, : tokens - 1], bias[:, 0]], 1)
    place = torch.arange(tokens)
    same = torch.equal(table[:, place[None] - place[:, None] + tokens - 1], bias)
    return table if same else None
