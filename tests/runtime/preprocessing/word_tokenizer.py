"""A tokenizer of 40 words, and a bundle's declaration of it."""

from __future__ import annotations

import json
from typing import Any

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(4, 40))]


def tokenizer_json(words: list[str] = WORDS, **changes: Any) -> bytes:
    """A tokenizer that divides at white space, with a truncation and a padding that must not count."""
    numbers = {word: number for number, word in enumerate(words)}
    ends = {name: {"id": name, "ids": [numbers[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    template = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    content = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 4},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": template,
            "special_tokens": ends,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": numbers, "unk_token": "[UNK]"},
        **changes,
    }
    return json.dumps(content).encode()


TEXT = {
    "inputs": {"ids": "words", "mask": "mask"},
    "longest": 6,
    "padding_id": 0,
    "padding_token": "[PAD]",
}
