"""Tokenizers of transformers folders, as a bundle declares what they do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from adaptrt.export.errors import ExportError
from adaptrt.export.preprocessing.settings import CONFIG, read_json
from adaptrt.runtime.bundle.bundle_file import TensorSpec, TextPreprocessing
from adaptrt.runtime.errors import one_line

TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS = "special_tokens_map.json"
_SENTENCE_CONFIG = "sentence_bert_config.json"
_OTHERS = (_TOKENIZER_CONFIG, "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
"""What a folder has that has a tokenizer, in whatever form."""
_NO_LIMIT = 10**9
"""From there on a longest length is none: tokenizers without one are written with 10^30."""

Token = str | dict[str, Any]


class _TokenizerConfig(msgspec.Struct):
    model_max_length: float | None = None
    pad_token: Token | None = None
    pad_token_type_id: int | None = None
    padding_side: str = "right"
    truncation_side: str = "right"


class _SpecialTokens(msgspec.Struct):
    pad_token: Token | None = None


class _SentenceConfig(msgspec.Struct):
    max_seq_length: int | None = None
    do_lower_case: bool | None = None


class _ModelConfig(msgspec.Struct):
    pad_token_id: int | None = None


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _Vocabulary(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]] = {}


class _Tokenizer(msgspec.Struct):
    model: _Vocabulary
    added_tokens: list[_AddedToken] = []


def read_text(
    folder: Path, inputs: Mapping[str, str], ids: TensorSpec, longest: int | None
) -> tuple[TextPreprocessing, bytes] | None:
    """How a folder's tokenizer makes inputs of texts.

    The longest length is what ``sentence_bert_config.json`` says, else ``tokenizer_config.json``, and no more than the
    input takes: what ``tokenizer.json`` has baked in was for something else.

    Args:
        folder: Of the model.
        inputs: Names of inputs by what they are (``TextPreprocessing.inputs``).
        ids: The input of the tokens' numbers.
        longest: The most that its axis may be long; None where nobody says.

    Returns:
        The declaration and the content of ``tokenizer.json``; None where the folder has no tokenizer.

    Raises:
        ExportError: A file is damaged, the tokenizer is not in a file ``tokenizer.json``, or no length is known.
    """
    content = _read(folder)
    if content is None:
        return None
    config = read_json(folder, _TOKENIZER_CONFIG, _TokenizerConfig) or _TokenizerConfig()
    sentence = read_json(folder, _SENTENCE_CONFIG, _SentenceConfig) or _SentenceConfig()
    token = _text(config.pad_token) or _text(
        (read_json(folder, _SPECIAL_TOKENS, _SpecialTokens) or _SpecialTokens()).pad_token
    )
    number = None if token is None else _number(folder, content, token)
    if number is None:  # it has no token for padding; the mask says what is real
        token, number = None, _default_number(folder, ids)
    lengths = [longest, sentence.max_seq_length or config.model_max_length]
    known = [int(length) for length in lengths if length is not None and length < _NO_LIMIT]
    if not known:
        raise ExportError(
            f"{folder / _TOKENIZER_CONFIG} has no model_max_length, expected the most tokens of a text; add it"
        )
    recipe = TextPreprocessing(
        inputs=dict(inputs),
        longest=min(known),
        padding_id=number,
        padding_token=token,
        padding_type=config.pad_token_type_id or 0,
        padding_side=config.padding_side,
        truncation_side=config.truncation_side,
        lower_case=bool(sentence.do_lower_case),
    )
    return recipe, content


def _read(folder: Path) -> bytes | None:
    try:
        return (folder / TOKENIZER).read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ExportError(f"cannot read {folder / TOKENIZER} ({one_line(error)}); check its permissions") from None
    other = next((name for name in _OTHERS if (folder / name).exists()), None)
    if other is None:
        return None
    raise ExportError(
        f"{folder} has a {other} and no {TOKENIZER}, expected both; write it with "
        "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def _number(folder: Path, content: bytes, token: str) -> int | None:
    """The number of a token; None where the tokenizer does not know it."""
    try:
        tokenizer = msgspec.json.decode(content, type=_Tokenizer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ExportError(
            f"{folder / TOKENIZER} is no tokenizer ({one_line(error)}), expected one as transformers saves it; "
            "save it again"
        ) from None
    for added in tokenizer.added_tokens:
        if added.content == token:
            return added.id
    words = tokenizer.model.vocab
    if isinstance(words, dict):
        return words.get(token)
    return next((number for number, (word, _) in enumerate(words) if word == token), None)


def _default_number(folder: Path, ids: TensorSpec) -> int:
    number = (read_json(folder, CONFIG, _ModelConfig) or _ModelConfig()).pad_token_id
    fits = number is not None and (ids.minimum or 0) <= number and (ids.maximum is None or number <= ids.maximum)
    return number if fits and number is not None else ids.minimum or 0


def _text(token: Token | None) -> str | None:
    if isinstance(token, dict):
        content = token.get("content")
        return content if isinstance(content, str) else None
    return token
