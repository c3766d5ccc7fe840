"""``adaptrt train``: train a ready model, from nothing to the weights that `adaptrt export` reads."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptrt.cli.errors import CommandError
from adaptrt.cli.verb import PATH, Verb, json_option, keep_on_interrupt

if TYPE_CHECKING:
    from rich.table import Table

    from adaptrt.models.training.recipe import Recipe

LOG = "train_log.json"

_EXAMPLES = """
adaptrt train digits
adaptrt train digits --output models/weights/digits --precision float32
adaptrt train digits --output build/quick --work build/train/quick --epochs-scale 0.1
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("name", default="digits")
@click.option("--output", type=PATH, help="Folder for the weights; default: models/weights/NAME.")
@click.option("--work", type=PATH, help="Folder for checkpoints; default: build/train/NAME.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="auto times both: bfloat16 where it is clearly faster, else float32. What began goes on as it began.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="All randomness.")
@click.option("--epochs-scale", type=float, default=1.0, show_default=True, help="Factor on all epochs.")
@json_option
def train(
    name: str,
    output: Path | None,
    work: Path | None,
    precision: str,
    seed: int,
    epochs_scale: float,
    as_json: bool,
) -> None:
    """Train a ready model and save its weights.

    NAME is digits where none is given. A dense model first, then distillation, gates and everything
    jointly. Ctrl-C keeps the checkpoint of the last finished epoch, and the same command goes on from
    there. Beside the weights lies train_log.json: recipe, machine, losses, and what the saved model
    reaches at every price.
    """
    if not (math.isfinite(epochs_scale) and epochs_scale > 0):
        raise click.UsageError(
            f"got --epochs-scale {epochs_scale:g}, expected a finite number above 0; 1 is the recipe"
        )
    from adaptrt.models.registry import RECIPES

    if name not in RECIPES:
        raise CommandError(f"got model {name!r}, expected one with a recipe: {', '.join(RECIPES)}; name one")
    weights, checkpoints = output or Path("models/weights") / name, work or Path("build/train") / name
    for folder in (weights, checkpoints):
        with contextlib.suppress(FileNotFoundError):  # what else it raises would end the training after hours
            if not stat.S_ISDIR(folder.stat().st_mode):
                raise CommandError(f"{str(folder)!r} is a file, expected a folder or nothing; choose another one")
    recipe = dataclasses.replace(scaled(RECIPES[name], epochs_scale), seed=seed)
    keep_on_interrupt(f"finished epochs are kept in {checkpoints}; the same command goes on from there")
    try:
        log = _run(recipe, precision, weights, checkpoints)
    except OSError as error:
        where = error.filename or f"{weights} or {checkpoints}"
        raise CommandError(
            f"cannot write {where}: {error.strerror or error}; free some space or choose another --output "
            "or --work, the same command goes on from the last checkpoint"
        ) from error
    from adaptrt.cli.output import show, show_json

    if as_json:
        show_json({"weights": str(weights), **log})
        return
    show(evaluation_table(log["evaluation"]), f"Weights and {LOG} in {weights}; next: adaptrt export {weights}")


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """A recipe with all its epochs multiplied, at least one of each that it has."""
    names = ("dense_epochs", "distil_epochs", "gate_epochs", "exit_epochs", "joint_epochs")
    epochs = {name: getattr(recipe, name) for name in names}
    return dataclasses.replace(recipe, **{name: max(1, round(n * factor)) for name, n in epochs.items() if n})


def _run(recipe: Recipe, precision: str, weights: Path, checkpoints: Path) -> dict[str, Any]:
    """Train in a precision or ``auto``, save, evaluate what was saved, and write the log, which is returned."""
    import torch

    from adaptrt import write_atomically
    from adaptrt.cli.output import note
    from adaptrt.cli.progress import training_shown
    from adaptrt.cli.train_log import EpochHistory, describe_run, encode_log, evaluate
    from adaptrt.models.data.split import load_data
    from adaptrt.models.folder import load_folder, save_model
    from adaptrt.models.training.precision import choose_precision, keep_choice
    from adaptrt.models.training.train import train as run_recipe

    data = load_data(recipe.data)
    assert data.train is not None
    if any(checkpoints.glob("*.pt")):
        note(f"resuming from the checkpoints in {checkpoints}")
    choice = choose_precision(precision, checkpoints)
    keep_choice(choice, checkpoints)
    note(f"training in {choice.precision}: {choice.reason}")
    recipe = dataclasses.replace(recipe, precision=choice.precision)
    history = EpochHistory(checkpoints)
    with training_shown() as shown:

        def report(progress: Any) -> None:
            shown(progress)
            history.record(progress)

        dense, adaptive = run_recipe(recipe, data, checkpoints, report)
    save_model(weights, adaptive, dense, data.name, torch.float16)
    log = describe_run(recipe, data, choice.speedup)
    log["phases"] = history.phases()
    log["evaluation"] = evaluate(load_folder(weights, recipe.data), data)
    write_atomically(weights / LOG, encode_log(log))
    return log


def evaluation_table(evaluation: dict[str, Any]) -> Table:
    """What the saved model reaches at every price, and the dense model."""
    from adaptrt.cli import tables

    points = tables.table("Saved model", "price", "of dense MACs", "calibration accuracy", "test accuracy")
    named = [(f"{row['price']:.2f}" if "price" in row else "none", row) for row in evaluation["adaptive"]]
    for name, row in [*named, ("dense", evaluation["dense"])]:
        points.add_row(
            name,
            tables.percent(row["test"].get("macs_fraction", 1.0)),
            *(tables.quality(row[part]["accuracy"], "accuracy") for part in ("calibration", "test")),
        )
    return points
