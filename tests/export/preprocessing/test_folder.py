"""The JSON files of a transformers folder, read without transformers."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptrt.export.errors import ExportError
from adaptrt.export.exporter import export_bundle
from adaptrt.export.preprocessing.folder import Preprocessing, add_preprocessing, read_preprocessing
from adaptrt.export.preprocessing.image_settings import PROCESSORS
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.folder import load_folder, save_model
from adaptrt.models.network import Network
from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import (
    AudioPreprocessing,
    Axis,
    ImagePreprocessing,
    TensorSpec,
    TextPreprocessing,
    encode_bundle,
    read_bundle,
)
from tests.runtime.preprocessing.word_tokenizer import tokenizer_json

PIXELS = TensorSpec("pixel_values", "float32", ["batch", 3, "height", "width"])
IDS = TensorSpec("input_ids", "int64", ["batch", "tokens"], minimum=0, maximum=39)
MASK = TensorSpec("attention_mask", "int64", ["batch", "tokens"], minimum=0, maximum=1)
WAVES = TensorSpec("input_values", "float32", ["batch", "samples"])
SPECTRA = TensorSpec("input_features", "float32", ["batch", 80, 3000])
AXES = {"batch": Axis(0), "tokens": Axis(1, 64), "samples": Axis(1, 10**6)}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes files of these contents: bytes, or what is written as JSON; ``__`` stands for the dot of a name."""

    def write(**files: Any) -> Path:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (tmp_path / name.replace("__", ".")).write_bytes(data)
        return tmp_path

    return write


def read(folder: Path, *inputs: TensorSpec) -> Preprocessing:
    return read_preprocessing(folder, inputs, AXES)


def test_a_folder_that_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, PIXELS, IDS, MASK, WAVES) == Preprocessing()


def test_what_the_inputs_do_not_take_is_not_read(folder: Any) -> None:
    written = folder(preprocessor_config__json=b"{", tokenizer__json=b"{")
    assert read(written, TensorSpec("x", "float32", ["batch", 4])) == Preprocessing()


def test_old_files_of_pictures(folder: Any) -> None:
    settings = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "size": 64}
    written = folder(preprocessor_config__json=settings, config__json={"model_type": "vit"})
    expected = ImagePreprocessing(
        3, 64, 64, mean=[0.5] * 3, std=[0.5] * 3, background=[255], size=[64, 64], resample="bilinear"
    )
    assert read(written, PIXELS).images == {"pixel_values": expected}
    folder(preprocessor_config__json={**settings, "feature_extractor_type": "ViTFeatureExtractor"}, config__json={})
    assert read(written, PIXELS).images == {"pixel_values": expected}
    folder(preprocessor_config__json={**settings, "image_processor_type": "ViTImageProcessorFast"})
    assert read(written, PIXELS).images == {"pixel_values": expected}


def test_a_grey_input(folder: Any) -> None:
    settings = {"image_processor_type": "ViTImageProcessor", "size": 8, "image_mean": 0.5, "image_std": 0.5}
    grey = TensorSpec("pixels", "float32", ["batch", 1, 8, 8])
    assert read(folder(preprocessor_config__json=settings), grey).images["pixels"].channels == 1
    settings.update(image_mean=[0.1, 0.2, 0.3])
    with pytest.raises(ExportError, match="3 mean values, expected 1 or one per channel"):
        read(folder(preprocessor_config__json=settings), grey)


