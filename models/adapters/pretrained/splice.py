"""transformers' own code up to the first layer, as the embedding stage of a network."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from adaptrt.models.adapters.pretrained.rows import PretrainedError


def transformers() -> ModuleType:
    """The package, imported when it is first needed.

    Raises:
        PretrainedError: It is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise PretrainedError(
            f"transformers cannot be imported ({error}), expected it for networks made from its checkpoints: install "
            "adaptrt[pretrained]"
        ) from error


class _Reached(Exception):  # noqa: N818 - no error: it ends a run at the first layer
    """The first layer was reached."""


class Splice(nn.Module):
    """Stands where a layer stood and gives on what it gets.

    Attributes:
        attention_type: What ModernBERT reads of its layers, to choose what it gives them.
        reached: What the first layer got, until it is taken away; None in the place of a later layer.
        ends: Whether the run ends here. Not in traces, which an exception would tear.
    """

    def __init__(self, layer: Any, returns_tuple: bool, first: bool) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", None)
        self.returns_tuple, self.ends = returns_tuple, False
        self.reached: list[Tensor] | None = [] if first else None

    def forward(self, hidden: Tensor, *others: Any, **named: Any) -> Any:
        """``[B, K, D]`` -> the same, as the layer would give it."""
        del others, named
        if self.reached is not None:
            del self.reached[1:]  # a shared layer is called again
            if not self.reached:
                self.reached.append(hidden)
            if self.ends:
                raise _Reached
        return (hidden,) if self.returns_tuple else hidden


class EmbeddingStage(nn.Module):
    """A transformers model without its layers: inputs to the first block's tokens.

    Args:
        model: The base model; its layers are replaced.
        layers: Their paths, the first one first.
        returns_tuple: Whether they give tuples.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], returns_tuple: bool) -> None:
        super().__init__()
        self.model, self.layers = model, tuple(layers)
        for number, path in enumerate(layers):
            replace_module(model, path, Splice(model.get_submodule(path), returns_tuple, not number))

    def train(self, mode: bool = True) -> EmbeddingStage:
        """Stays in evaluation: dropped tokens and masked spans would teach the blocks noise."""
        super().train(mode)
        self.model.eval()
        return self

    @property
    def _splice(self) -> Splice:
        splice = self.model.get_submodule(self.layers[0])
        assert isinstance(splice, Splice)
        return splice

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Named inputs -> ``[B, K, D]``. What the model does behind the layers reaches no output."""
        splice = self._splice
        assert splice.reached is not None
        with contextlib.suppress(_Reached):
            self.model(**inputs)
        if not splice.reached:
            raise PretrainedError(
                f"{type(self.model).__name__} ended before its first layer, expected it to be reached; report the model"
            )
        hidden = splice.reached[0]
        splice.reached.clear()
        return hidden

    def strip(self, unused: Iterable[str]) -> None:
        """Leave out modules that the embedding does without."""
        for path in unused:
            replace_module(self.model, path, nn.Identity())

    def find_unused(self, inputs: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Paths of the largest modules that do not run, and none of whose parameters changes the embedding.

        Both are looked at: some run for nothing, and of some only a weight is read.
        """
        ran: set[nn.Module] = set()
        handles = [module.register_forward_hook(lambda module, *_: ran.add(module)) for module in self.model.modules()]
        self._splice.ends = True
        parameters = dict(self.model.named_parameters())
        frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
        with torch.enable_grad():
            self.model.requires_grad_(True)
            gradients = torch.autograd.grad(
                self(inputs).square().sum(), list(parameters.values()), allow_unused=True, materialize_grads=False
            )
        self._splice.ends = False
        for handle in handles:
            handle.remove()
        for name in frozen:
            parameters[name].requires_grad_(False)
        used = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
        found: list[str] = []
        for path, module in self.model.named_modules():
            names = [f"{path}.{name}" for name, _ in module.named_parameters()]
            inside = any(path.startswith(f"{other}.") for other in found)
            around = any(layer.startswith(f"{path}.") for layer in self.layers)
            idle = used.isdisjoint(names) and ran.isdisjoint(module.modules())
            if path and names and not inside and not around and idle:
                found.append(path)
        return tuple(found)


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module where another stood."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def build_model(model_class: str, made_of: Mapping[str, Any], *, encoder_only: bool = False) -> nn.Module:
    """A model of transformers with new weights, or its encoder, in evaluation mode.

    Args:
        model_class: Of transformers.
        made_of: Its configuration.
        encoder_only: Whether the encoder of such a model alone is wanted.

    Raises:
        PretrainedError: This version of transformers does not know it, or its configuration is damaged.
    """
    kind = model_kind(model_class)
    try:
        model: Any = kind(kind.config_class.from_dict(dict(made_of)))
    except Exception as error:  # configurations are checked in many ways
        raise PretrainedError(f"transformers cannot build {model_class}: {first_line(error)}") from error
    built: nn.Module = encoder_of(model, encoder_only).eval()
    return built


def model_kind(name: str) -> Any:
    """The class of transformers of that name.

    Raises:
        PretrainedError: There is none, or it is no model.
    """
    package = transformers()
    kind = getattr(package, name, None)
    if not isinstance(kind, type) or not issubclass(kind, package.PreTrainedModel):
        raise PretrainedError(
            f"got model class {name!r}, expected a model of transformers {package.__version__}; install the version "
            "that the model was made with"
        )
    return kind


def encoder_of(model: Any, encoder_only: bool) -> Any:
    """A model, or its encoder."""
    return model.get_encoder() if encoder_only else model


def first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
