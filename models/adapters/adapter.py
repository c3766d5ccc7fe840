"""What describes one architecture family: its inputs, and how they become the first block's tokens.

An adapter describes and ``Network`` runs: the modules of the embedding become the network's own, under the names that
the adapter gives them, and the adapter reads them from there.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from adaptrt.models.encoder_config import EncoderConfig
from adaptrt.models.heads import make_head
from adaptrt.models.staged_network import NamedTensor
from adaptrt.models.tokens import Tokens
from adaptrt.models.work import WorkCount

Shape = TypeVar("Shape", bound=EncoderConfig)


class Adapter(abc.ABC, Generic[Shape]):
    """One architecture family.

    Attributes:
        architecture: What ``config.json`` calls it.
        made_from_dense: Whether its networks are made from dense ones and taught their answers.
        shape: Sizes and options of the network; its families are read by nobody here.
    """

    architecture: ClassVar[str]
    made_from_dense: ClassVar[bool] = False

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    @abc.abstractmethod
    def embedding(self) -> dict[str, nn.Module | nn.Parameter | None]:
        """New modules and parameters of the embedding, by the names that they have in the network."""

    @abc.abstractmethod
    def embed(self, network: Any, inputs: dict[str, Tensor]) -> Tokens:
        """The first block's tokens; the embedding's modules are the network's.

        Raises:
            ValueError: The inputs do not fit.
        """

    @abc.abstractmethod
    def embedding_macs(self, network: Any) -> int:
        """Multiply-accumulates of the embedding for one sample."""

    def count_embedding(self, network: Any, work: WorkCount, tokens: Tokens) -> None:
        """Count one run of the embedding, which gave these tokens: as much for every sample."""
        del tokens
        work.constant(self.embedding_macs(network))

    def head(self, shape: Shape) -> Any:
        """A new head, with the methods of ``SampleHead`` in ``models/heads.py``; ``shape`` names task and families."""
        return make_head(shape)

    @property
    @abc.abstractmethod
    def tokens(self) -> int:
        """Tokens per sample, the class token included; where these differ, the most."""

    @property
    def work_tokens(self) -> int:
        """Tokens of the sample whose dense work all shares of work are relative to."""
        return self.tokens

    def counting_work_for(self, tokens: int) -> Adapter[Shape]:
        """The same adapter with another number of ``work_tokens``.

        Raises:
            ValueError: Samples have one size, or never so many tokens.
        """
        raise ValueError(f"got work for {tokens} tokens, expected it left out: samples have {self.tokens} tokens")

    def of_length(self, length: int) -> Adapter[Shape]:
        """An adapter of texts of at most so many tokens, of which work is then a share; with parts of its own."""
        return type(self)(dataclasses.replace(self.shape, length=length))  # type: ignore[call-arg]

    @property
    def ragged(self) -> bool:
        """Whether samples have different numbers of tokens from the start, which ``embed`` then marks."""
        return False

    @property
    @abc.abstractmethod
    def token_axis(self) -> int | str:
        """How many tokens a sample has before any selection, or the input's axis that says so."""

    @abc.abstractmethod
    def inputs(self) -> list[NamedTensor]:
        """The network's inputs, knobs not among them."""

    def axis_limits(self) -> dict[str, tuple[int, int | None]]:
        """Shortest and longest size of every named axis of the inputs; None: no limit, for the batch alone."""
        return {"batch": (0, None)}

    def traced_limits(self) -> dict[str, tuple[int, int | None]]:
        """Sizes of named axes that the embedding's code takes, of those that it does not take from 1 on without end."""
        return {}

    @abc.abstractmethod
    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random inputs of a batch, by name."""
