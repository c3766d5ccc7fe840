"""The canonical block's options: each against a few lines of its own, traced, counted anew and run by an engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from adaptrt.export.graph.bodies import attach_bodies
from adaptrt.export.graph.trace import trace_stage
from adaptrt.export.parity.check import check_parity, knob_defaults
from adaptrt.export.parity.graph_macs import check_work
from adaptrt.models.adaptation import adapt
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.block import Block
from adaptrt.models.encoder_config import EncoderConfig
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from adaptrt.models.tokens import Tokens

OPTIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "rms_norm": {"norm": "rms", "epsilon": 1e-5},
    "post_norm": {"post_norm": True},
    "tanh_gelu": {"activation": "gelu_tanh"},
    "quick_gelu": {"activation": "quick_gelu"},
    "relu": {"activation": "relu"},
    "silu": {"activation": "silu"},
    "swiglu": {"activation": "silu", "gated": True},
    "geglu": {"activation": "gelu", "gated": True},
    "no_biases": {"attention_bias": False, "ffn_bias": False},
    "head_size": {"head_size": 6},
    "shared_keys": {"key_heads": 1},
    "layer_scale": {"layer_scale": True},
    "rotary": {"positions": "rotary", "rotary_base": 100.0},
    "relative": {"positions": "relative", "relative_reach": 3},
    "table": {"positions": "table", "position_rows": 9},
    "pair": {"positions": "pair", "position_rows": 9},
    "window": {"windows": (4, 2)},
    "causal": {"causal": True},
    "modern": {
        "norm": "rms",
        "activation": "silu",
        "gated": True,
        "positions": "rotary",
        "key_heads": 2,
        "ffn_bias": False,
    },
}
SHAPE = TextEncoderConfig(width=16, depth=2, heads=4, ffn_width=24, classes=3, vocabulary=30, length=9, post_norm=False)


def network(option: str, **families: Any) -> Network:
    torch.manual_seed(5)
    model = Network.from_config(dataclasses.replace(SHAPE, **OPTIONS[option], **families)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "attention.bias" in name:  # biases, scales: not the 0 and 1 that they start at
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    for block in model.blocks:
        if model.config.positions == "table":
            angle = torch.randn_like(block.attention.sine)  # type: ignore[operator, union-attr, arg-type]
            block.attention.cosine.copy_(angle.cos()), block.attention.sine.copy_(angle.sin())  # type: ignore[operator, union-attr]
    return model


def normalised(config: EncoderConfig, x: Tensor, norm: Any) -> Tensor:
    if config.norm == "layer":
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + config.epsilon).sqrt() * norm.weight + norm.bias
    return x / (x.square().mean(-1, keepdim=True) + config.epsilon).sqrt() * norm.weight


def activated(name: str, z: Tensor) -> Tensor:
    if name == "gelu_tanh":
        return 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)))
    functions = {"gelu": functional.gelu, "relu": functional.relu, "silu": functional.silu}
    return z * torch.sigmoid(1.702 * z) if name == "quick_gelu" else functions[name](z)


def attended(config: EncoderConfig, block: Block, x: Tensor, number: int) -> Tensor:
    """One sample ``[K, D]``, query after query and head after head."""
    p, d = block.projections, config.head_width
    q, k, v = (part(x) for part in (p.query, p.key, p.value))  # type: ignore[union-attr]
    group = config.heads // (config.key_heads or config.heads)
    window = config.windows[number % len(config.windows)] if config.windows else 0
    rows = []
    for i in range(len(x)):
        heads = []
        for head in range(config.heads):
            place = slice((head // group) * d, (head // group + 1) * d)
            scores = []
            for j in range(len(x)):
                one, other = q[i, head * d : (head + 1) * d], k[j, place]
                if config.positions == "rotary":
                    one, other = rotated(one, i, config.rotary_base), rotated(other, j, config.rotary_base)
                if config.positions == "table":
                    table = torch.complex(block.attention.cosine, block.attention.sine)  # type: ignore[arg-type]
                    one, other = turned(one, table[i]), turned(other, table[j])
                score = one @ other / d**0.5
                if config.positions == "pair":
                    score = score + block.attention.bias[head, i, j]  # type: ignore[index]
                if config.positions == "relative":
                    reach = config.relative_reach
                    score = score + block.attention.bias[head, min(max(j - i, -reach), reach) + reach]  # type: ignore[index]
                hidden = (config.causal and j > i) or (window and abs(i - j) > window // 2)
                scores.append(torch.full((), -torch.inf) if hidden else score)
            heads.append(torch.stack(scores).softmax(0) @ v[:, place])
        rows.append(torch.cat(heads))
    return p.out(torch.stack(rows))  # type: ignore[union-attr]


def turned(x: Tensor, by: Tensor) -> Tensor:
    half = len(x) // 2
    pairs = torch.complex(x[:half], x[half:]) * by
    return torch.cat([pairs.real, pairs.imag])


def rotated(x: Tensor, place: int, base: float) -> Tensor:
    half = len(x) // 2
    pairs = torch.complex(x[:half].double(), x[half:].double())
    angle = torch.tensor([place * base ** (-n / half) for n in range(half)], dtype=torch.float64)
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag]).float()


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("number", [0, 1])
def test_a_block_computes_what_its_options_say(option: str, number: int) -> None:
    model = network(option)
    config, block = model.config, model.blocks[number]
    assert isinstance(block, Block)
    x = torch.randn(7, config.width)
    with torch.no_grad():
        got, _ = block(Tokens(x, 7), None)  # type: ignore[arg-type]  # nothing in it has a price
        norm1, norm2 = (lambda y, norm=norm: normalised(config, y, norm) for norm in (block.norm1, block.norm2))
        part = attended(config, block, x if config.post_norm else norm1(x), number)
        y = x + part * (1 if block.scale1 is None else block.scale1)
        y = norm1(y) if config.post_norm else y
        read = y if config.post_norm else norm2(y)
        ffn = block.ffn
        hidden = activated(config.activation, (ffn.gate_up if config.gated else ffn.up)(read))  # type: ignore[operator, union-attr]
        hidden = hidden * ffn.up(read) if config.gated else hidden  # type: ignore[union-attr]
        y = y + ffn.down(hidden) * (1 if block.scale2 is None else block.scale2)  # type: ignore[union-attr]
        wanted = norm2(y) if config.post_norm else y
    torch.testing.assert_close(got.x, wanted, atol=2e-5, rtol=1e-4)
    if option != "usual":
        usual = network("usual").blocks[number](Tokens(x, 7), None)[0].x  # type: ignore[operator]
        assert not torch.equal(usual, got.x), "the option changes nothing"


@pytest.mark.parametrize("option", ["rotary", "relative", "table", "pair", "window"])
def test_tokens_that_are_cut_out_are_as_those_that_are_masked(option: str) -> None:
    """Positions are those that tokens had before."""
    model = network(option)
    block, kept = model.blocks[0], torch.tensor([0, 2, 3, 6])
    x = torch.randn(2, 9, model.config.width)
    masked = torch.zeros(2, 9, dtype=torch.bool)
    masked[:, kept] = True
    place = kept.to(torch.int32).expand(2, -1)
    with torch.no_grad():
        whole, _ = block(Tokens(x.reshape(18, -1), 9, masked), None)  # type: ignore[operator]
        cut, _ = block(Tokens(x[:, kept].reshape(8, -1), 4, masked[:, kept], place), None)  # type: ignore[operator]
    torch.testing.assert_close(cut.grouped(), whole.grouped()[:, kept], atol=2e-6, rtol=1e-5)


def test_a_first_block_without_norm_reads_what_the_embedding_gave() -> None:
    shape = dataclasses.replace(SHAPE, first_norm=False, final_norm=False)
    model = Network.from_config(shape).eval()
    assert [type(block.norm1) for block in model.blocks] == [torch.nn.Identity, torch.nn.LayerNorm]  # type: ignore[union-attr]
    assert isinstance(model.norm, torch.nn.Identity)
    again = adapt(model, model.example_inputs(3), acm=ACMConfig(2), exits=ExitConfig((1,)))
    assert isinstance(again.exit_norms[0], torch.nn.Identity)


@pytest.mark.slow("traces all families")
@pytest.mark.parametrize(
    "option", ["modern", "relative", "table", "pair", "window", "tanh_gelu", "head_size", "layer_scale"]
)
def test_options_go_with_all_families_into_graphs(option: str) -> None:
    """Traced, proved against torch with decisions forced, and the work counted anew from the products in the graph."""
    model = network(option, acm=ACMConfig(2), pruning=PruningConfig((0,)), exits=ExitConfig((1,)))
    stages = [trace_stage(model, number) for number in range(2)]
    for stage in stages:
        attach_bodies(stage.graph)
    torch.manual_seed(2)
    inputs = {name: tensor.numpy() for name, tensor in model.example_inputs(4).items()}
    settings = [{**knob_defaults(model), "price": price} for price in (0.0, 0.55, 1.0)]
    check_parity(model, stages, inputs, settings).require("options")
    check_work(stages, {name: array[:2] for name, array in inputs.items()}, settings, model.dense_macs())


@pytest.mark.parametrize("option", ["modern", "geglu", "quick_gelu", "layer_scale", "shared_keys", "post_norm"])
def test_an_adapted_network_with_all_learners_is_the_dense_one(option: str) -> None:
    dense = network(option)
    inputs = dense.example_inputs(5)
    adaptive = adapt(dense, inputs, acm=ACMConfig(learners=4)).eval()
    with torch.no_grad():
        one = adaptive.run(inputs, {"price": torch.zeros(1)}).logits
        torch.testing.assert_close(one, dense.run(inputs, {}).logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm": "batch"}, "got norm 'batch', expected one of layer, rms"),
        ({"positions": "sine"}, "got positions 'sine', expected one of added, rotary, relative, table, pair"),
        ({"activation": "mish"}, "mish"),
        ({"activation": "relu", "gated": True}, "relu"),
        ({"key_heads": 3}, "got 3 heads of keys, expected a divisor of 4 heads"),
        ({"positions": "rotary", "head_size": 5}, "heads of width 5, expected an even width"),
        ({"windows": (-1,)}, r"windows \(-1,\)"),
        ({"epsilon": 0.0}, "epsilon 0.0"),
        ({"task": "translation"}, "got task 'translation', expected one of classification"),
        ({"head_size": 6, "acm": ACMConfig(2, projections=True)}, "square projections"),
        ({"task": "token-classification", "pruning": PruningConfig((0,))}, "every token needs an answer"),
        ({"positions": "table"}, "got 0 rows for positions 'table'"),
        ({"position_rows": 4}, "got 4 rows for positions 'added'"),
        ({"task": "embedding", "exits": ExitConfig((1,))}, "expected 'certainty'"),
        (
            {"task": "token-classification", "exits": ExitConfig((1,), "patience")},
            "'patience' for token-classification",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        dataclasses.replace(SHAPE, **wrong)
    assert "\n" not in str(caught.value)


def test_a_dense_network_of_any_option_counts_its_work_as_its_layers_do() -> None:
    for option in OPTIONS:
        model = network(option)
        inputs = {name: torch.ones_like(tensor) for name, tensor in model.example_inputs(2).items()}
        with torch.no_grad():
            share = model.run(inputs, {}).macs_fraction.numpy()
        np.testing.assert_allclose(share, 1.0, rtol=1e-6, err_msg=option)
