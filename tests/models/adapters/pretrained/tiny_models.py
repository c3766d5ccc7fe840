"""Random tiny models of every family that a row covers, made from transformers' configurations with a fixed seed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 60}
POSITIONS = {**TEXT, "max_position_embeddings": 40}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
}
SPEECH = {
    **{key: TEXT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
    "classifier_proj_size": 16,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", POSITIONS),
    "xlm_roberta": ("XLMRobertaModel", POSITIONS),
    "electra": ("ElectraModel", {**POSITIONS, "embedding_size": 16}),
    "camembert": ("CamembertModel", POSITIONS),
    "roberta": ("RobertaModel", POSITIONS),
    "distilbert": (
        "DistilBertModel",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 60, "max_position_embeddings": 40},
    ),
    "mpnet": ("MPNetModel", POSITIONS),
    "albert": ("AlbertModel", {**POSITIONS, "embedding_size": 16, "num_hidden_layers": 3}),
    "modernbert": (
        "ModernBertModel",
        {
            **POSITIONS,
            "num_hidden_layers": 4,
            "local_attention": 8,
            "pad_token_id": 0,
            "global_attn_every_n_layers": 3,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
    ),
    "nomic_bert": ("NomicBertModel", POSITIONS),
    "eurobert": (
        "EuroBertModel",
        {**POSITIONS, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "vit": ("ViTModel", VISION),
    "deit": ("DeiTModel", VISION),
    "beit": ("BeitModel", {**VISION, "use_relative_position_bias": True, "layer_scale_init_value": 0.5}),
    "dinov2": ("Dinov2Model", {**VISION, "mlp_ratio": 2, "layerscale_value": 0.5}),
    "dinov2_swiglu": ("Dinov2Model", {**VISION, "mlp_ratio": 2, "layerscale_value": 0.5, "use_swiglu_ffn": True}),
    "dinov2_registers": (
        "Dinov2WithRegistersModel",
        {**VISION, "mlp_ratio": 2, "layerscale_value": 0.5, "num_register_tokens": 3},
    ),
    "dinov3": ("DINOv3ViTModel", {**VISION, "layerscale_value": 0.5, "num_register_tokens": 3}),
    "dinov3_gated": (
        "DINOv3ViTModel",
        {**VISION, "layerscale_value": 0.5, "num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "clip_vision": ("CLIPVisionModel", VISION),
    "clip_text": ("CLIPTextModel", {**POSITIONS, "eos_token_id": 2}),
    "siglip_vision": ("SiglipVisionModel", VISION),
    "siglip_text": ("SiglipTextModel", POSITIONS),
    "whisper": (
        "WhisperModel",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_mel_bins": 8,
            "max_source_positions": 20,
            "max_target_positions": 10,
            "vocab_size": 60,
            "pad_token_id": 1,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 3,
        },
    ),
    "wav2vec2": ("Wav2Vec2Model", SPEECH),
    "wav2vec2_stable": ("Wav2Vec2Model", {**SPEECH, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}),
    "hubert": ("HubertModel", SPEECH),
}


PLACES = {"num_channels": 3, "hidden_sizes": [8, 12, 16], "num_labels": 5}
RESNET = {**PLACES, "embedding_size": 8, "depths": [2, 1, 2]}
CONVNEXT = {**PLACES, "num_stages": 3, "depths": [1, 1, 2], "patch_size": 2, "image_size": 24, "drop_path_rate": 0.2}

CONVOLUTIONAL: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet_basic": ("ResNetForImageClassification", {**RESNET, "layer_type": "basic"}),
    "resnet_bottleneck": ("ResNetForImageClassification", {**RESNET, "layer_type": "bottleneck"}),
    "resnet_downsampling": (
        "ResNetForImageClassification",
        {
            **RESNET,
            "layer_type": "bottleneck",
            "downsample_in_bottleneck": True,
            "downsample_in_first_stage": True,
            "hidden_act": "silu",
        },
    ),
    "regnet_x": ("RegNetForImageClassification", {**RESNET, "layer_type": "x", "groups_width": 4}),
    "regnet_y": ("RegNetForImageClassification", {**RESNET, "layer_type": "y", "groups_width": 4}),
    "convnext": ("ConvNextForImageClassification", {**CONVNEXT, "layer_scale_init_value": 0.5}),
    "convnextv2": ("ConvNextV2ForImageClassification", CONVNEXT),
}
"""Convolutional networks, with a head."""


def tiny_model(family: str, architecture: str | None = None, **changes: Any) -> Any:
    """A model in evaluation mode; biases, scales and tables are not the 0 and 1 that they start at."""
    import transformers

    usual, options = {**FAMILIES, **CONVOLUTIONAL}[family]
    kind = getattr(transformers, architecture or usual)
    torch.manual_seed(7)
    model = kind(kind.config_class(**{**options, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "relative" in name or "token" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif parameter.ndim == 2:
                parameter.mul_(3)  # transformers starts at 0.02, where every block is nearly the identity
            elif "grn" in name:
                parameter.normal_()
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model


def saved(folder: Path, family: str, architecture: str | None = None, **changes: Any) -> tuple[Path, Any]:
    """The folder that such a model was saved to, and the model."""
    model = tiny_model(family, architecture, **changes)
    model.save_pretrained(folder)
    return folder, model


def pretrained_network(family: str, architecture: str | None = None, **options: Any) -> Any:
    """The dense network of such a model."""
    from adaptrt.models.adapters.pretrained.load import read_pretrained

    with tempfile.TemporaryDirectory() as folder:
        saved(Path(folder), family, architecture)
        return read_pretrained(folder, **options).network


HEADS = [
    ("bert", "BertForSequenceClassification", "classification", "first"),
    ("bert", "BertForTokenClassification", "token-classification", "tokens"),
    ("bert", "BertForQuestionAnswering", "question-answering", "tokens"),
    ("roberta", "RobertaForSequenceClassification", "classification", "first"),
    ("xlm_roberta", "XLMRobertaForTokenClassification", "token-classification", "tokens"),
    ("camembert", "CamembertForSequenceClassification", "classification", "first"),
    ("electra", "ElectraForSequenceClassification", "classification", "first"),
    ("distilbert", "DistilBertForSequenceClassification", "classification", "first"),
    ("distilbert", "DistilBertForQuestionAnswering", "question-answering", "tokens"),
    ("mpnet", "MPNetForSequenceClassification", "classification", "first"),
    ("albert", "AlbertForSequenceClassification", "classification", "first"),
    ("modernbert", "ModernBertForSequenceClassification", "classification", "first"),
    ("modernbert", "ModernBertForTokenClassification", "token-classification", "tokens"),
    ("nomic_bert", "NomicBertForSequenceClassification", "classification", "first"),
    ("vit", "ViTForImageClassification", "classification", "first"),
    ("deit", "DeiTForImageClassification", "classification", "first"),
    ("deit", "DeiTForImageClassificationWithTeacher", "classification", "first two"),
    ("beit", "BeitForImageClassification", "classification", "first and mean"),
    ("dinov2", "Dinov2ForImageClassification", "classification", "first and mean"),
    ("dinov2_registers", "Dinov2WithRegistersForImageClassification", "classification", "first and mean"),
    ("clip_vision", "CLIPForImageClassification", "classification", "first and mean"),
    ("siglip_vision", "SiglipForImageClassification", "classification", "mean"),
    ("whisper", "WhisperForAudioClassification", "classification", "mean"),
    ("wav2vec2", "Wav2Vec2ForCTC", "automatic-speech-recognition", "tokens"),
    ("wav2vec2_stable", "Wav2Vec2ForSequenceClassification", "classification", "mean"),
    ("hubert", "HubertForCTC", "automatic-speech-recognition", "tokens"),
    ("hubert", "HubertForSequenceClassification", "classification", "mean"),
]
"""Family, class, task and what its head reads."""


def length_of(family: str) -> int | None:
    """Samples of a short sound; of others what the checkpoint says."""
    return 400 if family.startswith(("wav2vec2", "hubert")) else None


def towers(folder: Path, family: str, architecture: str) -> Path | None:
    """The folder of a model of two towers with a head on the one that sees; None: this is none."""
    import transformers

    if architecture not in ("CLIPForImageClassification", "SiglipForImageClassification"):
        return None
    kind = getattr(transformers, architecture)
    torch.manual_seed(3)
    model = kind(kind.config_class(vision_config=FAMILIES[family][1])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    return folder


def as_sentence_model(folder: Path, mode: str, normalised: bool) -> None:
    """Add the files of sentence-transformers, the pooling as old files name it."""
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalised else [])]
    listed = [
        {"idx": number, "path": f"{number}_{kind}" if number else "", "type": f"sentence_transformers.models.{kind}"}
        for number, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    names = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({name: key == mode for key, name in names.items()}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
