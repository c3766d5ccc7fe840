"""``adaptrt run``: a bundle on files, under a budget."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptrt.cli.backend import backend_options, open_model
from adaptrt.cli.budgets import budget_forms, budget_metavar, parse_budget
from adaptrt.cli.table_options import TableOption
from adaptrt.cli.verb import PATH, PATH_OR_TEXT, Verb, json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adaptrt.cli.batches import Predictions
    from adaptrt.runtime import AdaptiveModel, Budget
    from adaptrt.runtime.bundle.bundle_file import Bundle, KnobValue

_EXAMPLES = """
adaptrt run build/digits seven.png --budget 50%
adaptrt run build/digits one.png two.png three.png --budget 90M
adaptrt run build/digits drawing.png --background white
adaptrt run build/digits pixels.npy --budget full --output out.npz
adaptrt run build/digits inputs.npz --price 0.4 --threads 1 --json
adaptrt run build/digits pixels.npy --budget 8ms --watch
adaptrt run build/fashion shoe.png --deadline 2
adaptrt run build/digits seven.png --budget 50% --backend auto
adaptrt run build/fashion shoe.png --budget 40% --hard
adaptrt run build/fashion shoe.png --budget 40% --explain shoe_explained.png
adaptrt run build/sentences "A text to embed" --budget 50%
adaptrt run build/speech speech.wav
"""
_ROWS = 20
"""Samples listed in the table; --json and --output have all of them."""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundle", type=PATH)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=PATH_OR_TEXT)
@click.option(
    "--budget",
    cls=TableOption,
    table_metavar=budget_metavar,
    table_help=lambda: f"What a call may spend: {budget_forms()}; default: full.",
)
@click.option("--hard", is_flag=True, help="The budget holds for every sample, not only on average.")
@click.option("--price", type=float, help="Feed this price instead of obeying a budget.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per operator; default: one per core granted.")
@backend_options
@click.option(
    "--batch",
    type=click.IntRange(1, 65_536),
    help="Most samples in one call; default: all, up to 64. With --watch the samples are repeated up to that.",
)
@click.option("--top", type=click.IntRange(1, 100), default=3, show_default=True, help="Classes listed per sample.")
@click.option(
    "--background",
    metavar="COLOUR",
    help="Lay pictures that are not opaque over black, white, a grey level 0 to 255 or #rrggbb; default: what the "
    "bundle declares.",
)
@click.option("--output", type=PATH, help="Write all outputs to this .npz file.")
@click.option("--deadline", type=float, metavar="MS", help="Answer at the last exit that ends within so many ms.")
@click.option("--watch", is_flag=True, help="Call it again and again and show how it goes, until Ctrl-C.")
@click.option("--seconds", type=click.FloatRange(0.1, 1e7), help="With --watch: end after so many.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="With --watch: serve Prometheus metrics there.")
@click.option("--explain", type=PATH, help="Draw what was decided for one image into this .png, .svg or .pdf file.")
@json_option
def run(
    bundle: Path,
    inputs: tuple[str, ...],
    budget: str | None,
    hard: bool,
    price: float | None,
    threads: int | None,
    backend: str,
    precision: str | None,
    plugin_library: Path | None,
    batch: int | None,
    top: int,
    background: str | None,
    output: Path | None,
    deadline: float | None,
    watch: bool,
    seconds: float | None,
    metrics_port: int | None,
    explain: Path | None,
    as_json: bool,
) -> None:
    """Run a bundle on files or texts, under a budget.

    A .npy file holds the input, an .npz file the inputs by name; several images, texts or recordings make one
    batch. An argument that names a file is that file, of texts one a line; any other is a text where the bundle
    takes texts. Images are laid over a background where they are not opaque, which a note says, resized and
    normalised as the bundle declares; recordings are WAV files of the rate that it declares. The latency shown is
    that of this run, first call included; `adaptrt bench` measures it properly. --explain draws which tokens were
    kept, the learners run for each in every layer, and the exit taken.
    """
    if budget is not None and price is not None:
        raise click.UsageError("got --budget and --price, expected one of them; leave one out")
    if hard and budget is None:
        raise click.UsageError("got --hard without --budget, expected both; give the budget that is to hold")
    if seconds is not None and seconds != seconds:
        raise click.UsageError("got --seconds nan, expected a number of seconds; give one")
    if (seconds is not None or metrics_port is not None) and not watch:
        raise click.UsageError("got --seconds or --metrics-port without --watch, expected it; add it")
    if watch and (price is not None or output is not None or explain is not None or deadline is not None):
        raise click.UsageError("got --watch with --price, --output, --explain or --deadline, expected none; leave out")
    from adaptrt.cli.arguments import read_arguments
    from adaptrt.cli.background import parse_background
    from adaptrt.cli.batches import MOST_SAMPLES, check_samples, predict
    from adaptrt.cli.errors import CommandError
    from adaptrt.cli.output import check_output_file, note, show_json
    from adaptrt.cli.preparation import prepare
    from adaptrt.runtime import Budget
    from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS

    sources = [Path(argument) for argument in inputs]
    if output is not None:
        check_output_file(output, (".npz",), inputs=sources)
    if explain is not None:
        check_output_file(explain, (".png", ".svg", ".pdf"), inputs=sources)
        check_explained(sources)
        importlib.import_module("matplotlib")  # missing, it is better missed before the run
    asked = Budget.full() if budget is None else parse_budget(budget, hard=hard)
    ground = None if background is None else parse_background(background)
    model = open_model(bundle, threads, backend, precision, plugin_library)
    given = read_arguments(inputs, model, ground)
    if explain is not None and model.bundle.inputs[0].preprocessing is None:
        raise CommandError("got --explain with a text or a recording, expected one image; leave it out")
    arrays, laid_over = given.arrays, given.laid_over and given.laid_over.plain()
    check_samples(model.bundle, arrays, some=watch or BUDGET_KINDS[asked.kind].meter.physical)
    if watch:
        with contextlib.nullcontext() if metrics_port is None else model.serve_metrics(metrics_port) as server:
            if server is not None:
                note(f"metrics at http://127.0.0.1:{server.port}/metrics")
            watched = _watch(model, arrays, asked, batch=batch, seconds=seconds)
        if as_json:
            show_json({"bundle": str(bundle), **watched, "laid_over": laid_over})
        return
    knobs: dict[str, KnobValue] | None = None if price is None else {"price": price}
    most = batch or MOST_SAMPLES
    prepare(model, arrays, asked, batch=most)
    explained = explain is not None and any(stage.decisions for stage in model.bundle.stages)
    predictions = predict(
        model,
        arrays,
        budget=None if knobs else asked,
        knobs=knobs,
        batch=most,
        decisions=explained,
        deadline_ms=deadline,
    )
    if predictions.message is not None:
        note(f"note: {predictions.message}")
    if output is not None:
        from adaptrt.export.staging import write_file

        write_file(output, predictions.encode())
    if explain is not None:
        from adaptrt.cli.explanation import draw_explanation

        draw_explanation(model.bundle, next(iter(arrays.values()))[0], predictions, explain, top=top)
    told_apart = len(given.names) == predictions.samples
    names = given.names if told_apart else [""] * predictions.samples
    if as_json:
        ran = {"name": model.backend_name, "reason": model.backend_reason, "precision": model.precision}
        show_json(
            {
                **_describe(bundle, model.bundle, predictions, (given.label, names), top),
                "laid_over": laid_over,
                "backend": ran,
            }
        )
        return
    _show(model.bundle, predictions, (given.label, given.shown() if told_apart else names), top)
    from adaptrt.cli.output import show

    if output is not None:
        show(f"Outputs of {predictions.samples} samples in {output}")
    if explain is not None:
        show(f"What was decided for {names[0]} in {explain}")


def _watch(
    model: AdaptiveModel, arrays: dict[str, Any], budget: Budget, *, batch: int | None, seconds: float | None
) -> dict[str, Any]:
    """Watch until the time is over or Ctrl-C, which is how it usually ends; says at the end how it went."""
    from adaptrt.cli.batches import MOST_SAMPLES, count_samples, repeated
    from adaptrt.cli.output import note
    from adaptrt.cli.preparation import prepare
    from adaptrt.cli.watch import summary, watch

    # A picture that is watched is one picture: what a batch of it takes is another thing, to be asked for.
    batch = min(count_samples(model.bundle, arrays), MOST_SAMPLES) if batch is None else batch
    prepare(model, repeated(model.bundle, arrays, 0, batch), budget, batch=batch)
    watched = watch(model, arrays, budget, batch=batch, seconds=seconds)
    note(summary(watched))
    return watched.describe()


def check_explained(inputs: Sequence[Path]) -> None:
    """Refuse to explain anything but one image.

    Raises:
        CommandError: There are several files, or one of arrays.
    """
    from adaptrt.cli.errors import CommandError
    from adaptrt.cli.input_files import ARRAY_FILES

    if len(inputs) != 1 or inputs[0].suffix.lower() in ARRAY_FILES:
        got = f"{len(inputs)} files" if len(inputs) != 1 else repr(str(inputs[0]))
        raise CommandError(f"got --explain with {got}, expected one image; give one PNG, JPEG or the like")


def _exits(bundle: Bundle, predictions: Predictions) -> dict[str, int] | None:
    """How many samples left at each head, by its name."""
    if predictions.exit is None:
        return None
    exits = predictions.exit.tolist()
    return {stage.exit or str(number): exits.count(number) for number, stage in enumerate(bundle.stages)}


def _describe(
    folder: Path, bundle: Bundle, predictions: Predictions, named: tuple[str, list[str]], top: int
) -> dict[str, Any]:
    from adaptrt.cli.tables import class_name

    heading, names = named
    classes = predictions.classes(top)
    results = []
    for index in range(predictions.samples):
        result: dict[str, Any] = {"sample": index}
        if names[index]:
            result[heading] = names[index]
        if classes is not None:
            result["classes"] = [
                {"class": label, **({"name": name} if (name := class_name(bundle, label)) else {}), "probability": p}
                for label, p in classes[index]
            ]
        if predictions.exit is not None:
            result["exit"] = bundle.stages[predictions.exit[index]].exit
        results.append(result | {"macs_fraction": predictions.macs_fraction[index]})
    budget = predictions.budget
    return {
        "bundle": str(folder),
        "samples": predictions.samples,
        "budget": budget and {"kind": budget.kind, "value": budget.value, "hard": budget.hard},
        "knobs": predictions.knobs,
        "reachable": predictions.reachable,
        "message": predictions.message,
        "macs_fraction": predictions.mean_macs_fraction,
        "exits": _exits(bundle, predictions),
        "latency_ms": predictions.latency_ms,
        "outputs": {name: list(array.shape) for name, array in predictions.outputs.items()},
        "results": results,
    }


def _show(bundle: Bundle, predictions: Predictions, named: tuple[str, list[str]], top: int) -> None:
    from adaptrt.cli import tables
    from adaptrt.cli.output import show

    heading, names = named
    classes, rows = predictions.classes(top), min(predictions.samples, _ROWS)
    listed = 0 if classes is None else min(top, len(classes[0]) if classes else top)
    files = [f"<{heading}"] if any(names) else []
    exits = [] if predictions.exit is None else ["<exit"]
    listing = tables.table("", "sample", *files, *["class", "probability"] * listed, *exits, "of dense MACs")
    for index in range(rows):
        cells = [str(index), *([names[index]] if files else [])]
        for label, probability in classes[index] if classes is not None else ():
            cells += [tables.class_name(bundle, label) or str(label), tables.percent(probability)]
        if predictions.exit is not None:
            cells.append(str(bundle.stages[predictions.exit[index]].exit))
        listing.add_row(*cells, tables.percent(float(predictions.macs_fraction[index])))
    if rows:
        show(listing)
    if predictions.samples > rows:
        show(f"... and {predictions.samples - rows} more; --json lists all, --output writes all outputs")
    if classes is None:
        show(*(f"output {name}: {array.dtype} {list(array.shape)}" for name, array in predictions.outputs.items()))
    budget = "" if predictions.budget is None else f"budget {predictions.budget}, "
    changed = tables.changed_knobs(predictions.knobs, bundle.knobs)
    knobs = tables.knob_text(changed) if changed else "all knobs at their defaults"
    share = tables.percent(predictions.mean_macs_fraction)
    samples = f"{predictions.samples} {'sample' if predictions.samples == 1 else 'samples'}"
    show(
        f"{budget}{knobs}: {share} of the dense MACs on average over {samples}, "
        f"{predictions.latency_ms:.2f} ms in {predictions.calls} {'call' if predictions.calls == 1 else 'calls'}"
    )
    if (taken := _exits(bundle, predictions)) is not None:
        show("left at " + ", ".join(f"{name}: {count}" for name, count in taken.items()))
