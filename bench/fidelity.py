"""How near a bundle's answers come to the dense model's at each budget, on samples of your own.

``python -m adaptrt.bench.fidelity BUNDLE --data FILE``. Vectors are compared by their cosine, scores by where the
largest stands. Where the data has labels and the answers are vectors, each sample also gets the label that most of its
nearest neighbours have among the dense model's vectors of all other samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnxruntime
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.export.pretrained.samples import maker_for
from adaptrt.models.data.files import RawData, read_files
from adaptrt.runtime import AdaptiveModel, Budget, load
from adaptrt.runtime.bundle.bundle_file import read_bundle

BUDGETS = (1.0, 0.8, 0.6, 0.5, 0.45, 0.35, 0.25)
_AT_ONCE = 16
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FidelityRow:
    """One budget.

    Attributes:
        budget: Share of the dense work that was asked for; None: everything runs.
        work: Share that was done, relative to everything running on the same samples.
        macs_fraction: Mean of what the bundle says.
        likeness: Mean cosine to the dense model's vectors, or share of samples with the same largest score.
        standard_error: Of that mean.
        neighbours: Share of samples whose nearest neighbours have their label; None: not asked.
    """

    budget: float | None
    work: float
    macs_fraction: float
    likeness: float
    standard_error: float
    neighbours: float | None


@dataclass(frozen=True)
class Fidelity:
    """What was measured.

    Attributes:
        bundle: Name.
        samples: Number.
        measure: What ``likeness`` is.
        dense_neighbours: As in the rows, with the dense model's own vectors.
        rows: By budget.
        machine: What it ran on.
        source: Command and commit.
    """

    bundle: str
    samples: int
    measure: str
    dense_neighbours: float | None
    rows: list[FidelityRow]
    machine: dict[str, Any] = field(default_factory=describe_machine)
    source: dict[str, Any] = field(default_factory=describe_source)


def measure(
    folder: Path,
    raw: RawData,
    budgets: Sequence[float] = BUDGETS,
    *,
    neighbours: int = 5,
    threads: int | None = None,
    on_done: Callable[[float], None] = lambda _: None,
) -> Fidelity:
    """Run all samples at all budgets, and the dense model.

    Args:
        folder: The bundle, with its dense model.
        raw: Texts, pictures, recordings or arrays, perhaps with labels.
        budgets: Shares of the dense work; everything running comes first by itself.
        neighbours: Of each sample, whose labels are asked; 0: none are.
        threads: Of each engine.
        on_done: Told the share that is done.

    Raises:
        BenchError: The bundle has no dense model, or its answers are neither vectors nor scores.
    """
    dense_file = read_bundle(folder, verify_hashes=False).dense.file
    if dense_file is None:
        raise BenchError(f"got {folder} without its dense model, expected one to compare with; export it again")
    model = load(folder, threads=threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(folder / dense_file), options, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0].name
    asked = [None, *budgets]
    dense: list[Vectors] = []
    outputs: list[list[Vectors]] = [[] for _ in asked]
    shares: list[list[Vectors]] = [[] for _ in asked]
    make = _maker(model, raw)
    order = list(range(len(raw)))
    if raw.kind == "text":  # those of one length together: padding costs time and changes nothing
        order.sort(key=lambda row: len(str(raw.items[row])))
    batches = [order[start : start + _AT_ONCE] for start in range(0, len(raw), _AT_ONCE)]
    # Long texts last would look to the runtime like inputs that are not what it was calibrated for.
    batches = [batches[place] for place in np.random.default_rng(0).permutation(len(batches))]
    order = [row for batch in batches for row in batch]
    for done, batch in enumerate(batches, 1):
        inputs = make(batch)
        dense.append(session.run([output], inputs)[0])
        for number, budget in enumerate(asked):
            result = model.run(inputs, budget=Budget.full() if budget is None else Budget.fraction(budget))
            outputs[number].append(result.outputs[output])
            shares[number].append(result.macs_fraction)
        on_done(done / len(batches))
    wanted = np.concatenate(dense)
    if wanted.ndim != 2:
        raise BenchError(f"got an output {output!r} of shape {list(wanted.shape)}, expected one vector for each sample")
    labels = None if raw.labels is None or not neighbours or "logits" in output else [raw.labels[row] for row in order]
    whole = np.concatenate(shares[0])
    rows = []
    for number, budget in enumerate(asked):
        vectors, used = np.concatenate(outputs[number]), np.concatenate(shares[number])
        near = likeness(vectors, wanted, scores="logits" in output)
        error = float(near.std() / max(1.0, np.sqrt(len(near))))
        by_label = None if labels is None else neighbour_accuracy(vectors, wanted, labels, neighbours)
        work = float(used.sum() / whole.sum())
        rows.append(FidelityRow(budget, work, float(used.mean()), float(near.mean()), error, by_label))
    dense_accuracy = None if labels is None else neighbour_accuracy(wanted, wanted, labels, neighbours)
    said = "same largest score" if "logits" in output else "cosine"
    return Fidelity(model.bundle.name, len(raw), said, dense_accuracy, rows)


def _maker(model: AdaptiveModel, raw: RawData) -> Callable[[list[int]], dict[str, Any]]:
    """What makes inputs of the samples of some numbers."""
    arrays = raw.arrays
    if arrays is not None:
        return lambda rows: {name: np.ascontiguousarray(array[rows]) for name, array in arrays.items()}
    make = maker_for(model.preprocess, raw.kind, model.bundle)
    return lambda rows: dict(make([raw.items[row] for row in rows]))


def likeness(given: Vectors, wanted: Vectors, *, scores: bool) -> Vectors:
    """Of each sample: 1 where the largest score stands at the same place, or the cosine of two vectors."""
    if scores:
        return np.asarray(given.argmax(1) == wanted.argmax(1), np.float32)
    sizes = np.linalg.norm(given, axis=1) * np.linalg.norm(wanted, axis=1)
    return np.asarray((given * wanted).sum(1) / np.maximum(sizes, 1e-12), np.float32)


def neighbour_accuracy(queries: Vectors, index: Vectors, labels: Sequence[Any], neighbours: int) -> float:
    """Share of samples whose label is the most frequent among the nearest others; of equals the nearest one's.

    Args:
        queries: ``[S, D]``.
        index: ``[S, D]``, of the same samples.
        labels: Of the samples.
        neighbours: Number of others that are asked.
    """
    queries, index = (
        part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (queries, index)
    )
    right = 0
    for start in range(0, len(queries), 256):
        near = queries[start : start + 256] @ index.T
        rows = np.arange(start, start + len(near))
        near[np.arange(len(near)), rows] = -np.inf
        nearest = np.argsort(-near, axis=1, kind="stable")[:, :neighbours]
        for sample, others in zip(rows, nearest, strict=True):
            right += Counter(labels[int(other)] for other in others).most_common(1)[0][0] == labels[int(sample)]
    return right / len(queries)


def tabulate(result: Fidelity) -> Table:
    """The result for a terminal."""
    by_label = result.dense_neighbours is not None
    dense = f"; neighbours of the dense model's vectors {result.dense_neighbours:.2%}" if by_label else ""
    table = Table(title=f"{result.bundle}, {result.samples:,} samples{dense}")
    headings = ("budget", "macs_fraction", "work / everything", result.measure, "±", "neighbours")
    for heading in headings[: 6 if by_label else 5]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows:
        cells = [
            "everything" if row.budget is None else f"{row.budget:.0%}",
            f"{row.macs_fraction:.3f}",
            f"{row.work:.3f}",
            f"{row.likeness:.4f}",
            f"{row.standard_error:.4f}",
        ]
        table.add_row(*cells, *([] if row.neighbours is None else [f"{row.neighbours:.2%}"]))
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="As adaptrt adapt takes it; not what it adapted on."
)
@click.option("--text-column", help="Of tables.")
@click.option("--label-column", help="Of tables.")
@click.option("--budget", "budgets", type=click.FloatRange(0, 1), multiple=True, default=BUDGETS, show_default=True)
@click.option("--neighbours", type=click.IntRange(0), default=5, show_default=True, help="0: none are asked.")
@click.option("--threads", type=click.IntRange(1), help="Default: all.")
@json_option
def main(
    bundle: Path,
    data: Path,
    text_column: str | None,
    label_column: str | None,
    budgets: tuple[float, ...],
    neighbours: int,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Compare a BUNDLE's answers at each budget with its dense model's.

    \b
    Examples:
      python -m adaptrt.bench.fidelity build/minilm --data held_out.txt
      python -m adaptrt.bench.fidelity build/minilm --data held_out.jsonl --label-column section --json fidelity.json
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    raw = read_files(data, text_column=text_column, label_column=label_column)
    with show_progress() as progress:
        task = progress.add_task(f"{len(raw):,} samples at {len(budgets) + 1} budgets", total=1)
        result = measure(
            bundle,
            raw,
            budgets,
            neighbours=neighbours,
            threads=threads,
            on_done=lambda share: progress.update(task, completed=share),
        )
    show(tabulate(result), result, json_file)


if __name__ == "__main__":
    run_command(main)
