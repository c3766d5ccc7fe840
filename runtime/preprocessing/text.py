"""Texts as numbers of tokens, by the tokenizer in the bundle and the package ``tokenizers`` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptrt.runtime.bundle.bundle_files import read_preprocessing
from adaptrt.runtime.bundle.preprocessing_schema import TOKENIZER_ROLE, TextPreprocessing
from adaptrt.runtime.bundle.schema import Axis, Bundle, TensorSpec
from adaptrt.runtime.errors import BundleError, InputError, one_line, shown
from adaptrt.runtime.preprocessing.padding import padded_size
from adaptrt.runtime.preprocessing.preprocessed import PreprocessedInputs

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Array = np.ndarray[Any, Any]

_PANIC = "PanicException"
"""What the package raises where its own code broke; it is no ``Exception``."""


class TextPreprocessor:
    """Makes inputs of texts. Any number of threads may use one.

    Args:
        recipe: how.
        inputs: of the bundle, by name.
        axes: how long the inputs' axes may be.
        content: of the tokenizer's file.
        place: of that file, for messages.

    Raises:
        BundleError: the content is no tokenizer, or does not fit the recipe or the inputs.
        InputError: the package ``tokenizers`` is missing.
    """

    def __init__(
        self,
        recipe: TextPreprocessing,
        inputs: Mapping[str, TensorSpec],
        axes: Mapping[str, Axis],
        content: bytes,
        place: str,
    ) -> None:
        self._recipe, self._specs, self._axes = (
            recipe,
            {role: inputs[name] for role, name in recipe.inputs.items()},
            axes,
        )
        self._tokenizer = _tokenizer(content, place)
        self._check(place)
        # What the file itself says of both was for its author's own use.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if recipe.truncation != "none":
            self._tokenizer.enable_truncation(
                max_length=recipe.longest, strategy=recipe.truncation, direction=recipe.truncation_side
            )

    def __call__(self, texts: Sequence[str]) -> PreprocessedInputs:
        """Inputs for a batch of texts, [len(texts), tokens] each.

        Each text is looked at alone, so a text's tokens do not depend on its batch-mates; only padding does.

        Args:
            texts: may be empty.

        Returns:
            The arrays, and how many texts were ``cut``.

        Raises:
            InputError: something is no text, or a text is too long and the recipe refuses such.
        """
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
            raise InputError(f"texts: got {shown(texts)}, expected a list of texts; pass [text] for one")
        encodings = [self._encode(number, text) for number, text in enumerate(texts)]
        longest = max((len(encoding.ids) for encoding in encodings), default=0)
        size = padded_size(self._specs["ids"].shape[1], longest, self._axes)
        recipe = self._recipe
        columns = {"ids": recipe.padding_id, "mask": 0, "types": recipe.padding_type}
        arrays = {
            spec.name: np.full((len(encodings), size), columns[role], spec.dtype) for role, spec in self._specs.items()
        }
        for row, encoding in enumerate(encodings):
            count = len(encoding.ids)
            place = slice(0, count) if recipe.padding_side == "right" else slice(size - count, size)
            for role, spec in self._specs.items():
                arrays[spec.name][row, place] = _column(encoding, role)
        return PreprocessedInputs(arrays, cut=sum(bool(encoding.overflowing) for encoding in encodings))

    def _encode(self, number: int, text: object) -> Encoding:
        if not isinstance(text, str):
            raise InputError(f"texts: got {shown(text)} at {number}, expected a text; pass a str")
        if self._recipe.lower_case:
            text = text.lower()
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=self._recipe.special_tokens)
        except BaseException as error:
            if not _is_theirs(error):
                raise
            raise InputError(
                f"texts: got {shown(text)} at {number}, which the tokenizer refuses ({one_line(error)}), expected "
                "Unicode without lone surrogates; mend the text"
            ) from None
        if len(encoding.ids) > self._recipe.longest:
            raise InputError(
                f"texts: got {len(encoding.ids)} tokens at {number}, expected at most {self._recipe.longest}; "
                "shorten or divide the text"
            )
        return encoding

    def _check(self, place: str) -> None:
        """Refuse a tokenizer of another model.

        Raises:
            BundleError: it gives numbers that the input does not take, or has another padding.
        """
        recipe, spec, tokenizer = self._recipe, self._specs["ids"], self._tokenizer
        numbers = tokenizer.get_vocab(with_added_tokens=True).values()
        least, greatest = min(numbers, default=0), max(numbers, default=0)
        fits = (spec.minimum or 0) <= least and (spec.maximum is None or greatest <= spec.maximum)
        if not fits:
            raise BundleError(
                f"{place} gives numbers from {least} to {greatest}, expected {spec.minimum} to {spec.maximum}, as "
                f"input {spec.name!r} takes; export the model again with its own tokenizer"
            )
        token = recipe.padding_token
        if token is not None and tokenizer.token_to_id(token) != recipe.padding_id:
            raise BundleError(
                f"{place} has {shown(token)} as {tokenizer.token_to_id(token)}, expected {recipe.padding_id}, the "
                "padding_id; export the model again with its own tokenizer"
            )
        special = tokenizer.num_special_tokens_to_add(is_pair=False) if recipe.special_tokens else 0
        if special >= recipe.longest:
            raise BundleError(
                f"{place} adds {special} special tokens, expected less than the {recipe.longest} that a text may have; "
                "export the model again with a greater length"
            )


def load_text_preprocessor(root: Path, bundle: Bundle, recipe: TextPreprocessing) -> TextPreprocessor:
    """Read a bundle's tokenizer: what is used is what was hashed.

    Raises:
        BundleError: as ``TextPreprocessor``, or the file was changed since the export.
        InputError: as there.
    """
    (entry,) = (entry for entry in bundle.files if entry.role == TOKENIZER_ROLE)
    content = read_preprocessing(root, entry)
    return TextPreprocessor(
        recipe, {spec.name: spec for spec in bundle.inputs}, bundle.axes, content, f"{root}: {entry.file!r}"
    )


def _tokenizer(content: bytes, place: str) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError(
            "got texts without the package tokenizers, expected it; install adaptrt[text], or feed numbers of tokens"
        ) from None
    try:
        return Tokenizer.from_str(content.decode())
    except BaseException as error:
        if not _is_theirs(error):
            raise
        raise BundleError(
            f"{place} is no tokenizer ({one_line(error)}), expected a tokenizer.json that tokenizers reads; "
            "export the model again, or install a later tokenizers"
        ) from None


def _is_theirs(error: BaseException) -> bool:
    return isinstance(error, Exception) or type(error).__name__ == _PANIC


def _column(encoding: Encoding, role: str) -> list[int]:
    if role == "ids":
        return encoding.ids
    return encoding.attention_mask if role == "mask" else encoding.type_ids
