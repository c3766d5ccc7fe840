"""A checkpoint by its name on the Hugging Face hub, where there is a network; or by its folder."""

from __future__ import annotations

import re
from pathlib import Path

from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.adapters.pretrained.splice import first_line

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*/config.json")


def checkpoint_folder(model: str) -> Path:
    """The folder of a checkpoint; one on the hub is downloaded, or taken from the hub's cache.

    Args:
        model: A folder, or a name such as ``sentence-transformers/all-MiniLM-L6-v2``.

    Raises:
        PretrainedError: It is neither, or the hub cannot be reached.
    """
    if Path(model).is_dir():
        return Path(model)
    wanted = "expected a folder with config.json and weights"
    if not _NAME.fullmatch(model) or Path(model).exists() or model.count("/") != 1:
        raise PretrainedError(f"got model {model!r}, {wanted}, or a name on the hub; look for a typing error")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise PretrainedError(f"got model {model!r}, {wanted}; install adaptrt[pretrained] to download it") from error
    try:
        return Path(snapshot_download(model, allow_patterns=list(_FILES), etag_timeout=10))
    except Exception as error:  # the hub's, httpx's and the system's own errors share no base class
        cause = first_line(error)[:200]
        raise PretrainedError(
            f"got model {model!r}, {wanted}: the hub does not give it ({cause}); download it where there is a network, "
            "and name its folder"
        ) from error
