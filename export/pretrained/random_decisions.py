"""An adaptive network whose decisions are spread like trained ones before anything was trained.

What a graph costs depends on how many learners each token runs, which tokens stay and where samples leave, not on
whether these are the right ones. So gates and selectors keep their random weights, which are scaled and shifted until
what they compare with the price differs between tokens and samples as it does in trained networks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.adaptation import adapt
from adaptrt.models.families.gate import PriceGate
from adaptrt.models.families.routed_ffn import Router
from adaptrt.models.families.token_pruning import PriceSelector, received
from adaptrt.models.tokens import Attention, Tokens

SEED = 0
_GATE_SPREAD = 1.5
"""Standard deviation over tokens of what a gate puts into the sigmoid of each step. Some tokens then run all learners
where others run none, as after training."""
_TOKEN_SPREAD = 1.5
"""Of a token's gain on the logit scale, over the tokens of all samples."""
_SAMPLE_SPREAD = 0.2
"""Of a selector's threshold on that scale, over samples: some keep more tokens than others, which a batch pays for, as
all are padded to the most. In an adapted MiniLM, at half and a third of the work, it was 1.1 to 1.2 times the mean."""
_LEAST = 1e-3  # a spread below it is rounding
_MIDDLE = 0.5


def with_random_decisions(
    dense: AdaptableNetwork, families: dict[str, Any], inputs: dict[str, Tensor]
) -> AdaptableNetwork:
    """The adaptive network of a dense one, untrained, with decisions that differ between tokens and samples.

    Learners are parts of the dense layers, so that what reaches later layers stays of their scale.

    Args:
        dense: The network, in evaluation mode.
        families: Configurations by the names that ``adapt`` has for them, or None; see ``chosen_families``.
        inputs: Some by name, ``[B, ...]``, on which the spread is measured.

    Returns:
        In evaluation mode.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        network = adapt(dense, inputs, **families).eval()
        _spread(network, inputs)
    return network


def _spread(network: AdaptableNetwork, inputs: dict[str, Tensor]) -> None:
    """Set every gate and selector by what reaches it, in one run; earlier ones are set when later ones are reached.

    Half of the learners run meanwhile: what reaches a gate depends on what ran before it. All tokens stay.
    """
    spreads = {PriceGate: _spread_gate, Router: _spread_router}
    hooks = [gate.register_forward_pre_hook(spreads[type(gate)]) for gate in network.gates()]
    hooks += [m.register_forward_pre_hook(_spread_selector) for m in network.modules() if isinstance(m, PriceSelector)]
    knobs = {spec.name: torch.tensor([spec.minimum]) for spec in network.knob_specs()}
    if network.gates():
        knobs["price"] = torch.tensor([_MIDDLE])
    if "token_price" in knobs:
        knobs["token_price"] = torch.tensor([0.0])
    try:
        network.run(inputs, knobs)
    finally:
        for hook in hooks:
            hook.remove()


def _spread_gate(gate: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Scale the outer layer of a gate to the wanted spread, about the bias it was made with: gains from 0.8 to 0.2."""
    assert isinstance(gate, PriceGate)
    x, valid = arguments[0], arguments[2] if len(arguments) > 2 else None
    if valid is not None:
        x = x[valid.reshape(-1)]
    raw = functional.relu(gate.inner(x)) @ gate.outer.weight.T
    scale = _GATE_SPREAD / raw.std(0).clamp(min=_LEAST)
    gate.outer.weight.mul_(scale[:, None])
    gate.outer.bias.sub_(raw.mean(0) * scale)


def _spread_router(router: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Scale a router's map, about the bias it was made with, so that tokens differ in the price that sends them on."""
    assert isinstance(router, Router)
    x, valid = arguments[0], arguments[2] if len(arguments) > 2 else None
    if valid is not None:
        x = x[valid.reshape(-1)]
    raw = x @ router.score.weight.T
    scale = _GATE_SPREAD / raw.std(0).clamp(min=_LEAST)
    router.score.weight.mul_(scale[:, None])
    router.score.bias.sub_(raw.mean(0) * scale)


def _spread_selector(selector: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Set slope and threshold of a selector: gains vary about 0.5, and the threshold from sample to sample."""
    assert isinstance(selector, PriceSelector)
    tokens, attention = arguments[0], arguments[1]
    assert isinstance(tokens, Tokens) and isinstance(attention, Attention)
    weight = torch.randn_like(selector.threshold.weight)
    thresholds = []
    for row in (weight, torch.zeros_like(weight)):
        selector.threshold.weight.copy_(row)
        selector.threshold.bias.zero_()
        selector.log_slope.zero_()
        thresholds.append(selector.logits(tokens, received(attention, tokens, selector.class_token)))
    relative = thresholds[1]
    of_sample = relative[:, 0] - thresholds[0][:, 0]
    known = relative if tokens.valid is None else relative[tokens.valid]
    slope = _TOKEN_SPREAD / known.std().clamp(min=_LEAST)
    scale = _SAMPLE_SPREAD / of_sample.std().clamp(min=_LEAST)
    selector.log_slope.copy_(slope.log())
    selector.threshold.weight.copy_(weight * scale)
    # The median token of the median sample stays at a price of 0.5.
    selector.threshold.bias.copy_((known.median() * slope - of_sample.median() * scale)[None])
