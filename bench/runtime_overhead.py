"""What the runtime itself costs: per call over a bare ``InferenceSession.run``, and on import.

The calls compared use one session, one input and the same price, and take turns one by one. The imports
are timed inside fresh interpreters that take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import click
import numpy as np
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import run_command, show, show_progress
from adaptrt.bench.timing import tiny_bundle
from adaptrt.bench.timing.interleave import Spread
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.runtime import AdaptiveModel, Budget, Bundle, load
from adaptrt.runtime.backends.onnxruntime import OnnxRuntimeBackend

CALL_LIMIT_US = 30.0
IMPORT_LIMIT_MS = 50.0

_WARM_CALLS = 200
_IMPORTS = {
    "onnxruntime": "import onnxruntime",
    "with adaptrt.runtime": "import onnxruntime, adaptrt.runtime",
}
_TIMED_IMPORT = "from time import perf_counter as now; start = now(); {}; print((now() - start) * 1e3)"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """One way to do a thing, and what it takes more than the plain way.

    Attributes:
        what: The thing.
        unit: Of the times.
        plain: Time of the plain way.
        ours: Time with adaptrt.
        extra: Their difference, turn by turn.
        limit: That the median of the difference is to stay under.
    """

    what: str
    unit: str
    plain: Spread
    ours: Spread
    extra: Spread
    limit: float


@dataclass(frozen=True)
class Result:
    """All that one run of this command measured."""

    benchmark: str
    bundle: str
    batch: int
    calls: int
    interpreters: int
    rows: tuple[Row, ...]
    machine: dict[str, Any]
    source: dict[str, Any]


def example_inputs(bundle: Bundle, batch: int) -> dict[str, Array]:
    """Zeros for every input; a dynamic axis has the size ``batch``."""
    return {
        spec.name: np.zeros([batch if isinstance(size, str) else size for size in spec.shape], spec.dtype)
        for spec in bundle.inputs
    }


def measure_calls(model: AdaptiveModel, batch: int, calls: int) -> list[Row]:
    """Compare ``AdaptiveModel.run`` with its own session's ``run``.

    Args:
        model: Loaded with the ONNX Runtime backend.
        batch: Size of every dynamic axis.
        calls: Of each kind.
    """
    if not isinstance(model.backend, OnnxRuntimeBackend):
        raise BenchError(f"got a {type(model.backend).__name__}, expected a model on ONNX Runtime")
    if len(model.backends) > 1:
        raise BenchError(
            f"bundle {model.bundle.name!r} has {len(model.backends)} stages, expected 1, whose session is compared "
            "with; adaptrt.bench.early_exit measures others"
        )
    budget = Budget.fraction(0.5) if model.bundle.curve else Budget.full()
    model.budget = budget
    inputs = example_inputs(model.bundle, batch)
    knobs = {
        knob.name: np.full(knob.shape, model.operating_point().knobs[knob.name], knob.dtype)
        for knob in model.bundle.knobs
    }
    feeds = {**inputs, **knobs}
    names = [spec.name for spec in model.bundle.outputs]
    session_run = model.backend.session.run
    ways: dict[str, Callable[[], object]] = {
        "call, budget of the model": lambda: model.run(inputs),
        "call, budget of its own": lambda: model.run(inputs, budget=budget),
    }
    return [_compare_calls(what, lambda: session_run(names, feeds), ours, calls) for what, ours in ways.items()]


def _compare_calls(what: str, plain: Callable[[], object], ours: Callable[[], object], calls: int) -> Row:
    for _ in range(_WARM_CALLS):
        plain()
        ours()
    plain_times: list[float] = []
    our_times: list[float] = []
    for _ in range(calls):
        start = perf_counter_ns()
        plain()
        middle = perf_counter_ns()
        ours()
        end = perf_counter_ns()
        plain_times.append((middle - start) / 1e3)
        our_times.append((end - middle) / 1e3)
    return _row(what, "us", plain_times, our_times, CALL_LIMIT_US)


def measure_imports(interpreters: int, on_turn: Callable[[], None] = lambda: None) -> Row:
    """Compare importing onnxruntime with importing it and the runtime, in fresh interpreters.

    Args:
        interpreters: Of each kind, after one of each that fills the file cache.
        on_turn: Called after each pair.
    """
    times: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    for turn in range(interpreters + 1):
        for name, code in _IMPORTS.items():
            milliseconds = _time_import(code)
            if turn:
                times[name].append(milliseconds)
        on_turn()
    plain, ours = times.values()
    return _row("import", "ms", plain, ours, IMPORT_LIMIT_MS)


def _time_import(code: str) -> float:
    command = [sys.executable, "-c", _TIMED_IMPORT.format(code)]
    # As installed packages have it: with byte code, which the first turn writes.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(
            f"`{code}` failed in a fresh interpreter ({reason}), expected it to work; install adaptrt[cpu]"
        )
    return float(done.stdout)


def _row(what: str, unit: str, plain: list[float], ours: list[float], limit: float) -> Row:
    extra = [more - less for less, more in zip(plain, ours, strict=True)]
    return Row(what, unit, Spread.of(plain), Spread.of(ours), Spread.of(extra), limit)


def tabulate(result: Result) -> Table:
    """The result for a terminal."""
    table = Table(title=f"The runtime's own cost: bundle {result.bundle!r}, batch {result.batch}, 1 thread")
    for heading in ("", "unit", "onnxruntime", "with adaptrt", "more", "quartiles", "limit"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in result.rows:
        table.add_row(
            row.what,
            row.unit,
            f"{row.plain.median:.1f}",
            f"{row.ours.median:.1f}",
            f"{row.extra.median:.1f}",
            f"{row.extra.low:.1f}-{row.extra.high:.1f}",
            f"{row.limit:g}",
        )
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--calls", type=click.IntRange(1), default=20_000, show_default=True, help="Calls of each kind.")
@click.option(
    "--interpreters", type=click.IntRange(1), default=20, show_default=True, help="Interpreters of each kind."
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here.")
def main(bundle: Path | None, batch: int, calls: int, interpreters: int, json_file: Path | None) -> None:
    """Measure what AdaptiveModel.run costs over InferenceSession.run, and what importing it costs.

    BUNDLE is an exported folder; left out, it is a tiny one made for the occasion, whose own few
    microseconds hide nothing.

    \b
    Examples:
      python -m adaptrt.bench.runtime_overhead
      python -m adaptrt.bench.runtime_overhead build/digits --calls 500 --json overhead.json
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    machine = describe_machine()
    with ExitStack() as stack:
        if bundle is None:
            bundle = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adaptrt-")))
            tiny_bundle.make(bundle)
        model = load(bundle, threads=1)
        progress = stack.enter_context(show_progress())
        task = progress.add_task("imports", total=interpreters + 2)
        imports = measure_imports(interpreters, lambda: progress.advance(task))
        progress.update(task, description="calls")
        rows = (*measure_calls(model, batch, calls), imports)
        progress.advance(task)
    result = Result("runtime_overhead", model.bundle.name, batch, calls, interpreters, rows, machine, describe_source())
    show(tabulate(result), result, json_file)


if __name__ == "__main__":
    run_command(main)
