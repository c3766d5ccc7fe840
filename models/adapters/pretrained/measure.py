"""What the two ends of a model cost and need: the embedding's modules and work, what of the tokens the head reads."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.pretrained.adapter import INPUT_NAMES
from adaptrt.models.adapters.pretrained.check import TOLERANCE, relative
from adaptrt.models.adapters.pretrained.config import PretrainedConfig
from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.adapters.pretrained.splice import EmbeddingStage, replace_module
from adaptrt.models.adapters.pretrained.tail import Tail, projection_of, reduced
from adaptrt.models.tasks import CTC, TASKS
from adaptrt.models.tasks.ctc import BLANK


def measured_embedding(shape: PretrainedConfig, model: nn.Module, inputs: Mapping[str, Tensor]) -> PretrainedConfig:
    """The shape with what the embedding needs and costs; ``inputs`` is one sample of the full length."""
    base = getattr(model, shape.base) if shape.base else model
    layers = {path: base.get_submodule(path) for path in shape.layers}
    given = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
    stage = EmbeddingStage(base, shape.layers, shape.returns_tuple)
    try:
        unused = stage.find_unused(given)
        macs = module_macs(stage.model, lambda: stage(given), unused)
    finally:
        for path, layer in layers.items():
            replace_module(base, path, layer)
    each = macs // shape.length if shape.modality == "text" else macs
    return dataclasses.replace(shape, unused=unused, embedding_macs=each)


@torch.no_grad()
def measured_head(
    shape: PretrainedConfig, model: Any, hidden: Tensor, outputs: Any
) -> tuple[PretrainedConfig, nn.Module | None]:
    """The shape with what the head reads and costs, and the head.

    Args:
        shape: So far.
        model: Of transformers.
        hidden: What its base model gave, normalised, ``[1, K, D]``, without padding.
        outputs: What the model made of it.

    Raises:
        PretrainedError: The head reads something else than tokens of the last layer, or reads them in another way.
    """
    task = TASKS[shape.task]
    if shape.task in ("feature-extraction", "embedding"):
        projection = projection_of(model) if shape.task == "embedding" else None
        macs = 0 if projection is None else projection.weight.numel()
        return dataclasses.replace(shape, reads="tokens" if task.per_token else "pooled", head_macs=macs), projection
    blank = getattr(model.config, "pad_token_id", BLANK)
    if shape.task == CTC.name and blank != BLANK:
        raise PretrainedError(f"got {blank} as the blank among the symbols, expected {BLANK}; use another model")
    tail = Tail.of(model, shape.base, INPUT_NAMES[shape.modality])
    behind = 1 + int(getattr(getattr(model, shape.base).config, "num_register_tokens", 0) or 0)
    pooled = [("first", 1), ("mean", 1), ("first and mean", 1), ("first and mean", behind), ("first two", 1)]
    for reads, prefix in [("tokens", 1)] if task.per_token else pooled:
        read = reduced(hidden, reads, prefix=prefix)
        try:
            given = tail(read, task.outputs)
        except (RuntimeError, KeyError, TypeError, IndexError, AttributeError):
            continue  # this head needs more tokens, or layers before the last
        if all(relative(given[name], outputs[name]) <= TOLERANCE for name in task.outputs):
            macs = module_macs(tail.model, functools.partial(tail, read, task.outputs))
            shape = dataclasses.replace(shape, reads=reads, prefix=prefix)
            classes = given["logits"].shape[-1] if "logits" in given else shape.classes
            each = macs // (read.shape[1] if task.per_token else 1)
            return dataclasses.replace(shape, head_macs=each, classes=classes), tail
    raise PretrainedError(
        f"the head of {type(model).__name__} reads other things than the last layer's first token or means of its "
        "tokens, expected a head that reads these; use another model"
    )


def module_macs(module: nn.Module, run: Callable[[], Any], unused: Sequence[str] = ()) -> int:
    """Multiply-accumulates of linear maps and convolutions in one run, those of unused parts left out."""
    total = 0

    def count(part: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal total
        weight = part.weight
        assert isinstance(weight, Tensor)
        total += out.numel() * weight[0].numel()

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    left_out = tuple(f"{path}." for path in unused)
    handles = [
        part.register_forward_hook(count)
        for name, part in module.named_modules()
        if isinstance(part, kinds) and not f"{name}.".startswith(left_out)
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return total
