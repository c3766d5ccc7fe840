"""The dense network that an estimate is made for, and inputs of one length for it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from adaptrt.export.errors import ExportError
from adaptrt.export.parity.padding import is_mask
from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.adapters.pretrained.adapter import PretrainedAdapter, example_inputs
from adaptrt.models.adapters.pretrained.load import load_pretrained
from adaptrt.models.folder import CONFIG, LoadedModel
from adaptrt.models.network import Network
from adaptrt.models.registry import RECIPES, load_model

USUAL_LENGTH = 128
"""Tokens of a text where nobody says anything else."""
_SEED = 0


def load_dense(model: Path, length: int | None = None) -> LoadedModel:
    """A dense network to estimate for; one that was adapted before is estimated from its dense form.

    Args:
        model: Folder of a transformers checkpoint or of a network of ours, or the name of a ready model.
        length: Tokens of a text, or samples of a sound; None: 128 tokens, or fewer if the model takes no more.

    Raises:
        AdaptrtError: There is no such model, it is none that is adapted here, or it takes no inputs of that length.
    """
    ready = str(model) in RECIPES
    if not ready and not model.is_dir():
        raise ExportError(
            f"got model {str(model)!r}, expected a folder with config.json and weights; download it where there is a "
            "network, and name its folder"
        )
    ours = ready or _is_ours(model / CONFIG)
    source = load_model(str(model)) if ours else load_pretrained(model, length=length)
    network = source.dense or source.model
    if not isinstance(network, AdaptableNetwork):
        raise ExportError(
            f"got a {type(network).__name__}, expected a transformer encoder or a convolutional network; export it and "
            "run `bench`"
        )
    if network.adaptive:
        network = network.with_families([])
    if isinstance(network, Network) and network.adapter.ragged:
        most = network.tokens
        wanted = min(USUAL_LENGTH, most) if length is None else length
        if not 2 <= wanted <= most:
            raise ExportError(f"got texts of {wanted} tokens, expected 2 to {most}; give another --length")
        network = _of_length(network, wanted)
    elif length is not None and (ours or network.config.modality != "samples"):
        raise ExportError(f"got length {length} for a model with inputs of one size; leave --length out")
    return LoadedModel(source.name, network.eval(), network, None)


def _is_ours(config: Path) -> bool:
    try:
        content = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError):
        return False  # loading says what is wrong with it
    return isinstance(content, dict) and "architecture" in content


def _of_length(network: Network, length: int) -> Network:
    """The same network for texts of at most so many tokens, of which work is then a share; its tables are cut."""
    if length == network.tokens == network.adapter.work_tokens:
        return network
    shorter = Network(network.adapter.of_length(length), (), network.task)
    weights = network.state_dict()
    cut = {name: weights[name][tuple(map(slice, own.shape))] for name, own in shorter.state_dict().items()}
    shorter.load_state_dict(cut)
    return shorter


def full_inputs(network: AdaptableNetwork, count: int) -> dict[str, Tensor]:
    """Random inputs, texts all of the full length: by name, ``[count, ...]``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        if isinstance(network, Network) and isinstance(network.adapter, PretrainedAdapter):
            return example_inputs(network.adapter.shape, count, padded=False)
        inputs = network.example_inputs(count)
    return {n: torch.ones_like(tensor) if is_mask(n, tensor.numpy()) else tensor for n, tensor in inputs.items()}
