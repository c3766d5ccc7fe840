"""How much memory adapting takes: checkpoints of usual shapes with random weights, on random data.

``python -m adaptrt.bench.adapt_memory``: a network of BERT-base's shape on 2,000 texts of 128 tokens, and one of
ViT-B's on 2,000 pictures, each in a process of its own, go through every phase of ``adaptrt adapt``, a few steps of
each. What a step holds does not depend on how many there are.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.random_checkpoints import write_checkpoint, write_vit
from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.timing.machine import describe_machine, describe_source

SAMPLES, TOKENS = 2_000, 128
_STEPS = 2
_COARSE = 28  # pixels of what a random picture is enlarged from, which makes it as large a file as a photograph


@dataclass(frozen=True)
class Shape:
    """One checkpoint with its data.

    Attributes:
        write: Writes the checkpoint to a folder.
        draw: Writes so many samples beside a path, and gives where.
        limit: GiB that adapting is to hold at most.
    """

    write: Callable[[Path], None]
    draw: Callable[[Path, int], Path]
    limit: float


@dataclass(frozen=True)
class Row:
    """What one shape took.

    Attributes:
        shape: Its name.
        samples: Of the data.
        families: That the network got.
        peak_gib: GiB that the process held at most, checkpoint and data included.
        limit: What that should be at most.
    """

    shape: str
    samples: int
    families: list[str]
    peak_gib: float
    limit: float


@dataclass(frozen=True)
class Result:
    """All shapes, and where they were measured."""

    rows: list[Row]
    machine: dict[str, Any]
    source: dict[str, Any]


def _write_bert(folder: Path) -> None:
    write_checkpoint("BertForSequenceClassification", folder)


def _draw_texts(folder: Path, samples: int) -> Path:
    draw = np.random.default_rng(0)
    words = draw.integers(1000, 30_000, (samples, TOKENS))
    file = folder / "texts.npz"
    np.savez(file, input_ids=words, attention_mask=np.ones_like(words), token_type_ids=np.zeros_like(words))
    return file


def _draw_pictures(folder: Path, samples: int) -> Path:
    from PIL import Image

    draw, pictures = np.random.default_rng(0), folder / "pictures"
    pictures.mkdir()
    for number in range(samples):
        coarse = Image.fromarray(draw.integers(0, 256, (_COARSE, _COARSE, 3), np.uint8))
        coarse.resize((256, 256)).save(pictures / f"{number}.jpg")
    return pictures


SHAPES = {"bert-base": Shape(_write_bert, _draw_texts, 6.0), "vit-b": Shape(write_vit, _draw_pictures, 8.0)}


def adapt_shape(name: str, folder: Path, samples: int) -> Row:
    """Write a checkpoint and data, and adapt the one to the other with few steps; to be called once by a process."""
    import torch

    from adaptrt.export.pretrained.adapt_folder import AdaptRequest, adapt_folder

    shape, checkpoint = SHAPES[name], folder / "checkpoint"
    torch.manual_seed(0)
    shape.write(checkpoint)
    report = adapt_folder(
        AdaptRequest(
            str(checkpoint),
            shape.draw(folder, samples),
            folder / "adapted",
            folder / "work",
            settings={"joint_steps": _STEPS, "distil_steps": _STEPS, "gate_steps": _STEPS},
        ),
        lambda _progress: None,
    )
    if report.peak_memory is None:
        raise BenchError("this system does not say how much memory a process held, expected Linux or macOS")
    return Row(name, samples, list(report.families), report.peak_memory / 2**30, shape.limit)


def measure(name: str, samples: int) -> Row:
    """Measure one shape in a process of its own.

    Raises:
        BenchError: It failed.
    """
    with tempfile.TemporaryDirectory(prefix="adaptrt-bench-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "adaptrt.bench.adapt_memory", "--shape", name, "--samples", str(samples)]
        done = subprocess.run([*command, "--here", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise BenchError(f"{name} was not adapted: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Row)


def tabulate(result: Result) -> Table:
    """The result for a terminal."""
    table = Table(title="Memory of adapting, at most")
    for heading in ("shape", "samples", "families", "GiB", "limit"):
        table.add_column(heading, justify="left" if heading in ("shape", "families") else "right", no_wrap=True)
    for row in result.rows:
        cells = (", ".join(row.families), f"{row.peak_gib:.1f}", f"{row.limit:g}")
        table.add_row(row.shape, f"{row.samples:,}", *cells)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--shape", "shapes", type=click.Choice(list(SHAPES)), multiple=True, help="Default: both.")
@click.option("--samples", type=click.IntRange(100), default=SAMPLES, show_default=True)
@click.option("--here", type=click.Path(path_type=Path), hidden=True)
@json_option
def main(shapes: tuple[str, ...], samples: int, here: Path | None, json_file: Path | None) -> None:
    """Measure how much memory adapting takes.

    \b
    Examples:
      python -m adaptrt.bench.adapt_memory
      python -m adaptrt.bench.adapt_memory --shape bert-base --json memory.json
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    if here is not None:
        click.echo(msgspec.json.encode(adapt_shape(shapes[0], here, samples)))
        return
    rows = []
    with show_progress() as progress:
        names = shapes or tuple(SHAPES)
        task = progress.add_task("shapes", total=len(names))
        for name in names:
            rows.append(measure(name, samples))
            progress.advance(task)
    show(tabulate(result := Result(rows, describe_machine(), describe_source())), result, json_file)


if __name__ == "__main__":
    run_command(main)
