"""Random pictures and texts with what the Python runtime makes of them, for preprocessing in other languages.

    python -m tests.conformance.random_inputs pictures --count 100
    python -m tests.conformance.random_inputs texts

print a line of JSON for each. Of a picture: ``pixels`` (RGBA, row by row), its ``width`` and ``height``, the ``spec``
of the input, and the ``values`` of the input. Of texts, for each tokenizer and recipe: the keys of the ``bundle``, the
``tokenizer``'s file, and for each of the ``texts`` the inputs, or null where it is refused.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from adaptrt.runtime.bundle.preprocessing_schema import RESAMPLES, RESIZES, ImagePreprocessing, TextPreprocessing
from adaptrt.runtime.bundle.schema import Axis, TensorSpec
from adaptrt.runtime.errors import InputError
from adaptrt.runtime.preprocessing.image import preprocess_images
from adaptrt.runtime.preprocessing.text import TextPreprocessor
from tests.runtime.preprocessing.word_tokenizer import tokenizer_json

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "Libraries for parsing; documentation (and examples) of 2,048 things!",
    "Crème brûlée, naïve façade, ÅNGSTRÖM, straße, Ελληνικά, 東京 と 大阪",
    "don't stop -- it's e-mail@example.org: 3.14159 or -42",
]
TEXTS = [
    *CORPUS,
    "",
    " ",
    "  two  spaces\tand\na line ",
    "unseen wörds: zyx 🙂 emoji",
    "the dog " * 12,
    "[CLS] in the middle [SEP]",
]


def pictures(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """So many pictures, each with a recipe of its own."""
    generator, arrays = random.Random(seed), np.random.default_rng(seed)
    for number in range(count):
        width, height = generator.randint(1, 40), generator.randint(1, 40)
        pixels = arrays.integers(0, 256, (height, width, 4), np.uint8)
        if number % 3:
            pixels[:, :, 3] = 255
        channels = generator.choice((1, 3))
        resize = generator.choice(RESIZES)
        counts = {"stretch": generator.choice((0, 2)), "shortest_edge": 1, "none": 0}[resize]
        recipe = ImagePreprocessing(
            channels,
            generator.randint(1, 24),
            generator.randint(1, 24),
            scale=generator.choice((1 / 255, 1.0, 0.00784)),
            mean=[round(generator.random(), 3) for _ in range(generator.choice((1, channels)))],
            std=[round(generator.random() + 0.1, 3) for _ in range(generator.choice((1, channels)))],
            background=[generator.randint(0, 255) for _ in range(generator.choice((1, channels)))],
            resize=resize,
            size=[generator.randint(1, 24) for _ in range(counts)],
            resample=generator.choice(RESAMPLES),
            order=generator.choice(("rgb", "bgr")),
        )
        spec = TensorSpec("pixels", "float32", ["batch", channels, recipe.height, recipe.width], recipe)
        values = preprocess_images([Image.fromarray(pixels)], spec)["pixels"]
        yield {
            "width": width,
            "height": height,
            "pixels": pixels.ravel().tolist(),
            "spec": msgspec.to_builtins(spec),
            "values": values.ravel().astype(np.float64).tolist(),
        }


def texts() -> Iterator[dict[str, Any]]:
    """Every kind of tokenizer with every way to cut and pad."""
    recipes = [
        {"longest": 64},
        {"longest": 9, "truncation_side": "left"},
        {"longest": 9, "padding_side": "left", "special_tokens": False},
        {"longest": 12, "truncation": "none"},
        {"longest": 9, "lower_case": True},
    ]
    for name, content in _tokenizers().items():
        vocabulary = _vocabulary(content)
        for number, recipe in enumerate(recipes):
            size: int | str = 16 if number == 3 else "length"
            specs = [
                TensorSpec("ids", "int64", ["batch", size], minimum=0, maximum=max(vocabulary.values())),
                TensorSpec("mask", "int64", ["batch", size], minimum=0, maximum=1),
                TensorSpec("types", "int64", ["batch", size], minimum=0, maximum=1),
            ]
            text = TextPreprocessing({"ids": "ids", "mask": "mask", "types": "types"}, **recipe)  # type: ignore[arg-type]
            axes = {"batch": Axis(0), "length": Axis(4, 64)}
            preprocess = TextPreprocessor(text, {spec.name: spec for spec in specs}, axes, content, "tokenizer")
            yield {
                "tokenizer": json.loads(content),
                "name": f"{name} {recipe}",
                "bundle": {
                    "inputs": msgspec.to_builtins(specs),
                    "axes": msgspec.to_builtins(axes),
                    "text": msgspec.to_builtins(text),
                },
                "texts": [{"text": one, "inputs": _made(preprocess, one)} for one in TEXTS],
            }


def _made(preprocess: TextPreprocessor, text: str) -> dict[str, list[int]] | None:
    try:
        return {name: array[0].tolist() for name, array in preprocess([text]).items()}
    except InputError:
        return None


def _vocabulary(content: bytes) -> dict[str, int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(content.decode()).get_vocab()


def _tokenizers() -> dict[str, bytes]:
    """One of each kind, trained on a few lines."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.implementations import BertWordPieceTokenizer

    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(CORPUS, vocab_size=200, min_frequency=1)
    numbers = pieces.get_vocab()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])]
    )
    level = Tokenizer(models.BPE())
    level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    level.decoder = decoders.ByteLevel()
    ends = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=ends, initial_alphabet=alphabet, show_progress=False)
    level.train_from_iterator(CORPUS, trainer)
    level.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 1), trim_offsets=True, add_prefix_space=False
    )
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    marks = ["<pad>", "<unk>", "</s>"]
    unigram.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=120, special_tokens=marks, unk_token="<unk>", show_progress=False)
    )
    unigram.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    trained = {"word pieces": pieces, "byte-level BPE": level, "unigram": unigram}
    return {"words": tokenizer_json(), **{name: one.to_str().encode() for name, one in trained.items()}}


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("pictures", "texts"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for one in pictures(arguments.count, arguments.seed) if arguments.kind == "pictures" else texts():
        sys.stdout.write(json.dumps(one) + "\n")


if __name__ == "__main__":
    main()
