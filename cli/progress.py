"""Progress on stderr: bars in a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from adaptrt.cli.interrupts import stop_if_interrupted

if TYPE_CHECKING:
    from adaptrt.models.training.phase import Progress as TrainingProgress

_LOG_SECONDS = 30.0
"""In a log a line follows the last one no sooner, unless something else begins."""


@contextlib.contextmanager
def steps_shown() -> Iterator[Callable[[str, float], None]]:
    """Show an operation of several steps; gives the function to tell what is done and which share of it.

    That function raises KeyboardInterrupt if an earlier one was lost.
    """
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        seen: set[str] = set()

        def log(what: str, share: float) -> None:  # noqa: ARG001
            stop_if_interrupted()
            if what not in seen:
                seen.add(what)
                console.print(f"{what} ...", soft_wrap=True)

        yield log
        return
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), console=console
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, share: float) -> None:
            stop_if_interrupted()
            if what not in tasks:
                _finish(bars, tasks.values())
                tasks[what] = bars.add_task(what, total=1.0)
            bars.update(tasks[what], completed=share)

        yield show
        _finish(bars, tasks.values())


@contextlib.contextmanager
def training_shown() -> Iterator[Callable[[TrainingProgress], None]]:
    """Show training: phase, step, loss, accuracy and time left."""
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        phase, shown_at = "", 0.0

        def log(progress: TrainingProgress) -> None:
            nonlocal phase, shown_at
            stop_if_interrupted()
            due = time.monotonic() - shown_at >= _LOG_SECONDS
            if progress.phase == phase and progress.step < progress.steps and not due:
                return
            phase, shown_at = progress.phase, time.monotonic()
            line = f"{progress.phase} {progress.step}/{progress.steps}  {_figures(progress)}"
            console.print(line, soft_wrap=True)

        yield log
        return
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
    ]
    with Progress(*columns, TextColumn("{task.fields[figures]}", markup=False), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(progress: TrainingProgress) -> None:
            stop_if_interrupted()
            if progress.phase not in tasks:
                tasks[progress.phase] = bars.add_task(progress.phase, total=progress.steps, figures="")
            bars.update(tasks[progress.phase], completed=progress.step, figures=_figures(progress))

        yield show


def _finish(bars: Progress, tasks: Iterable[TaskID]) -> None:
    for task in tasks:
        bars.update(task, completed=1.0)


def _figures(progress: TrainingProgress) -> str:
    figures = [] if math.isnan(progress.loss) else [f"loss {progress.loss:.4f}"]  # NaN: the phase has none
    if progress.accuracy is not None:
        figures.append(f"accuracy {progress.accuracy:.1%}")
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    return "  ".join([*figures, f"{minutes}:{seconds:02d} left"])
