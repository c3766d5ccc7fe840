"""From a loaded convolutional model of transformers to a dense network with the same weights and answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.pretrained.check import Difference, relative, require_same
from adaptrt.models.adapters.pretrained.checkpoint import Pretrained, kept_config, layer_groups, require_weights
from adaptrt.models.adapters.pretrained.convolutional.config import CONVOLUTIONAL_TASKS, PretrainedConvolutionalConfig
from adaptrt.models.adapters.pretrained.convolutional.network import PretrainedConvolutional, copy_parts
from adaptrt.models.adapters.pretrained.convolutional.rows import STAGES, FoundParts
from adaptrt.models.adapters.pretrained.measure import module_macs
from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.adapters.pretrained.splice import first_line
from adaptrt.models.adapters.pretrained.task_choice import Choice
from adaptrt.models.tasks import TASKS

USUAL_SIZE = 224
"""Height and width of images where neither the processor nor the model says it."""
CHECKED_SAMPLES = 3


def build_convolutional(
    model: Any,
    found: FoundParts,
    choice: Choice,
    info: Mapping[str, Iterable[Any]],
    *,
    image_size: int | None = None,
    at: Path | None = None,
) -> Pretrained:
    """A network of a loaded model, checked.

    Args:
        model: Of transformers, in evaluation mode.
        found: Where its parts are.
        choice: What it is for.
        info: What loading said: ``missing_keys``, ``unexpected_keys``.
        image_size: Height and width of images; None: the model's, or 224.
        at: The checkpoint's folder.

    Raises:
        PretrainedError: It is for another task, weights are missing or left over, the model has parts beyond those
            found, does not run on such images, or the network computes something else.
    """
    if choice.task not in CONVOLUTIONAL_TASKS:
        raise PretrainedError(
            f"got {choice.model_class} for {choice.task}, expected {' or '.join(CONVOLUTIONAL_TASKS)} of a "
            "convolutional network; name the task 'embedding' for one vector of each image"
        )
    linear = _classifier(model, found) if "logits" in TASKS[choice.task].outputs else None
    needed = _needed(model, found, linear)
    require_weights(info, needed, layer_groups(model, STAGES, found.base), choice)
    shape = _measured(model, found, choice, linear, _input_size(model, image_size), at)
    network = PretrainedConvolutional(shape, copy_parts(model, shape)).eval()
    if linear is not None:
        network.head.classifier.load_state_dict(model.get_submodule(linear).state_dict())
    difference = _compared(model, network)
    require_same(difference, choice.architecture)
    return Pretrained(network, difference, found.row)


def _classifier(model: nn.Module, found: FoundParts) -> str:
    """Path of the linear map to the classes."""
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    paths: list[str] = [path for path in linear if not path.startswith(f"{found.base}.")]
    if not found.base or len(paths) != 1:
        raise PretrainedError(
            f"got {type(model).__name__} with {len(paths)} linear maps behind its layers, expected one to its classes; "
            "name the task 'embedding', or use another model"
        )
    return paths[0]


def _needed(model: nn.Module, found: FoundParts, linear: str | None) -> set[str]:
    """Names of the weights and statistics that the network is made of.

    Raises:
        PretrainedError: The model has others.
    """
    parts = (found.stem, *(path for block in found.blocks for path in block), found.norm, linear or "")
    prefixes = tuple(f"{path}." for path in parts if path)
    every = [name for name in model.state_dict() if not name.endswith(".num_batches_tracked")]
    beyond = [name for name in every if not name.startswith(prefixes)]
    if beyond:
        raise PretrainedError(
            f"got {type(model).__name__}, whose parts are named as those of {found.row.families} but which also has "
            f"{beyond[0]}, expected nothing beyond them: it would be left out of the computation; use a model of a "
            "family that is covered"
        )
    return set(every)


def _input_size(model: Any, image_size: int | None) -> tuple[int, int, int]:
    size = image_size or getattr(model.config, "image_size", None) or USUAL_SIZE
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return int(model.config.num_channels), int(height), int(width)


@torch.no_grad()
def _measured(
    model: Any,
    found: FoundParts,
    choice: Choice,
    linear: str | None,
    input_size: tuple[int, int, int],
    at: Path | None,
) -> PretrainedConvolutionalConfig:
    """The shape, with sizes and work from a run of one image."""
    classes = 1 if linear is None else int(model.get_submodule(linear).out_features)
    sizes: list[tuple[int, int, int]] = []
    macs: list[int] = []
    x = torch.zeros(1, *input_size)
    try:
        for paths in ((found.stem,), *found.blocks):
            part = nn.Sequential(*(model.get_submodule(path) for path in paths))
            macs.append(module_macs(part, partial(part, x)))
            x = part(x)
            channels, height, width = x.shape[1:]
            sizes.append((channels, height, width))
    except Exception as error:  # models check their inputs in many ways
        raise PretrainedError(
            f"{type(model).__name__} does not run on images of {list(input_size)}: {first_line(error)}; give another "
            "image_size, or use another model"
        ) from error
    try:
        return PretrainedConvolutionalConfig(
            made_of=kept_config(model, at),
            model_class=choice.model_class,
            task=choice.task,
            classes=classes,
            input_size=input_size,
            stem=found.stem,
            blocks=found.blocks,
            norm=found.norm,
            sizes=tuple(sizes[1:]),
            stem_macs=macs[0],
            block_macs=tuple(macs[1:]),
        )
    except ValueError as error:
        raise PretrainedError(f"{type(model).__name__} on images of {list(input_size)}: {error}") from error


@torch.no_grad()
def _compared(model: nn.Module, network: PretrainedConvolutional) -> Difference:
    """Run both on generated images; transformers' model by its own forward."""
    inputs = network.example_inputs(CHECKED_SAMPLES)
    wanted: list[Tensor] = []
    layers = [model.get_submodule(block[-1]) for block in network.config.blocks]
    hooks = [layer.register_forward_hook(lambda _layer, _given, result: wanted.append(result)) for layer in layers]
    try:
        answers = model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    hidden = []
    x = network.embed(inputs)
    for block, value in zip(network.blocks, wanted, strict=True):
        x = block(x)
        hidden.append(relative(x, value))
    (name,) = network.task.outputs
    answer = answers[name] if name == "logits" else answers["pooler_output"].flatten(1)
    given = network.run(inputs, {}).outputs[name]
    return Difference(tuple(hidden), {name: relative(given, answer)})
