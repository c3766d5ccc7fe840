"""The page that npm builds, without which no demo can be written.

It is built where it is needed and in no distribution of the Python package: ONNX Runtime's WebAssembly alone has
14 MB, which everyone would fetch who wants the runtime of a device.
"""

from __future__ import annotations

from pathlib import Path

import adaptrt
from adaptrt.export.errors import ExportError

INDEX = "index.html"
_PARTS = (INDEX, "page.js", "model_worker.js", "dense_worker.js", "input_worker.js", "demo.css", "onnxruntime")


def default_page() -> Path:
    """Where npm builds it in a checkout."""
    return Path(adaptrt.__file__).parent / "runtime" / "js" / "demo" / "dist"


def page_folder(given: Path | None = None) -> Path:
    """The folder of the built page.

    Args:
        given: Where it is; None for a checkout's own.

    Raises:
        ExportError: It is not there.
    """
    folder = default_page() if given is None else given
    missing = next((name for name in _PARTS if not (folder / name).exists()), None)
    if missing is None:
        return folder
    got = f"no {missing} in {str(folder)!r}" if folder.is_dir() else f"no folder {str(folder)!r}"
    raise ExportError(
        f"{got}, expected the built page; run `make js` in a checkout of the repository (it needs Node.js 20 or later "
        "with npm), and pass its runtime/js/demo/dist as --page where adaptrt is installed elsewhere"
    )
