"""What the two ends of a model cost and need: the embedding's modules and work, what of the tokens the head reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.pretrained.adapter import INPUT_NAMES
from adaptrt.models.adapters.pretrained.check import TOLERANCE, relative
from adaptrt.models.adapters.pretrained.config import PretrainedConfig
from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.adapters.pretrained.splice import EmbeddingStage, replace_module
from adaptrt.models.adapters.pretrained.tail import Tail, reduced
from adaptrt.models.tasks import TASKS


def measured_embedding(shape: PretrainedConfig, model: nn.Module, inputs: Mapping[str, Tensor]) -> PretrainedConfig:
    """The shape with what the embedding needs and costs; ``inputs`` is one sample of the full length."""
    layer = model.get_submodule(shape.first_layer)
    given = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
    stage = EmbeddingStage(model, shape.first_layer)
    try:
        unused = stage.find_unused(given)
        macs = module_macs(stage, lambda: stage(given))
    finally:
        replace_module(model, shape.first_layer, layer)
    each = macs // shape.length if shape.modality == "text" else macs
    return dataclasses.replace(shape, unused=unused, embedding_macs=each)


def measured_head(
    shape: PretrainedConfig, model: Any, hidden: Tensor, outputs: Any
) -> tuple[PretrainedConfig, Tail | None]:
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
        return dataclasses.replace(shape, reads="tokens" if task.per_token else "pooled", head_macs=0), None
    base, _, inside = shape.first_layer.partition(".")
    if not inside:
        raise PretrainedError(f"got {type(model).__name__} for {shape.task}, expected a class with a head for it")
    tail = Tail.of(model, base, INPUT_NAMES[shape.modality])
    for reads in ("tokens",) if task.per_token else ("first", "mean", "first and mean"):
        read = reduced(hidden, reads)
        try:
            given = tail(read, task.outputs)
        except (RuntimeError, KeyError, TypeError, IndexError, AttributeError):
            continue  # this head needs more tokens, or layers before the last
        if all(relative(given[name], outputs[name]) <= TOLERANCE for name in task.outputs):
            macs = module_macs(tail, lambda read=read: tail(read, task.outputs))  # type: ignore[misc]
            return dataclasses.replace(shape, reads=reads, head_macs=macs // (read.shape[1] if task.per_token else 1)), tail
    raise PretrainedError(
        f"the head of {type(model).__name__} reads other things than the last layer's first token or means of its "
        "tokens, expected a head that reads these; use another model"
    )


def module_macs(module: nn.Module, run: Callable[[], Any]) -> int:
    """Multiply-accumulates of linear maps and convolutions in one run."""
    total = 0

    def count(part: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal total
        weight = part.weight
        assert isinstance(weight, Tensor)
        total += out.numel() * weight[0].numel()

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    handles = [part.register_forward_hook(count) for part in module.modules() if isinstance(part, kinds)]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return total
