"""Texts as a bundle's inputs."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptrt.runtime import BundleError, InputError, load
from adaptrt.runtime.bundle.bundle_file import Axis, TensorSpec, TextPreprocessing
from adaptrt.runtime.preprocessing.text import TextPreprocessor
from tests.runtime.preprocessing.word_tokenizer import TEXT, WORDS, tokenizer_json

pytest.importorskip("tokenizers", reason="tokenizers is not installed: install adaptrt[text]")

IDS = TensorSpec("ids", "int64", ["batch", "n"], minimum=0, maximum=39)
MASK = TensorSpec("mask", "int32", ["batch", "n"], minimum=0, maximum=1)
TYPES = TensorSpec("types", "int64", ["batch", "n"], minimum=0, maximum=1)
AXES = {"batch": Axis(0), "n": Axis(1, 12)}


def preprocessor(ids=IDS, axes=AXES, content=None, **keys):
    names = {"ids": "ids", "mask": "mask", "types": "types"}
    recipe = TextPreprocessing(**{"inputs": names, "longest": 6, **keys})
    inputs = {"ids": ids, "mask": MASK, "types": TYPES}
    return TextPreprocessor(recipe, inputs, axes, tokenizer_json() if content is None else content, "t.json")


def test_a_loaded_model_runs_texts(texts):
    model = load(texts(), threads=1)
    got = model.preprocess.text(["w5 w6 nonsense", "w7"])
    assert got["words"].tolist() == [[2, 5, 6, 1, 3], [2, 7, 3, 0, 0]] and got["words"].dtype == np.int64
    assert got["mask"].tolist() == [[True] * 5, [True] * 3 + [False] * 2] and got["mask"].dtype == np.bool_
    style = np.zeros((2, 2), np.float32)
    both = model.run({**got, "style": style})
    for row, text in enumerate(["w5 w6 nonsense", "w7"]):
        alone = model.run({**model.preprocess.text([text]), "style": style[:1]})
        np.testing.assert_allclose(alone.outputs["logits"][0], both.outputs["logits"][row], rtol=1e-6)


def test_how_many_were_cut(texts):
    got = load(texts(), threads=1).preprocess.text(["w5 " * 4, "w5 " * 5, "w6 " * 100])
    assert got.cut == 2
    assert got["words"].tolist() == [[2, 5, 5, 5, 5, 3]] * 2 + [[2, 6, 6, 6, 6, 3]]


def test_no_texts():
    got = preprocessor()([])
    assert got["ids"].shape == (0, 1) and got["ids"].dtype == np.int64 and got.cut == 0


def test_settings():
    got = preprocessor(padding_side="left", padding_id=1, padding_type=1)(["w9 w9", ""])
    assert got["ids"].tolist() == [[2, 9, 9, 3], [1, 1, 2, 3]]
    assert got["mask"].tolist() == [[1] * 4, [0, 0, 1, 1]] and got["mask"].dtype == np.int32
    assert got["types"].tolist() == [[0] * 4, [1, 1, 0, 0]]
    assert preprocessor(truncation_side="left")(["w4 w5 w6 w7 w8"])["ids"].tolist() == [[2, 5, 6, 7, 8, 3]]
    assert preprocessor(special_tokens=False)(["w4 w5"])["ids"].tolist() == [[4, 5]]
    assert preprocessor()(["W4"])["ids"].tolist() == [[2, 1, 3]]
    assert preprocessor(lower_case=True)(["W4"])["ids"].tolist() == [[2, 4, 3]]
    fixed = TensorSpec("ids", "int32", ["batch", 9], minimum=0, maximum=39)
    got = preprocessor(fixed)(["w4"])["ids"]
    assert got.dtype == np.int32 and got.tolist() == [[2, 4, 3] + [0] * 6]
    assert preprocessor(axes={**AXES, "n": Axis(5, 12)})(["w4"])["ids"].tolist() == [[2, 4, 3, 0, 0]]


def test_texts_that_are_refused_where_none_are_cut():
    made = preprocessor(truncation="none")
    assert made(["w4 w4 w4 w4"]).cut == 0
    with pytest.raises(InputError, match="got 7 tokens at 1, expected at most 6; shorten or divide the text"):
        made(["w4", "w4 w4 w4 w4 w4"])


@pytest.mark.parametrize("texts", ["w4", b"w4", None, 3, {"w4"}])
def test_no_list(texts):
    with pytest.raises(InputError, match=r"expected a list of texts; pass \[text\] for one"):
        preprocessor()(texts)


@pytest.mark.parametrize("text", [b"w4", None, 3, ["w4"], "\ud800"])
def test_no_text(text):
    with pytest.raises(InputError, match="texts: got .* at 1, .*expected") as caught:
        preprocessor()(["w4", text])
    assert "\n" not in str(caught.value)


def test_another_models_tokenizer(texts):
    model = load(texts(tokenizer_json([*WORDS, "more"])), threads=1)
    with pytest.raises(BundleError, match="tokenizer.json' gives numbers from 0 to 40, expected 0 to 39, as input 'wo"):
        model.preprocess.text(["w4"])


def test_another_padding(texts):
    model = load(texts(padding_id=3), threads=1)
    with pytest.raises(BundleError, match=r"has '\[PAD\]' as 0, expected 3, the padding_id"):
        model.preprocess.text(["w4"])


def test_no_room_beside_the_special_tokens(texts):
    model = load(texts(longest=2), threads=1)
    with pytest.raises(BundleError, match="adds 2 special tokens, expected less than the 2"):
        model.preprocess.text(["w4"])


DAMAGED = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "other JSON": b"[1, 2]",
    "no model": json.dumps({"version": "1.0"}).encode(),
    "an unknown model": tokenizer_json(model={"type": "Oracle"}),
    "words that are none": tokenizer_json(model={"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_no_tokenizer(texts, content):
    model = load(texts(content), threads=1)
    with pytest.raises(BundleError, match="tokenizer.json' is no tokenizer .*expected a tokenizer.json") as caught:
        model.preprocess.text(["w4"])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_tokenizer_that_was_changed_after_loading(texts):
    folder = texts()
    model = load(folder, threads=1)
    (folder / "tokenizer.json").write_bytes(tokenizer_json() + b" ")
    with pytest.raises(BundleError, match="'tokenizer.json' was changed or damaged"):
        model.preprocess.text(["w4"])


def test_the_tokenizer_is_read_once(texts):
    folder = texts()
    model = load(folder, threads=1)
    first = model.preprocess.text(["w4"])
    (folder / "tokenizer.json").unlink()
    assert model.preprocess.text(["w4"])["words"].tolist() == first["words"].tolist()


def test_a_bundle_without_texts(tiny):
    with pytest.raises(
        InputError, match="got texts, expected arrays: this bundle's inputs are 'x' and it does not say"
    ):
        load(tiny, threads=1).preprocess.text(["w4"])


def test_threads_share_one(texts):
    made, wrong = load(texts(), threads=1).preprocess, []

    def work(number):
        got = [made.text([f"w{number}"])["words"].tolist() for _ in range(100)]
        wrong.extend(ids for ids in got if ids != [[2, number, 3]])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.sampled_from("w4567 \n[UNK]é🙂"), max_size=30), min_size=1, max_size=5))
def test_a_text_is_the_same_alone_and_in_a_batch(texts):
    made = preprocessor()
    batch = made(texts)
    cut = 0
    for row, text in enumerate(texts):
        alone = made([text])
        cut += alone.cut
        count = int(batch["mask"][row].sum())
        assert alone["mask"].tolist() == [[1] * count]
        for name in ("ids", "types"):
            assert batch[name][row, :count].tolist() == alone[name][0].tolist()
            assert not batch[name][row, count:].any()
    assert batch.cut == cut and batch["ids"].max() <= 39 and batch["ids"].shape[1] <= 6


def test_the_inputs_of_a_declared_text(texts):
    assert load(texts(), threads=1).bundle.text == TextPreprocessing(**TEXT)
