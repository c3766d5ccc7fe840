"""From a folder of transformers to a dense network of ours with the same weights and the same answers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.pretrained.adapter import PretrainedAdapter, example_inputs
from adaptrt.models.adapters.pretrained.check import compare, require_same
from adaptrt.models.adapters.pretrained.checkpoint import Pretrained, kept_config, layer_groups, require_weights
from adaptrt.models.adapters.pretrained.config import PretrainedConfig
from adaptrt.models.adapters.pretrained.convolutional.load import build_convolutional
from adaptrt.models.adapters.pretrained.convolutional.rows import find_parts
from adaptrt.models.adapters.pretrained.image_size import processor_size, resized
from adaptrt.models.adapters.pretrained.measure import measured_embedding, measured_head
from adaptrt.models.adapters.pretrained.observed import Observed, Positions, observe, read_positions
from adaptrt.models.adapters.pretrained.rows import PretrainedError, Row, find_layers
from adaptrt.models.adapters.pretrained.sentence import SentenceSettings, sentence_settings
from adaptrt.models.adapters.pretrained.sizes import input_facts
from adaptrt.models.adapters.pretrained.splice import encoder_of, first_line, model_kind, transformers
from adaptrt.models.adapters.pretrained.tail import Tail, projection_of, weighted_mean
from adaptrt.models.adapters.pretrained.task_choice import Choice, choose
from adaptrt.models.adapters.pretrained.weights import fill_block, fill_norm, layer_config, shape_options
from adaptrt.models.block import Block
from adaptrt.models.tasks import TASKS

if TYPE_CHECKING:
    from adaptrt.models.folder import LoadedModel
    from adaptrt.models.network import Network

CHECKED_SAMPLES = 3


def load_pretrained(
    folder: Path | str,
    *,
    task: str | None = None,
    length: int | None = None,
    image_size: int | None = None,
    model_class: str | None = None,
) -> LoadedModel:
    """Load a transformers checkpoint as a dense network, which ``adapt`` and ``with_families`` make adaptive.

    The network is refused unless its hidden states and outputs are transformers' own on generated inputs.

    Args:
        folder: With ``config.json`` and weights, as ``save_pretrained`` or sentence-transformers writes it.
        task: As Optimum names it; None: what the checkpoint is for.
        length: Most tokens of a text, or samples of a sound; None: what the folder says, at most 512 tokens, or ten
            seconds at 16 kHz. Shares of work are of a text of this length.
        image_size: Height and width of images; None: what the checkpoint's processor gives, or the size that it was
            trained with.
        model_class: Class of transformers to load it as, such as ``CLIPTextModel`` of a model with two towers.

    Raises:
        PretrainedError: It is no such folder, its architecture is not covered, weights are missing or left over, or
            the network computes something else.
    """
    from adaptrt.models.folder import LoadedModel

    found = read_pretrained(folder, task=task, length=length, image_size=image_size, model_class=model_class)
    return LoadedModel(Path(folder).resolve().name, found.network, found.network, None)


def read_pretrained(
    folder: Path | str,
    *,
    task: str | None = None,
    length: int | None = None,
    image_size: int | None = None,
    model_class: str | None = None,
) -> Pretrained:
    """As ``load_pretrained``, with the differences that were found."""
    folder = Path(folder)
    choice = choose(folder, task, model_class)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, info, encoder_only = _loaded(folder, choice)
        if image_size is None and getattr(model, "main_input_name", "") == "pixel_values":
            image_size = processor_size(folder)
        parts = find_parts(model)
        if parts is not None:
            return build_convolutional(model, parts, choice, info, image_size=image_size, at=folder)
        if image_size is not None:
            model = resized(model, image_size)
            model.set_attn_implementation("eager")
        sentence = sentence_settings(folder) if choice.task == "embedding" else None
        return build_network(
            model, choice, info, encoder_only=encoder_only, length=length, sentence=sentence, at=folder
        )


def build_network(
    model: Any,
    choice: Choice,
    info: Mapping[str, Iterable[Any]],
    *,
    encoder_only: bool = False,
    length: int | None = None,
    sentence: SentenceSettings | None = None,
    at: Path | None = None,
) -> Pretrained:
    """A network of a loaded model, checked.

    Args:
        model: Of transformers, or its encoder.
        choice: What it is for.
        info: What loading said: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.
        encoder_only: Whether it is the encoder of such a model.
        length: See ``load_pretrained``.
        sentence: Pooling of sentence embeddings; None: the first token, or the mean.
        at: The checkpoint's folder, if it has more to say.

    Raises:
        PretrainedError: As for ``load_pretrained``.
    """
    from adaptrt.models.network import Network

    row, layers = find_layers(model)
    path = next(iter(layers))
    headless = choice.task in ("feature-extraction", "embedding") and projection_of(model) is None
    base = "" if headless else path.partition(".")[0]
    facts = input_facts(model, layer_config(model, path), length, sentence, at)
    sketch = PretrainedConfig(
        task=choice.task,
        made_of=kept_config(model, at),
        model_class=choice.model_class,
        encoder_only=encoder_only,
        base=base,
        **facts,
    )
    whole = example_inputs(sketch, 1, padded=False)
    observed = _observed(model, base, layers, row, whole)
    first = observed.calls[0]
    options = shape_options(observed, row, layer_config(model, first.path))
    positions = read_positions(observed, options["head_size"] or options["width"] // options["heads"])
    norm = _final_norm(model, observed, choice.task)
    options |= {"final_norm": norm is not None, "length": first.hidden.shape[1], **_pooling(sketch, sentence)}
    paths = dict.fromkeys(call.path for call in observed.calls)
    options["layers"] = tuple(path.removeprefix(f"{base}.") if base else path for path in paths)
    options["returns_tuple"] = first.returns_tuple
    shape = dataclasses.replace(sketch, **options, **positions.options)
    shape = measured_embedding(shape, model, whole)
    shape, tail = measured_head(shape, model, _normed(norm, observed), observed.outputs)
    groups = layer_groups(model, shape.layers[0].rpartition(".")[0], shape.base)
    require_weights(info, _needed(model, shape, layers, norm, tail), groups, choice)
    network = Network(PretrainedAdapter(shape)).eval()
    _fill(network, observed, row, positions, norm, model, tail)
    inputs = example_inputs(shape, CHECKED_SAMPLES)
    checked = _observed(model, base, layers, row, inputs)
    wanted = _wanted(checked, shape, norm, inputs)
    difference = compare(network, inputs, checked, wanted)
    require_same(difference, choice.architecture)
    return Pretrained(network, difference, row)


def _loaded(folder: Path, choice: Choice) -> tuple[Any, Mapping[str, Iterable[Any]], bool]:
    """The model with float32 weights and plain attention, and what loading said of its weights.

    Raises:
        PretrainedError: It cannot be read.
    """
    kind = model_kind(choice.model_class)
    try:
        with _quiet():
            model, info = kind.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
    except Exception as error:  # files are read in many ways
        raise PretrainedError(f"transformers cannot load {folder} as {kind.__name__}: {first_line(error)}") from error
    encoder_only = bool(getattr(model.config, "is_encoder_decoder", False)) and choice.task in (
        "feature-extraction",
        "embedding",
    )
    model = encoder_of(model.eval(), encoder_only)
    model.set_attn_implementation("eager")  # what is compared with, and what gives its masks to the layers
    return model, info, encoder_only


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report of weights and its progress bars: what matters of them becomes an error."""
    logging = transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _observed(
    model: nn.Module, base: str, layers: Mapping[str, nn.Module], row: Row, inputs: Mapping[str, Tensor]
) -> Observed:
    try:
        return observe(model, base, layers, row, inputs)
    except PretrainedError:
        raise
    except Exception as error:  # models check their inputs in many ways
        raise PretrainedError(
            f"{type(model).__name__} does not run on generated inputs of {list(inputs)}: {first_line(error)}; use "
            "another model"
        ) from error


