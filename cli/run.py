"""``adaptrt run``: a bundle on files, under a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptrt.cli.verb import PATH, Verb, json_option

if TYPE_CHECKING:
    from adaptrt.cli.batches import Predictions

_EXAMPLES = """
adaptrt run build/digits seven.png --budget 50%
adaptrt run build/digits one.png two.png three.png --budget 90M
adaptrt run build/digits pixels.npy --budget full --output out.npz
adaptrt run build/digits inputs.npz --price 0.4 --threads 1 --json
"""
_ROWS = 20
"""Samples listed in the table; --json and --output have all of them."""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundle", type=PATH)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=PATH)
@click.option(
    "--budget",
    metavar="SHARE|MACS|full",
    help="Work per sample on average: 0.5 or 50% of the dense model's, or MACs such as 90M; default: full.",
)
@click.option("--price", type=float, help="Feed this price instead of obeying a budget.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per operator; default: one per core.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Most samples in one run.")
@click.option("--top", type=click.IntRange(1, 100), default=3, show_default=True, help="Classes listed per sample.")
@click.option("--output", type=PATH, help="Write all outputs to this .npz file.")
@json_option
def run(
    bundle: Path,
    inputs: tuple[Path, ...],
    budget: str | None,
    price: float | None,
    threads: int | None,
    batch: int,
    top: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Run a bundle on array or image files, under a budget.

    A .npy file holds the input, an .npz file the inputs by name; several images make one batch.
    Images are stretched to the input's size and normalised as the bundle declares. The latency shown
    is that of this run, first call included; `adaptrt bench` measures it properly.
    """
    if budget is not None and price is not None:
        raise click.UsageError("got --budget and --price, expected one of them; leave one out")
    from adaptrt.cli.batches import predict
    from adaptrt.cli.budgets import parse_budget
    from adaptrt.cli.input_files import read_inputs
    from adaptrt.cli.output import check_output_file, note, show_json
    from adaptrt.runtime import Budget, load

    if output is not None:
        check_output_file(output, (".npz",), inputs=inputs)
    asked = Budget.full() if budget is None else parse_budget(budget)
    model = load(bundle, threads=threads)
    arrays = read_inputs(inputs, model.bundle.inputs)
    knobs = None if price is None else {"price": price}
    found = predict(model, arrays, budget=None if knobs else asked, knobs=knobs, batch=batch)
    if found.message is not None:
        note(f"note: {found.message}")
    if output is not None:
        from adaptrt.export.staging import write_file

        write_file(output, found.encode())
    names = (
        [click.format_filename(path, shorten=True) for path in inputs]
        if len(inputs) == found.samples
        else [""] * found.samples
    )
    if as_json:
        show_json(_describe(bundle, found, names, top))
        return
    _show(found, names, top)
    if output is not None:
        from adaptrt.cli.output import show

        show(f"Outputs of {found.samples} samples in {output}")


def _describe(bundle: Path, found: Predictions, names: list[str], top: int) -> dict[str, Any]:
    classes = found.classes(top)
    results = []
    for index in range(found.samples):
        result: dict[str, Any] = {"sample": index}
        if names[index]:
            result["file"] = names[index]
        if classes is not None:
            result["classes"] = [{"class": label, "probability": p} for label, p in classes[index]]
        results.append(result | {"macs_fraction": found.macs_fraction[index]})
    return {
        "bundle": str(bundle),
        "samples": found.samples,
        "budget": None if found.budget is None else {"kind": found.budget.kind, "value": found.budget.value},
        "knobs": found.knobs,
        "reachable": found.reachable,
        "message": found.message,
        "macs_fraction": found.mean_macs_fraction,
        "latency_ms": found.latency_ms,
        "outputs": {name: list(array.shape) for name, array in found.outputs.items()},
        "results": results,
    }


def _show(found: Predictions, names: list[str], top: int) -> None:
    from adaptrt.cli import tables
    from adaptrt.cli.output import show

    classes, rows = found.classes(top), min(found.samples, _ROWS)
    listed = 0 if classes is None else min(top, len(classes[0]) if classes else top)
    files = ["<file"] if any(names) else []
    made = tables.table("", "sample", *files, *["class", "probability"] * listed, "of dense MACs")
    for index in range(rows):
        cells = [str(index), *([names[index]] if files else [])]
        for label, probability in classes[index] if classes is not None else ():
            cells += [str(label), tables.percent(probability)]
        made.add_row(*cells, tables.percent(float(found.macs_fraction[index])))
    if rows:
        show(made)
    if found.samples > rows:
        show(f"... and {found.samples - rows} more; --json lists all, --output writes all outputs")
    if classes is None:
        show(*(f"output {name}: {array.dtype} {list(array.shape)}" for name, array in found.outputs.items()))
    budget = "" if found.budget is None else f"budget {found.budget}, "
    knobs = ", ".join(f"{name} {value:.4g}" for name, value in found.knobs.items())
    share = tables.percent(found.mean_macs_fraction)
    samples = f"{found.samples} {'sample' if found.samples == 1 else 'samples'}"
    show(
        f"{budget}{knobs}: {share} of the dense MACs on average over {samples}, "
        f"{found.latency_ms:.2f} ms in {found.calls} {'call' if found.calls == 1 else 'calls'}"
    )
