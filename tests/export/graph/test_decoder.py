"""A decoder's graph beside transformers: logits, and the greedy text with a cache, drafts and the prompt in parts."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

from adaptrt.export.graph.decoder import cache_names, trace_decoder
from adaptrt.models.adapters.pretrained.decoder_weights import decoder_from
from adaptrt.runtime.errors import InputError
from adaptrt.runtime.generation import decoding
from adaptrt.runtime.generation.cache import KeyValueCache
from adaptrt.runtime.generation.tree import DraftTree

VOCABULARY, CONTEXT, NEW = 61, 320, 24
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
KINDS = {
    "llama": (transformers.LlamaConfig, {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama with biases": (transformers.LlamaConfig, {"num_key_value_heads": 4, "attention_bias": True, "head_dim": 12}),
    "qwen2": (transformers.Qwen2Config, {"num_key_value_heads": 1}),
    "mistral": (transformers.MistralConfig, {"num_key_value_heads": 2, "sliding_window": None}),
}
TIE = 1e-4
"""Two logits so close may change places."""


def checkpoint(kind):
    """Random weights, biases and norms among them, wide enough for texts that do not repeat one token."""
    config, options = KINDS[kind]
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config(**SIZES, **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.uniform_(0.5, 1.5) if "norm" in name else parameter.uniform_(-0.6, 0.6)
    return model


@pytest.fixture(scope="module", params=KINDS)
def exported(request):
    model = checkpoint(request.param)
    decoder = decoder_from(model)
    graph = trace_decoder(decoder)
    onnx.checker.check_model(graph, full_check=True)
    assert not any(node.metadata_props for node in graph.graph.node), "places in the machine's files"
    (bias,) = (value for value in graph.graph.input if value.name == "attention_bias")
    assert [size.dim_param or size.dim_value for size in bias.type.tensor_type.shape.dim] == [
        "batch",
        1,
        "new",
        "past + new",
    ]
    return model, decoder.config, graph


def call_of(graph):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    depth = sum(output.name.endswith(".key") for output in session.get_outputs())

    def call(inputs, past):
        logits, *new = session.run(
            None, {**inputs._asdict(), **dict(zip(cache_names("past", depth), past, strict=True))}
        )
        return logits, new

    return call


def written(exported, prompt, **options):
    _, config, graph = exported
    cache = KeyValueCache(config.depth, config.key_heads, config.head_width, CONTEXT)
    steps = decoding.decode(call_of(graph), cache, prompt, vocabulary=VOCABULARY, max_new=NEW, **options)
    return [token for step in steps for token in step.tokens]


def greedy(model, prompt):
    """By transformers, without a cache, and the smallest margin between the two likeliest tokens."""
    text, margin = list(prompt), np.inf
    with torch.no_grad():
        for _ in range(NEW):
            first, second = model(torch.tensor([text])).logits[0, -1].topk(2).values
            margin = min(margin, float(first - second))
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(prompt) :], margin


def prompts():
    random = np.random.default_rng(1)
    return [random.integers(0, VOCABULARY, size).tolist() for size in (1, 2, 7, 40, 280)]


class Guesses:
    """Drafts the text that it was told, and beside it what is wrong."""

    def __init__(self, text, prompt, wrong):
        self.text, self.wrong = [*prompt, *text, 0, 0, 0], wrong

    def draft(self, text, size):
        assert size >= 8
        tree, ahead = DraftTree(text[-1], VOCABULARY), self.text[len(text) : len(text) + 3]
        if self.wrong:
            ahead = [(token + 1) % VOCABULARY for token in ahead]
        tree.add_path([(ahead[0] + 2) % VOCABULARY, *ahead])
        tree.add_path(ahead)
        return tree

    def observe(self, step):
        assert step.logits.shape == (len(step.tree), VOCABULARY)


def test_logits_are_those_of_transformers(exported):
    model, config, graph = exported
    ids = torch.randint(VOCABULARY, (3, 11))
    places = np.broadcast_to(np.arange(11), (3, 11))
    bias = np.broadcast_to(np.triu(np.full((11, 11), -1e9, np.float32), 1), (3, 1, 11, 11))
    empty = np.zeros((3, config.key_heads, 0, config.head_width), np.float32)
    inputs = decoding.DecoderInputs(ids.numpy(), places, bias, places[:, ::-1])
    logits, _ = call_of(graph)(inputs, [empty] * (2 * config.depth))
    with torch.no_grad():
        expected = model(ids).logits.numpy()
    np.testing.assert_allclose(logits[:, ::-1], expected, atol=2e-5, rtol=0)


def test_the_comparison_notices_other_weights(exported):
    _, config, graph = exported
    prompt = prompts()[2]
    changed = onnx.ModelProto.FromString(graph.SerializeToString())
    for tensor in changed.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 2 and config.ffn_width in values.shape:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(-1), tensor.name))
    assert written((None, config, changed), prompt) != written(exported, prompt)


@pytest.mark.parametrize("prompt", prompts(), ids=len)
def test_the_greedy_text_is_that_of_transformers(exported, prompt):
    """Plain, and with drafts that are right and wrong; the longest prompt is read in two calls."""
    expected, margin = greedy(exported[0], prompt)
    if margin <= TIE:
        pytest.fail(f"two tokens are {margin} apart: this prompt says nothing, take another one")
    assert written(exported, prompt) == expected
    for wrong in (False, True):
        drafter = Guesses(expected, prompt, wrong)
        assert written(exported, prompt, drafter=drafter, size=lambda: 8) == expected


@pytest.mark.parametrize(
    "prompt,message",
    [([], "got an empty prompt"), ([3, VOCABULARY], "got id 61 at place 1"), ([1] * CONTEXT, "the model's context")],
)
def test_prompts_that_cannot_be_continued_are_refused(prompt, message):
    steps = decoding.decode(None, KeyValueCache(2, 2, 8, CONTEXT), prompt, vocabulary=VOCABULARY, max_new=1)
    with pytest.raises(InputError, match=message):
        next(steps)


@pytest.mark.parametrize(
    "config,message",
    [
        (transformers.GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9), "got a model of type 'gpt2'"),
        (transformers.LlamaConfig(**SIZES, hidden_act="relu"), "got hidden_act 'relu'"),
        (transformers.LlamaConfig(**SIZES, mlp_bias=True), "got mlp_bias True"),
        (transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=16), "got a window of 16 tokens"),
    ],
)
def test_what_is_not_exported_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        decoder_from(transformers.AutoModelForCausalLM.from_config(config))
