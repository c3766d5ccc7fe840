"""The files by which a transformers folder says how inputs are made, copied to stay with an adapted network."""

from __future__ import annotations

import shutil
from pathlib import Path

from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.adapters.pretrained.splice import first_line, transformers

_COPIED = ("preprocessor_config.json", "processor_config.json", "feature_extractor_config.json", "config.json")
_SENTENCE = "sentence_bert_config.json"
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def copy_preprocessing(folder: Path, into: Path) -> None:
    """Copy them; a tokenizer is written anew by its own class, some of which do not do what ``tokenizer.json`` says.

    Args:
        folder: As ``save_pretrained`` or sentence-transformers writes it.
        into: A new folder; made.

    Raises:
        PretrainedError: The tokenizer cannot be read.
    """
    into.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, into / name)
    if any((folder / name).is_file() for name in _TOKENIZERS):
        try:
            transformers().AutoTokenizer.from_pretrained(str(folder)).save_pretrained(str(into))
        except PretrainedError:
            raise
        except Exception as error:  # the classes fail in many ways
            raise PretrainedError(
                f"cannot read the tokenizer in {folder}: {first_line(error)}; save it again"
            ) from error
        if (folder / _SENTENCE).is_file():
            shutil.copyfile(folder / _SENTENCE, into / _SENTENCE)