VIT = {"image_processor_type": "ViTImageProcessor"}
CLIP = {"image_processor_type": "CLIPImageProcessor"}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}}
PICTURES: dict[str, tuple[Any, str]] = {
    "an unknown type": (
        {"image_processor_type": "DetrImageProcessor"},
        f"is of a DetrImageProcessor, expected one of {', '.join(sorted(PROCESSORS))}; export without it",
    ),
    "a type of recordings": ({"feature_extractor_type": "WhisperFeatureExtractor"}, "is of a WhisperImageProcessor"),
    "no JSON": (b"{", "is not as transformers writes it"),
    "a list": ([1], "is not as transformers writes it"),
    "a size of text": ({**VIT, "size": "large"}, "is not as transformers writes it"),
    "a size of both": ({**VIT, "size": {"shortest_edge": 2, "longest_edge": 4}}, "expected height and width, or shor"),
    "no size": ({**VIT, "size": 0}, "height 0, expected 1 to 65536"),
    "pictures of several sizes": ({**CLIP, "do_center_crop": False}, "makes pictures of several sizes"),
    "pictures of any size": ({**VIT, "do_resize": False}, "makes pictures of several sizes"),
    "padding": ({**VIT, "do_pad": True}, "makes pictures of several sizes .*do_pad True"),
    "a crop of an edge": ({**CLIP, "crop_size": {"shortest_edge": 2}}, "crop_size .*expected height and width; mend"),
    "two crops": ({**CONVNEXT, "do_center_crop": True, "crop_size": 100}, "crops to 224 and again to"),
    "no filter": ({**VIT, "resample": 9}, "resample 9, expected 0 to 5"),
    "no deviation": ({**VIT, "image_std": [0.0, 1, 1]}, "std 0.0, expected above 0"),
    "a scale below zero": ({**VIT, "rescale_factor": -1}, "scale -1.0, expected above 0"),
}


@pytest.mark.parametrize(("settings", "match"), PICTURES.values(), ids=PICTURES)
def test_refused_pictures(folder: Any, settings: Any, match: str) -> None:
    with pytest.raises(ExportError, match=match) as caught:
        read(folder(preprocessor_config__json=settings), PIXELS)
    assert "\n" not in str(caught.value)


def test_recordings(folder: Any) -> None:
    whisper = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "chunk_length": 30}
    assert read(folder(preprocessor_config__json=whisper), SPECTRA).audio == AudioPreprocessing(
        "input_features", "log_mel"
    )
    old = {"do_normalize": True, "feature_size": 1, "padding_value": 0.0, "sampling_rate": 8_000}
    written = folder(preprocessor_config__json=old, config__json={"model_type": "wav2vec2"})
    alone = AudioPreprocessing("input_values", "waveform", sample_rate=8_000, normalize=True)
    assert read(written, WAVES).audio == alone
    mask = TensorSpec("attention_mask", "int64", ["batch", "samples"], minimum=0, maximum=1)
    masked = read(written, WAVES, mask).audio
    assert masked is not None and masked.mask == "attention_mask"
    nested = folder(processor_config__json={"feature_extractor": whisper})
    (nested / "preprocessor_config.json").unlink()
    assert read(nested, SPECTRA).audio == AudioPreprocessing("input_features", "log_mel")


