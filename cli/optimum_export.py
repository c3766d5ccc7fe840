"""What ``optimum-cli export adaptive`` does: ``adaptrt adapt`` where that was not done, then ``adaptrt export``."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from adaptrt import AdaptrtError
from adaptrt.cli.errors import CommandError, one_line
from adaptrt.cli.main import run_commands

ADAPTING_OPTIONS = ("data", "hours", "steps", "families", "task", "work")
"""Options of the command that are for adapting; ``adaptrt adapt`` checks what they say."""

_CONFIG = "config.json"


def export_adaptive(model: Path, output: Path, options: Mapping[str, object]) -> None:
    """Export a folder as a bundle, adapting it first if transformers wrote it.

    A mistake ends the process with one line on standard error and exit code 2, as ``adaptrt`` does.

    Args:
        model: The folder.
        output: Folder of the bundle.
        options: By their names in ``ADAPTING_OPTIONS``; None where one is not given.
    """
    try:
        commands = commands_for(model, output, {name: value for name, value in options.items() if value is not None})
    except AdaptrtError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    run_commands(commands)


def commands_for(model: Path, output: Path, options: Mapping[str, object]) -> list[list[str]]:
    """Command lines of ``adaptrt``, in order.

    Raises:
        AdaptrtError: The folder is none, options do not fit it, or something else is at the bundle's place.
    """
    if not (model / _CONFIG).is_file():
        raise CommandError(
            f"got model {str(model)!r}, expected a folder with {_CONFIG} and weights on this machine; download it, and "
            "name its folder"
        )
    if _is_adapted(model):
        if options:
            given = ", ".join(f"--{name}" for name in options)
            raise CommandError(f"got {given} with a network that is adapted already, expected none; leave them out")
        # A path as a whole is never taken for the name of a ready model.
        return [["export", str(model.resolve()), "--output", str(output)]]
    if "data" not in options:
        raise CommandError(
            f"got model {str(model)!r}, which is not adaptive yet, and no --data, expected texts, pictures or "
            "recordings to adapt it with; no labels are needed"
        )
    with contextlib.suppress(ModuleNotFoundError):  # the verb says which extra is missing
        from adaptrt.export.staging import check_replaceable

        check_replaceable(output)  # before hours of training
    work = Path(str(options.get("work", output.with_name(f"{output.name}.adapt"))))
    adapted = work / "network" / model.resolve().name  # which names the bundle
    others = {name: value for name, value in options.items() if name != "work"}
    words = [word for name, value in others.items() for word in (f"--{name}", str(value))]
    adapting = ["adapt", str(model), *words, "--work", str(work), "--output", str(adapted)]
    return [adapting, ["export", str(adapted), "--output", str(output)]]


def _is_adapted(folder: Path) -> bool:
    """Whether it is a model folder of adaptrt, whose configuration stands under its architecture's name."""
    try:
        content = json.loads((folder / _CONFIG).read_text())
        return isinstance(content.get(content.get("architecture")), dict)
    except (ValueError, AttributeError, TypeError, OSError) as error:
        raise CommandError(f"cannot read {folder / _CONFIG}: {error}; copy the folder again") from error
