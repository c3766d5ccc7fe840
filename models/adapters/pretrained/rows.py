"""Which parameter of a transformers layer is which of a block's: one row per way of naming them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from adaptrt import AdaptrtError
from adaptrt.models.adapters.pretrained.convolutional.rows import CONVOLUTIONAL_ROWS


class PretrainedError(AdaptrtError):
    """A checkpoint that cannot become a network of ours."""


@dataclass(frozen=True)
class Row:
    """The names in one layer. Biases stand beside weights, as ``name.bias``, or are missing and then zero.

    Attributes:
        families: Who names its layers so.
        projections: Queries, keys and values; a single name holds all three, one after the other.
        out: Output of the attention.
        up: First linear map of the feed-forward network; of a gated one that without activation. Empty where ``gate``
            holds both halves.
        down: Last linear map of the feed-forward network.
        norm1: The normalisation of the attention's half.
        norm2: That of the other half.
        gate: The branch with the activation, where the network is gated.
        scales: What each half is scaled by before it is added, if it is.
        post_norm: Whether each half is normalised after its sum; None: the normalisations are called after the sum in
            some models and before in others, told apart by ``pre_norm_flag``.
        pre_norm_flag: Name of the configuration's flag that says "before".
        bare_first: Whether the first layer may lack ``norm1``.
        activation: Name in ``ops/activations.py``; empty: as the configuration says.
        pair_bias: Module in a layer that gives a bias for each pair of tokens, ``[1, H, K, K]``.
        pair_weights: Its parameters.
    """

    families: str
    projections: tuple[str, ...]
    out: str
    up: str
    down: str
    norm1: str
    norm2: str
    gate: str = ""
    scales: tuple[str, ...] = ()
    post_norm: bool | None = False
    pre_norm_flag: str = ""
    bare_first: bool = False
    activation: str = ""
    pair_bias: str = ""
    pair_weights: tuple[str, ...] = ()

    @property
    def linears(self) -> tuple[str, ...]:
        """All linear maps."""
        return tuple(name for name in (*self.projections, self.out, self.up, self.gate, self.down) if name)

    def required(self) -> set[str]:
        """Parameters that a layer needs to be of this row."""
        norms = {f"{self.norm2}.weight"} | (set() if self.bare_first else {f"{self.norm1}.weight"})
        return {f"{name}.weight" for name in self.linears} | norms | set(self.scales)

    def known(self) -> set[str]:
        """Parameters that a layer of this row may have."""
        modules = (*self.linears, self.norm1, self.norm2)
        return {f"{name}.{kind}" for name in modules for kind in ("weight", "bias")} | {
            *self.scales,
            *self.pair_weights,
        }


_BERT_FFN: dict[str, Any] = {"up": "intermediate.dense", "down": "output.dense", "norm2": "output.LayerNorm"}
_VIT: dict[str, Any] = {
    "projections": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "out": "attention.o_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
_DINO: dict[str, Any] = {
    "projections": _VIT["projections"],
    "out": _VIT["out"],
    "norm1": "norm1",
    "norm2": "norm2",
    "scales": ("layer_scale1.lambda1", "layer_scale2.lambda1"),
}
_SELF = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATED: dict[str, Any] = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}

ROWS: tuple[Row, ...] = (
    Row(
        "BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA",
        projections=("attention.self.query", "attention.self.key", "attention.self.value"),
        out="attention.output.dense",
        norm1="attention.output.LayerNorm",
        post_norm=True,
        **_BERT_FFN,
    ),
    Row(
        "DistilBERT",
        projections=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        out="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        norm1="sa_layer_norm",
        norm2="output_layer_norm",
        post_norm=True,
    ),
    Row(
        "MPNet",
        projections=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        out="attention.attn.o",
        norm1="attention.LayerNorm",
        post_norm=True,
        **_BERT_FFN,
    ),
    Row(
        "ALBERT",
        projections=("attention.query", "attention.key", "attention.value"),
        out="attention.dense",
        up="ffn",
        down="ffn_output",
        norm1="attention.LayerNorm",
        norm2="full_layer_layer_norm",
        post_norm=True,
    ),
    Row(
        "ModernBERT",
        projections=("attn.Wqkv",),
        out="attn.Wo",
        up="",
        gate="mlp.Wi",
        down="mlp.Wo",
        norm1="attn_norm",
        norm2="mlp_norm",
        bare_first=True,
    ),
    Row(
        "Nomic BERT",
        projections=_SELF,
        out="self_attn.o_proj",
        norm1="post_attention_layernorm",
        norm2="post_mlp_layernorm",
        post_norm=True,
        **_GATED,
    ),
    Row(
        "EuroBERT",
        projections=_SELF,
        out="self_attn.o_proj",
        norm1="input_layernorm",
        norm2="post_attention_layernorm",
        **_GATED,
    ),
    Row("ViT, DeiT", **_VIT),
    Row(
        "BEiT",
        scales=("lambda_1", "lambda_2"),
        pair_bias="relative_position_bias",
        pair_weights=("relative_position_bias.relative_position_bias_table",),
        **_VIT,
    ),
    Row("DINOv2", up="mlp.fc1", down="mlp.fc2", **_DINO),
    Row("DINOv2 with SwiGLU, DINOv3 with gates", activation="silu", **_GATED, **_DINO),
    Row("DINOv3", up="mlp.up_proj", down="mlp.down_proj", **_DINO),
    Row(
        "CLIP, SigLIP",
        projections=_SELF,
        out="self_attn.out_proj",
        up="mlp.fc1",
        down="mlp.fc2",
        norm1="layer_norm1",
        norm2="layer_norm2",
    ),
    Row(
        "Whisper",
        projections=_SELF,
        out="self_attn.out_proj",
        up="fc1",
        down="fc2",
        norm1="self_attn_layer_norm",
        norm2="final_layer_norm",
    ),
    Row(
        "wav2vec2, HuBERT",
        projections=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        out="attention.out_proj",
        up="feed_forward.intermediate_dense",
        down="feed_forward.output_dense",
        norm1="layer_norm",
        norm2="final_layer_norm",
        post_norm=None,
        pre_norm_flag="do_stable_layer_norm",
    ),
)
"""Every way of naming that is known."""


def find_layers(model: Any) -> tuple[Row, dict[str, Any]]:
    """The row that fits a model, and the layers that it fits by their paths.

    Raises:
        PretrainedError: No row does, or a layer has a parameter beyond what its row knows.
    """
    unknown: tuple[Row, set[str]] | None = None
    for row in ROWS:
        layers: dict[str, Any] = {}
        beyond: set[str] = set()
        for path, module in model.named_modules():
            if path and _has(module, row.out):
                names = {name for name, _ in module.named_parameters()}
                if row.required() <= names:
                    layers[path] = module
                    beyond |= names - row.known()
        if layers and not beyond:
            return row, layers
        if layers and (unknown is None or len(beyond) < len(unknown[1])):
            unknown = row, beyond
    kind = type(model).__name__
    if unknown is not None:
        row, beyond = unknown
        raise PretrainedError(
            f"got {kind}, whose layers are named as those of {row.families} but also have {_few(beyond)}, expected no "
            "parameter beyond them: they would be left out of the computation; use a model of a family that is covered"
        )
    raise PretrainedError(f"got {kind}, whose layers no row names, expected one of {covered()}; use such a model")


def covered() -> str:
    """The families that rows cover, for messages."""
    return ", ".join([*(row.families for row in ROWS), *(row.families for row in CONVOLUTIONAL_ROWS)])


def _has(module: Any, path: str) -> bool:
    for name in path.split("."):
        module = getattr(module, "_modules", {}).get(name)
        if module is None:
            return False
    return True


def _few(names: Iterable[str], most: int = 3) -> str:
    """Some names for a message."""
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
