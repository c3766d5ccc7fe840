"""A bundle that takes texts: ``fixtures/texts`` with a tokenizer of 40 words."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.preprocessing.word_tokenizer import TEXT, tokenizer_json

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def texts(tmp_path: Path, edit: Any) -> Callable[..., Path]:
    """Writes the bundle; ``content`` is the tokenizer's file, keys are of ``text``."""

    def write(content: bytes | None = None, **keys: Any) -> Path:
        content = tokenizer_json() if content is None else content
        folder = tmp_path / "texts"
        shutil.copytree(FIXTURES / "texts", folder, dirs_exist_ok=True)
        (folder / "tokenizer.json").write_bytes(content)
        entry = {"file": "tokenizer.json", "sha256": hashlib.sha256(content).hexdigest(), "role": "tokenizer"}
        edit(folder, lambda bundle: bundle.update(files=[entry], text={**TEXT, **keys}))
        return folder

    return write