def _final_norm(model: nn.Module, observed: Observed, task: str) -> nn.Module | None:
    """What normalises tokens before a head; CLIP normalises the one that stands for the image only."""
    modules = dict(model.named_modules()) if task == "embedding" else {}
    pooled_only = next((modules[path] for path in modules if path.endswith("post_layernorm")), None)
    return observed.final_norm or pooled_only


def _pooling(sketch: PretrainedConfig, sentence: SentenceSettings | None) -> dict[str, Any]:
    """How one vector is made of the tokens, where that is the task."""
    if sentence is None:
        first = sketch.modality == "image" and sketch.class_token
        return {"pooling": "first" if first else "mean"}
    return {"pooling": sentence.pooling, "normalised": sentence.normalised}


@torch.no_grad()
def _normed(norm: nn.Module | None, observed: Observed) -> Tensor:
    hidden = observed.calls[-1].hidden
    return hidden if norm is None else norm(hidden)


@torch.no_grad()
def _wanted(
    observed: Observed, shape: PretrainedConfig, norm: nn.Module | None, inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The model's outputs by the task's names; of a pooling what follows from its hidden states."""
    names = TASKS[shape.task].outputs
    if shape.task == "feature-extraction":
        return {names[0]: observed.outputs[0]}
    if shape.task != "embedding":
        return {name: observed.outputs[name] for name in names}
    if shape.base:
        return {names[0]: observed.outputs["image_embeds"]}
    hidden, mask = _normed(norm, observed), inputs.get("attention_mask")
    if shape.pooling == "first":
        vector = hidden[:, 0]
    elif shape.pooling == "mean":
        vector = weighted_mean(hidden, mask)
    else:
        vector = (hidden if mask is None else hidden.masked_fill(mask[:, :, None] == 0, -1e9)).amax(1)
    return {names[0]: vector / vector.norm(dim=1, keepdim=True) if shape.normalised else vector}


@torch.no_grad()
def _fill(
    network: Network,
    observed: Observed,
    row: Row,
    positions: Positions,
    norm: nn.Module | None,
    model: nn.Module,
    tail: nn.Module | None,
) -> None:
    """Give a network the weights of a model."""
    for number, (block, call) in enumerate(zip(network.blocks, observed.calls, strict=True)):
        assert isinstance(block, Block)
        fill_block(block, call.layer, row)
        attention = block.attention
        if positions.biases:
            assert attention.bias is not None
            attention.bias.copy_(positions.biases[number])
        if positions.tables:
            assert attention.cosine is not None and attention.sine is not None
            attention.cosine.copy_(positions.tables[number][0])
            attention.sine.copy_(positions.tables[number][1])
    if norm is not None:
        fill_norm(network.norm, norm)
    if tail is not None:
        network.head.tail.load_state_dict(tail.state_dict())
    embedding = network.get_submodule("embed.model")
    prefix = f"{network.adapter.shape.base}."
    source = {name.removeprefix(prefix): value for name, value in model.state_dict().items()}
    embedding.load_state_dict({name: source[name] for name in embedding.state_dict()})


def _needed(
    model: nn.Module,
    shape: PretrainedConfig,
    layers: Mapping[str, nn.Module],
    norm: nn.Module | None,
    tail: nn.Module | None,
) -> set[str]:
    """Names of the model's parameters that the network is made of."""
    base = f"{shape.base}." if shape.base else ""
    left_out = tuple(f"{base}{path}." for path in shape.unused)
    needed = {name for name, _ in model.named_parameters() if name.startswith(base) and not name.startswith(left_out)}
    needed |= {f"{path}.{name}" for path, layer in layers.items() for name, _ in layer.named_parameters()}
    if isinstance(tail, Tail):
        needed |= {name for name, _ in tail.model.named_parameters()}
    for module in (norm, tail):
        own = set() if module is None else {id(parameter) for parameter in module.parameters()}
        needed |= {name for name, parameter in model.named_parameters() if id(parameter) in own}
    return needed
