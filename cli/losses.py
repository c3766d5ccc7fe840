"""What ``adaptrt inspect`` shows of an adaptation: its losses by phase."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from adaptrt.models.training.loss_log import PhaseLosses


def show_adaptation(folder: Path, plot: Path | None, *, as_json: bool) -> None:
    """Show, and draw, the losses of an adaptation, which may be going on.

    Raises:
        LossLogError: It has none yet, or they are damaged.
        CommandError: The picture cannot be where it is wanted.
        ExportError: It cannot be written.
    """
    from adaptrt.cli.errors import CommandError
    from adaptrt.cli.output import check_output_file, show, show_json
    from adaptrt.models.training.loss_log import read_losses

    if plot is not None:
        check_output_file(plot, (".png", ".svg", ".pdf"))
        importlib.import_module("matplotlib")
    phases = read_losses(folder)
    if plot is not None:
        if not any(phase.loss for phase in phases):
            raise CommandError(f"got {folder} without a loss so far, expected some to draw; wait for ten steps")
        from adaptrt.bench.reports.losses_plot import plot_losses

        plot_losses(phases, plot)
    if as_json:
        found = [dataclasses.asdict(phase) for phase in phases]
        show_json({"folder": str(folder), "plot": None if plot is None else str(plot), "phases": found})
        return
    show(_table(phases))
    if plot is not None:
        show(f"Picture in {plot}")


def _table(phases: list[PhaseLosses]) -> Table:
    from adaptrt.cli import tables

    made = tables.table("Losses by phase", "<phase", "layer", "steps", "first loss", "last loss")
    for phase in phases:
        done = f"{phase.done:,}" if phase.steps in (None, phase.done) else f"{phase.done:,} of {phase.steps:,}"
        ends = [f"{loss:.4g}" for loss in (phase.loss[0], phase.loss[-1])] if phase.loss else [tables.NONE] * 2
        made.add_row(phase.kind, tables.NONE if phase.layer is None else str(phase.layer), done, *ends)
    return made
