"""Which engine a verb runs a bundle on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptrt.cli.table_options import TableOption
from adaptrt.cli.verb import PATH

if TYPE_CHECKING:
    from adaptrt.runtime import AdaptiveModel


def _default() -> str:
    from adaptrt.runtime.backends.backend_table import DEFAULT_BACKEND

    return DEFAULT_BACKEND


def _names() -> str:
    """Help for ``--backend``."""
    from adaptrt.runtime.backends.backend_table import AUTO, BACKENDS

    return f"{', '.join(BACKENDS)}, or {AUTO}: the fastest that is there.  [default: {_default()}]"


def _precisions() -> str:
    from adaptrt.runtime.backends.backend_table import BACKENDS

    names = (precision for record in BACKENDS.values() for precision in record.precisions)
    return "|".join(dict.fromkeys(names))


_BACKEND_OPTIONS = (
    click.option(
        "--backend",
        cls=TableOption,
        metavar="NAME",
        default=_default,
        table_help=_names,
    ),
    click.option(
        "--precision",
        cls=TableOption,
        table_metavar=_precisions,
        table_help=lambda: "To compute in, as far as the backend has it.",
    ),
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
    from adaptrt.runtime.backends.backend_table import AUTO

    model = load(bundle, threads=threads, backend=backend, precision=precision, plugin_library=plugin_library)
    if backend == AUTO:
        note(f"note: {model.backend_name} runs it: {model.backend_reason}")
    return model