RECORDINGS: dict[str, tuple[Any, str]] = {
    "an unknown type": (
        {"feature_extractor_type": "ASTFeatureExtractor"},
        "is of a ASTFeatureExtractor, expected one of Wav2Vec2FeatureExtractor, WhisperFeatureExtractor; export",
    ),
    "dither": ({"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1}, "dither 0.1, expected right and"),
    "padding before": (
        {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "padding_side": "left"},
        "pads left .*expected right",
    ),
    "features": ({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 2}, "feature_size 2, expected"),
    "a rate of text": ({"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": "a"}, "is not as trans"),
}


@pytest.mark.parametrize(("settings", "match"), RECORDINGS.values(), ids=RECORDINGS)
def test_refused_recordings(folder: Any, settings: Any, match: str) -> None:
    with pytest.raises(ExportError, match=match) as caught:
        read(folder(preprocessor_config__json=settings), WAVES)
    assert "\n" not in str(caught.value)


def test_texts(folder: Any) -> None:
    content = tokenizer_json()
    written = folder(
        tokenizer__json=content,
        tokenizer_config__json={"model_max_length": 1e30, "pad_token": {"content": "[PAD]"}, "padding_side": "left"},
    )
    got = read(written, IDS, MASK)
    expected = TextPreprocessing(
        {"ids": "input_ids", "mask": "attention_mask"}, 64, padding_token="[PAD]", padding_side="left"
    )
    assert got.text == expected and got.files == {"tokenizer": ("tokenizer.json", content)}


def test_where_the_longest_length_comes_from(folder: Any) -> None:
    written = folder(tokenizer__json=tokenizer_json(), tokenizer_config__json={"model_max_length": 50})

    def longest() -> int:
        text = read(written, IDS, MASK).text
        assert text is not None
        return text.longest

    assert longest() == 50
    folder(sentence_bert_config__json={"max_seq_length": 20})
    assert longest() == 20
    folder(sentence_bert_config__json={"max_seq_length": None})
    assert longest() == 50
    folder(tokenizer_config__json={"model_max_length": 512})
    assert longest() == 64
    with pytest.raises(ExportError, match="has no model_max_length, expected the most tokens of a text"):
        read_preprocessing(folder(tokenizer_config__json={}), [IDS], {"batch": Axis(0), "tokens": Axis(1)})


@pytest.mark.parametrize("vocabulary", ["dict", "list", "added"])
def test_where_the_padding_comes_from(folder: Any, vocabulary: str) -> None:
    content = json.loads(tokenizer_json())
    words = content["model"]["vocab"]
    words["[PAD]"], words["w9"] = 9, 0
    if vocabulary == "list":
        content["model"]["vocab"] = [[word, 0.0] for word, _ in sorted(words.items(), key=lambda item: item[1])]
    if vocabulary == "added":
        del words["[PAD]"]
        content["added_tokens"] = [{"id": 9, "content": "[PAD]", "special": True}]
    written = folder(tokenizer__json=content, special_tokens_map__json={"pad_token": "[PAD]"})
    text = read(written, IDS, MASK).text
    assert text is not None and (text.padding_id, text.padding_token) == (9, "[PAD]")


@pytest.mark.parametrize(("config", "number"), [({}, 0), ({"pad_token_id": 7}, 7), ({"pad_token_id": 40}, 0)])
def test_a_tokenizer_without_padding(folder: Any, config: dict[str, Any], number: int) -> None:
    text = read(folder(tokenizer__json=tokenizer_json(), config__json=config), IDS, MASK).text
    assert text is not None and (text.padding_id, text.padding_token) == (number, None)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"vocab__txt": b"a"}, "has a vocab.txt and no tokenizer.json, expected both; write it with transformers.Auto"),
        ({"tokenizer__json": b"{", "special_tokens_map__json": {"pad_token": "a"}}, "tokenizer.json is no tokenizer"),
        ({"tokenizer__json": b"{}", "tokenizer_config__json": {"padding_side": 3}}, "is not as transformers writes it"),
    ],
)
def test_refused_texts(folder: Any, files: dict[str, Any], match: str) -> None:
    with pytest.raises(ExportError, match=match) as caught:
        read(folder(**files), IDS, MASK)
    assert "\n" not in str(caught.value)


def test_no_package_is_imported() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('transformers', 'tokenizers', 'PIL')))\n"
        "from adaptrt.export.preprocessing.folder import read_preprocessing\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow("exports a network")
def test_an_exported_text_network_takes_texts(tmp_path: Path, folder: Any) -> None:
    """The inputs of this package's own text networks are called otherwise."""
    shape = TextEncoderConfig(width=16, depth=1, heads=2, ffn_width=32, classes=3, vocabulary=40, length=8)
    torch.manual_seed(0)
    adaptive = Network.from_config(dataclasses.replace(shape, acm=ACMConfig(2))).eval()
    save_model(tmp_path / "model", adaptive, Network.from_config(shape).eval(), "words", torch.float32)
    export_bundle(load_folder(tmp_path / "model", "words"), tmp_path / "bundle", calibration=None)
    bundle = read_bundle(tmp_path / "bundle")
    source = folder(tokenizer__json=tokenizer_json(), tokenizer_config__json={"pad_token": "[PAD]"})
    declared = add_preprocessing(bundle, read_preprocessing(source, bundle.inputs, bundle.axes), tmp_path / "bundle")
    (tmp_path / "bundle" / "bundle.json").write_bytes(encode_bundle(declared))
    model = load(tmp_path / "bundle", threads=1)
    got = model.preprocess.text(["w5 w6", "w7 " * 20])
    assert got["tokens"].tolist() == [[2, 5, 6, 3, 0, 0, 0, 0], [2] + [7] * 6 + [3]] and got.cut == 1
    result = model.run(got)
    alone = model.run(model.preprocess.text(["w5 w6"]))
    np.testing.assert_allclose(result.outputs["logits"][:1], alone.outputs["logits"], rtol=0, atol=1e-6)
    again = add_preprocessing(declared, read_preprocessing(source, bundle.inputs, bundle.axes), tmp_path / "bundle")
    assert again == declared
