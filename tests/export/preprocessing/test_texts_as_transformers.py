"""Numbers of tokens, masks and segments come out of the runtime as out of transformers' AutoTokenizer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from adaptrt.export.preprocessing.folder import read_preprocessing
from adaptrt.runtime.bundle.bundle_file import Axis, TensorSpec
from adaptrt.runtime.preprocessing.text import TextPreprocessor

pytest.importorskip("transformers", reason="transformers is not installed: install adaptrt[dev]")

pytestmark = pytest.mark.slow("imports transformers")

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs, and do it quickly!",
    "Größe, naïve café: Zoë's 12,345 façades — “quoted”",
    "多語言文本 и немного русского",
    "numbers 1 2 3 4 5 6 7 8 9 0 and punctuation (?!) [like] <this>",
] * 20
TEXTS = [
    "",
    " ",
    "The Quick brown fox",
    "naïve café, Größe!",
    "多語言 и русский 🙂 emoji",
    "a" * 300,
    "  spaces   in  the middle \n and\ta tab ",
    "the quick brown fox jumps over the lazy dog and packs five dozen liquor jugs " * 4,
    "[MASK] and [CLS] <s> in the text",
]
MAX = 24
Axes = {"batch": Axis(0), "tokens": Axis(1, 64)}


def wordpiece() -> tuple[Tokenizer, str]:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    ends = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return made, "[PAD]"


def byte_level() -> tuple[Tokenizer, str]:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, made.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    return made, "<pad>"


def unigram() -> tuple[Tokenizer, str]:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    made.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>"))
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", made.token_to_id("</s>"))]
    )
    return made, "<pad>"


def no_special_tokens() -> tuple[Tokenizer, str]:
    made, token = byte_level()
    made.post_processor = processors.ByteLevel()
    return made, token


MAKERS = {"WordPiece": wordpiece, "byte-level BPE": byte_level, "Unigram": unigram, "bare": no_special_tokens}


def save(folder: Path, make: Callable[[], tuple[Tokenizer, str]], **config: Any) -> None:
    """A folder as transformers saves it, whose tokenizer has another truncation and padding baked in."""
    made, token = make()
    made.enable_truncation(5)
    made.enable_padding(length=7, pad_id=made.token_to_id(token), pad_token=token)
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "TokenizersBackend", "pad_token": token, "model_max_length": MAX, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def specs(*names: str, maximum: int = 2**31 - 1) -> list[TensorSpec]:
    return [TensorSpec(name, "int64", ["batch", "tokens"], minimum=0, maximum=maximum) for name in names]


def preprocessor(folder: Path, axes: dict[str, Axis] = Axes) -> TextPreprocessor:
    inputs = specs("input_ids", "attention_mask", "token_type_ids")
    read = read_preprocessing(folder, inputs, axes)
    assert read.text is not None
    ((name, content),) = read.files.values()
    return TextPreprocessor(read.text, {spec.name: spec for spec in inputs}, axes, content, name)


def expected_of(folder: Path, texts: list[str], **settings: Any) -> dict[str, np.ndarray[Any, Any]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    settings = {"padding": True, "truncation": True, "max_length": MAX, **settings}
    return dict(tokenizer(texts, return_token_type_ids=True, return_tensors="np", **settings))


def same(got: dict[str, np.ndarray[Any, Any]], expected: dict[str, np.ndarray[Any, Any]]) -> None:
    assert got.keys() == expected.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    for name, array in expected.items():
        assert got[name].dtype == np.int64 and np.array_equal(got[name], array), name


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_batches_and_single_texts(tmp_path: Path, make: Callable[[], tuple[Tokenizer, str]]) -> None:
    save(tmp_path, make)
    made = preprocessor(tmp_path)
    got = made(TEXTS)
    same(got, expected_of(tmp_path, TEXTS))
    assert got["input_ids"].shape[1] == MAX
    for text in TEXTS[2:]:
        same(made([text]), expected_of(tmp_path, [text]))


def test_another_setting_is_noticed(tmp_path: Path) -> None:
    """The comparison can fail."""
    save(tmp_path, wordpiece)
    for other in ({"max_length": MAX - 1}, {"padding": "max_length", "max_length": 64}, {"add_special_tokens": False}):
        with pytest.raises(AssertionError):
            same(preprocessor(tmp_path)(TEXTS), expected_of(tmp_path, TEXTS, **other))


CLASSES = {
    "BertTokenizer": wordpiece,
    "MPNetTokenizer": wordpiece,
    "RobertaTokenizer": byte_level,
    "GPT2Tokenizer": byte_level,
    "XLMRobertaTokenizer": unigram,
    "T5Tokenizer": unigram,
    "CamembertTokenizer": unigram,
}


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_class_of_transformers_saves(tmp_path: Path, name: str) -> None:
    """Some classes make a tokenizer of their own of the file's words; what they save is then what they do."""
    from transformers import AutoTokenizer

    save(tmp_path, CLASSES[name], tokenizer_class=name)
    AutoTokenizer.from_pretrained(tmp_path, local_files_only=True).save_pretrained(tmp_path / "saved")
    same(preprocessor(tmp_path / "saved")(TEXTS), expected_of(tmp_path / "saved", TEXTS))


@pytest.mark.parametrize("make", [wordpiece, unigram])
def test_how_many_were_cut(tmp_path: Path, make: Callable[[], tuple[Tokenizer, str]]) -> None:
    save(tmp_path, make)
    whole = expected_of(tmp_path, TEXTS, truncation=False)["attention_mask"].sum(1)
    assert 0 < preprocessor(tmp_path)(TEXTS).cut == (whole > MAX).sum() < len(TEXTS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_sides(tmp_path: Path, side: str) -> None:
    save(tmp_path, wordpiece, padding_side=side, truncation_side="left" if side == "right" else "right")
    same(preprocessor(tmp_path)(TEXTS), expected_of(tmp_path, TEXTS))


def test_the_length_of_sentence_transformers_goes_first(tmp_path: Path) -> None:
    save(tmp_path, wordpiece)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 11, "do_lower_case": true}')
    texts = ["A LONG TEXT with many more words than eleven tokens have room for"]
    got = preprocessor(tmp_path)(texts)
    assert got["input_ids"].shape == (1, 11)
    same(got, expected_of(tmp_path, [texts[0].lower()], max_length=11))


def test_the_input_has_the_last_word(tmp_path: Path) -> None:
    save(tmp_path, wordpiece)
    made = preprocessor(tmp_path, {"batch": Axis(0), "tokens": Axis(1, 9)})
    same(made(TEXTS), expected_of(tmp_path, TEXTS, max_length=9))


def test_minilm() -> None:
    """The folder of sentence-transformers/all-MiniLM-L6-v2, where the environment names one."""
    named = os.environ.get("ADAPTRT_MINILM")
    if named is None:
        pytest.skip("ADAPTRT_MINILM names no folder")
    folder = Path(named)
    made = preprocessor(folder, {"batch": Axis(0), "tokens": Axis(1, 512)})
    texts = [*TEXTS, "word " * 400]
    got = made(texts)
    assert got["input_ids"].shape[1] == 256
    same(got, expected_of(folder, texts, max_length=256))


def test_folders_of_a_tokenizer_in_another_form(tmp_path: Path) -> None:
    from adaptrt.export.errors import ExportError

    save(tmp_path, wordpiece)
    shutil.move(tmp_path / "tokenizer.json", tmp_path / "vocab.txt")
    with pytest.raises(ExportError, match="has a tokenizer_config.json and no tokenizer.json, expected both; write it"):
        preprocessor(tmp_path)
