"""Where the parts of a convolutional model of transformers are: one row per way of naming them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STAGES, _LAYERS = "encoder.stages", "layers"


@dataclass(frozen=True)
class ConvolutionalRow:
    """The names in one kind of model; layers stand in ``encoder.stages.N.layers``.

    Attributes:
        families: Who names its parts so.
        stem: What runs before the layers, in the base model.
        layer: Parameters that a layer has; it may have others, as all of it is used.
        before: What runs before the layers of a stage, one after the other; empty: nothing.
        norm: What normalises the mean over all places, in the base model; empty: nothing does.
    """

    families: str
    stem: str
    layer: tuple[str, ...]
    before: str = ""
    norm: str = ""


CONVOLUTIONAL_ROWS: tuple[ConvolutionalRow, ...] = (
    ConvolutionalRow(
        "ResNet, RegNet", stem="embedder", layer=("layer.0.convolution.weight", "layer.0.normalization.weight")
    ),
    ConvolutionalRow(
        "ConvNeXT, ConvNeXT V2",
        stem="embeddings",
        layer=("dwconv.weight", "layernorm.weight", "pwconv1.weight", "pwconv2.weight"),
        before="downsampling_layer",
        norm="layernorm",
    ),
)
"""Every way of naming that is known."""


@dataclass(frozen=True)
class FoundParts:
    """Paths in a model.

    Attributes:
        row: That fits it.
        base: Of the base model; empty: it is the whole.
        stem: What runs before the layers.
        blocks: For each layer what runs, one after the other, the layer last.
        norm: What normalises the mean over all places; empty: nothing does.
    """

    row: ConvolutionalRow
    base: str
    stem: str
    blocks: tuple[tuple[str, ...], ...]
    norm: str


def find_parts(model: Any) -> FoundParts | None:
    """The parts of a model that a row fits; None: none does."""
    for base in ("", str(getattr(model, "base_model_prefix", ""))):
        prefix = f"{base}." if base else ""
        modules = {path: module for path, module in model.named_modules() if path.startswith(prefix)}
        for row in CONVOLUTIONAL_ROWS:
            stem, norm = prefix + row.stem, prefix + row.norm if row.norm else ""
            stages = modules.get(prefix + STAGES)
            if stages is None or stem not in modules or (norm and norm not in modules):
                continue
            blocks = [block for name, _ in stages.named_children() for block in _blocks(modules, prefix, name, row)]
            layers = [modules[block[-1]] for block in blocks]
            if layers and all(set(row.layer) <= {name for name, _ in layer.named_parameters()} for layer in layers):
                return FoundParts(row, base, stem, tuple(blocks), norm)
    return None


def _blocks(modules: dict[str, Any], prefix: str, stage: str, row: ConvolutionalRow) -> list[tuple[str, ...]]:
    """Paths of what runs in a stage, layer by layer; what stands before them belongs to the first."""
    at = f"{prefix}{STAGES}.{stage}"
    before, layers = modules.get(f"{at}.{row.before}") if row.before else None, modules.get(f"{at}.{_LAYERS}")
    if layers is None:
        return []
    first = [] if before is None else [f"{at}.{row.before}.{name}" for name, _ in before.named_children()]
    found: list[tuple[str, ...]] = []
    for name, _ in layers.named_children():
        found.append((*(() if found else first), f"{at}.{_LAYERS}.{name}"))
    return found
