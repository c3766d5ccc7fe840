"""The adapter of networks made from transformers checkpoints: inputs under transformers' names, tokens by its code."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.adapter import Adapter
from adaptrt.models.adapters.pretrained.config import PretrainedConfig
from adaptrt.models.adapters.pretrained.heads import PretrainedHead
from adaptrt.models.adapters.pretrained.splice import EmbeddingStage, build_model
from adaptrt.models.adapters.pretrained.tail import Tail, projection_of
from adaptrt.models.staged_network import NamedTensor
from adaptrt.models.tokens import Tokens
from adaptrt.models.work import WorkCount

INPUT_NAMES = {"text": "input_ids", "image": "pixel_values", "features": "input_features", "samples": "input_values"}
"""The first input of each modality, as Optimum's exports call it."""
ATTENTION_MASK, TOKEN_TYPES = "attention_mask", "token_type_ids"
AXIS = "sequence_length"


class PretrainedAdapter(Adapter[PretrainedConfig]):
    """An encoder of transformers: its own code up to the first layer, and in the head.

    Texts are padded behind: the first token always is real. Shares of work are relative to the dense model on a text
    of ``work_length``. Images and sounds have one size.
    """

    architecture: ClassVar[str] = "pretrained"
    made_from_dense: ClassVar[bool] = True

    def __init__(self, shape: PretrainedConfig) -> None:
        super().__init__(shape)
        self._parts: tuple[EmbeddingStage, nn.Module | None] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PretrainedAdapter:
        """Itself: it describes, and nobody changes it."""
        return self

    def parts(self) -> tuple[EmbeddingStage, nn.Module | None]:
        """The embedding and what of the model stands behind its layers, built once; users copy them.

        Raises:
            PretrainedError: transformers is missing, or does not build such a model.
        """
        if self._parts is None:
            c = self.shape
            self._parts = _split_model(build_model(c.model_class, c.made_of, encoder_only=c.encoder_only), c)
        return self._parts

    def embedding(self) -> dict[str, nn.Module | nn.Parameter | None]:
        """The model's own code up to the first layer."""
        return {"embed": copy.deepcopy(self.parts()[0])}

    def head(self, shape: PretrainedConfig) -> PretrainedHead:
        """The model's own code behind the layers, or a pooling."""
        return PretrainedHead(shape, copy.deepcopy(self.parts()[1]))

    def embed(self, network: Any, inputs: dict[str, Tensor]) -> Tokens:
        """Tokens of the samples.

        Raises:
            ValueError: The shapes do not fit, or texts are longer than the model allows.
        """
        c = self.shape
        if c.modality != "text":
            x = network.embed({INPUT_NAMES[c.modality]: inputs[INPUT_NAMES[c.modality]]})
            return Tokens(x.reshape(-1, c.width), c.length)
        words, mask = inputs["input_ids"], inputs[ATTENTION_MASK]
        if words.ndim != 2 or words.shape != mask.shape:
            raise ValueError(
                f"got input_ids of shape {list(words.shape)} and an attention_mask of shape {list(mask.shape)}, "
                "expected [batch, length] twice"
            )
        batch, length = words.shape
        if not torch.onnx.is_in_onnx_export() and not 1 <= length <= c.length:
            raise ValueError(f"got texts of {length} tokens, expected 1 to {c.length}; cut them")
        place = torch.arange(length, dtype=torch.int32, device=words.device)
        valid = (mask != 0) | (place == 0)
        # The mask is not handed on: embeddings do not read it, and the layers that would are ours.
        x = network.embed({name: tensor for name, tensor in inputs.items() if name != ATTENTION_MASK})
        presence = valid.to(x.dtype) if network.training else None
        return Tokens(x.reshape(-1, c.width), length, valid, place.expand(batch, -1), presence=presence)

    def embedding_macs(self, network: Any) -> int:
        """Of the sample that work is relative to."""
        del network
        return self.shape.embedding_macs * (self.work_tokens if self.ragged else 1)

    def count_embedding(self, network: Any, work: WorkCount, tokens: Tokens) -> None:
        """Count one run; padding costs a text nothing."""
        if self.shape.modality != "text":
            super().count_embedding(network, work, tokens)
        elif self.shape.embedding_macs:
            work.tokens(tokens, per_token=self.shape.embedding_macs)

    @property
    def tokens(self) -> int:
        """Tokens of a sample, of texts the most."""
        return self.shape.length

    @property
    def work_tokens(self) -> int:
        """Of texts those of ``work_length``."""
        return self.shape.work_length or self.shape.length

    def counting_work_for(self, tokens: int) -> PretrainedAdapter:
        """The same adapter, the parts built so far included."""
        other = copy.copy(self)
        other.shape = dataclasses.replace(self.shape, work_length=tokens)
        return other

    def of_length(self, length: int) -> PretrainedAdapter:
        """Work is a share of that length's, whatever it was before."""
        return PretrainedAdapter(dataclasses.replace(self.shape, length=length, work_length=0))

    @property
    def ragged(self) -> bool:
        """Texts have different lengths."""
        return self.shape.modality == "text"

    @property
    def token_axis(self) -> int | str:
        """The texts' own axis."""
        return AXIS if self.ragged else self.shape.length

    def inputs(self) -> list[NamedTensor]:
        """Under the names of Optimum's exports; masks are whole numbers."""
        c = self.shape
        if c.modality != "text":
            return [NamedTensor(INPUT_NAMES[c.modality], "float32", ("batch", *c.input_size), prepared=True)]
        axes = ("batch", AXIS)
        named = [("input_ids", c.vocabulary), (ATTENTION_MASK, 2), (TOKEN_TYPES, c.token_types)]
        return [NamedTensor(name, "int64", axes, 0, count - 1) for name, count in named if count]

    def axis_limits(self) -> dict[str, tuple[int, int | None]]:
        """Texts go up to the configured length."""
        return {**super().axis_limits(), **self.traced_limits()}

    def traced_limits(self) -> dict[str, tuple[int, int | None]]:
        """The position table ends somewhere."""
        return {AXIS: (1, self.shape.length)} if self.ragged else {}

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random inputs; texts have random lengths and are padded to the full one."""
        return example_inputs(self.shape, batch)


def example_inputs(shape: PretrainedConfig, batch: int, *, padded: bool = True) -> dict[str, Tensor]:
    """Random inputs of a batch, by name; ``padded``: texts of random lengths, else all of the full one."""
    if shape.modality != "text":
        return {INPUT_NAMES[shape.modality]: torch.randn(batch, *shape.input_size)}
    size = (batch, shape.length)
    least = 1 if padded else shape.length
    real = torch.arange(shape.length) < torch.randint(least, shape.length + 1, (batch, 1))
    # Above the special tokens, that of padding among them, which some models give no position.
    words = torch.randint(min(5, shape.vocabulary - 1), shape.vocabulary, size)
    padding = shape.made_of.get("pad_token_id")
    inputs = {
        "input_ids": torch.where(real, words, padding if isinstance(padding, int) else 0),
        ATTENTION_MASK: real.to(torch.int64),
    }
    if shape.token_types:
        inputs[TOKEN_TYPES] = torch.randint(shape.token_types, size) * real
    return inputs


def _split_model(model: nn.Module, shape: PretrainedConfig) -> tuple[EmbeddingStage, nn.Module | None]:
    """The two ends of a model, which are taken out of it."""
    tail: nn.Module | None = None
    if shape.base and shape.task == "embedding":
        tail = projection_of(model)
    elif shape.base:
        tail = Tail.of(model, shape.base, INPUT_NAMES[shape.modality])
    base: nn.Module = getattr(model, shape.base) if shape.base else model
    stage = EmbeddingStage(base, shape.layers, shape.returns_tuple)
    stage.strip(shape.unused)
    return stage, tail
