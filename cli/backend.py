"""Which engine a verb runs a bundle on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptrt.cli.verb import PATH

if TYPE_CHECKING:
    from adaptrt.runtime import AdaptiveModel

_BACKEND_OPTIONS = (
    click.option(
        "--backend",
        metavar="NAME",
        default="onnxruntime",
        show_default=True,
        help="onnxruntime, openvino, tensorrt, tensorrt-rtx, or auto: the fastest that is there.",
    ),
    click.option("--precision", metavar="fp32|fp16|bf16", help="To compute in, as far as the backend has it."),
    click.option("--plugin-library", type=PATH, help="adaptrt's TensorRT plugins, for engines that need them."),
)


def backend_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb ``--backend``, ``--precision`` and ``--plugin-library``."""
    for option in reversed(_BACKEND_OPTIONS):
        command = option(command)
    return command


def open_model(
    bundle: Path, threads: int | None, backend: str, precision: str | None, plugin_library: Path | None
) -> AdaptiveModel:
    """Load a bundle as the options say; with ``auto`` a note tells what runs it, and why.

    Raises:
        BundleError: The bundle is damaged.
        BackendError: The backend cannot run it.
    """
    from adaptrt.cli.output import note
    from adaptrt.runtime import load

    model = load(bundle, threads=threads, backend=backend, precision=precision, plugin_library=plugin_library)
    if backend == "auto":
        note(f"note: {model.backend_name} runs it: {model.backend_reason}")
    return model
