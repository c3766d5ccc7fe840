"""``adaptrt adapt``: from a pretrained checkpoint and some data to an adaptive network."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.errors import CommandError
from adaptrt.cli.verb import PATH, Verb, families_option, json_option, keep_on_interrupt

if TYPE_CHECKING:
    import torch

    from adaptrt.export.pretrained.adapt_folder import AdaptReport
    from adaptrt.models.training.precision import PrecisionChoice

_EXAMPLES = """
adaptrt adapt all-MiniLM-L6-v2 --data texts.txt --output models/minilm
adaptrt adapt all-MiniLM-L6-v2 --data texts.jsonl --text-column body --hours 2
adaptrt adapt vit-base --data pictures --families acm,exits --skip-broken
adaptrt adapt resnet-50 --data pictures
adaptrt adapt vit-base --data pictures --device cuda --precision bfloat16
adaptrt adapt all-MiniLM-L6-v2 --data texts.txt --workers 4
adaptrt adapt vit-base --data pictures --ray 192.168.0.10:6379
adaptrt adapt all-MiniLM-L6-v2 --data texts.txt --workers 2 --processes 2
adaptrt adapt my-classifier --data reviews.csv --text-column text --label-column stars --steps 500
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("model")
@click.option("--data", type=PATH, required=True, help="Texts, pictures, recordings; see below.")
@click.option("--output", type=PATH, help="Folder of the network; default: build/models/NAME.")
@click.option("--work", type=PATH, help="Folder for checkpoints and activations; default: build/adapt/NAME.")
@families_option
@click.option("--learners", type=click.IntRange(1, 64), help="Of each ACM; default: 4, or 2 in narrow networks.")
@click.option("--hours", type=float, help="Time for all of it; default: --steps decide.")
@click.option("--steps", type=click.IntRange(1), default=2000, show_default=True, help="Of the joint phase.")
@click.option("--batch", type=click.IntRange(4), default=32, show_default=True, help="Samples per step.")
@click.option("--tokens", type=click.IntRange(1), help="Activations kept of each layer; default: 200000.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes that distil layers; default: this one.")
@click.option("--ray", metavar="HOST:PORT", help="Ray cluster that distils layers instead.")
@click.option(
    "--processes", type=click.IntRange(1, 4), help="Processes that train everything together; default: this one."
)
@click.option("--task", help="What for, as Optimum names it; default: what the checkpoint says.")
@click.option("--length", type=click.IntRange(2), help="Most tokens of a text; default: as its folder says.")
@click.option("--text-column", help="Of tables; default: text or a like name.")
@click.option("--label-column", help="Of tables; default: label or a like name, if there is one.")
@click.option("--skip-broken", is_flag=True, help="Leave out what cannot be read; it is counted.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="auto times both: bfloat16 where it is clearly faster, else float32.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, or cuda:1 for the second GPU.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="All randomness.")
@json_option
def adapt(
    model: str,
    data: Path,
    output: Path | None,
    work: Path | None,
    families: tuple[str, ...] | None,
    learners: int | None,
    hours: float | None,
    steps: int,
    batch: int,
    tokens: int | None,
    workers: int | None,
    ray: str | None,
    processes: int | None,
    task: str | None,
    length: int | None,
    text_column: str | None,
    label_column: str | None,
    skip_broken: bool,
    precision: str,
    device: str,
    seed: int,
    as_json: bool,
) -> None:
    """Make a pretrained MODEL adaptive; no labels needed.

    MODEL is a folder as transformers writes it, or a name on the hub where there is a network.

    DATA is a .txt file with a text a line; a .csv, .jsonl or .parquet table; a folder of pictures or of wav files; a
    folder that the package datasets saved; or an .npz file with an array for each input. The network learns to give the
    dense one's answers with less work. A tenth of the data, at most 1,024 samples, calibrates, and as much tests;
    labels, of classifiers, are for these. Ctrl-C keeps the checkpoints, and the same command goes on from there.
    Next: adaptrt export FOLDER.

    Before everything is trained together, the layers of ACMs are distilled each by itself: by --workers processes with
    equal shares of the threads, or by all machines of a running --ray cluster that this machine is part of (needs
    adaptrt[ray] on all of them; they need no common disk). The training together is divided among --processes, at most
    four, or among what torchrun starts, on this machine or several. The network is the same, up to rounding.
    """
    name = Path(model).resolve().name
    output, work = output or Path("build/models") / name, work or Path("build/adapt") / name
    if hours is not None and not 0 < hours < 10_000:
        raise click.UsageError(f"got --hours {hours:g}, expected a number above 0")
    if batch % 4:
        raise click.UsageError(f"got --batch {batch}, expected a multiple of 4: each batch runs at four prices")
    if ray is not None and workers is not None:
        raise click.UsageError("got --workers and --ray, expected one of them; leave one out")
    if device != "cpu" and (ray is not None or (workers or 1) > 1 or (processes or 1) > 1):
        raise click.UsageError(f"got --device {device} and several processes, expected one of them; leave one out")
    from adaptrt.cli.output import note, show, show_json
    from adaptrt.cli.progress import steps_shown, training_shown
    from adaptrt.export.pretrained.adapt_folder import AdaptRequest, adapt_folder
    from adaptrt.models.adapters.pretrained.hub import checkpoint_folder
    from adaptrt.models.data.files import require_there
    from adaptrt.models.training.devices import checked_device
    from adaptrt.models.training.layer_executors import executor_for
    from adaptrt.models.training.team import joined, with_processes

    place = checked_device(device)
    executor = executor_for(workers, ray)
    executor.check()
    require_there(data)
    folder = checkpoint_folder(model)  # before anything is written for it
    keep_on_interrupt(f"checkpoints are kept in {work}; the same command goes on from there")
    processes_joined: contextlib.AbstractContextManager[Mapping[str, str]] = contextlib.nullcontext(os.environ)
    if processes and processes > 1 and "WORLD_SIZE" not in os.environ:
        processes_joined = with_processes(processes, ["-m", "adaptrt.cli", *sys.argv[1:]])
    with processes_joined as environment, joined(environment) as team:
        chosen = team.share(_chosen_precision(precision, work, place) if team.leads else None)
        assert chosen is not None
        settings = {"hours": hours, "joint_steps": steps, "batch": batch, "seed": seed, "precision": chosen.precision}
        if tokens is not None:
            settings["tokens"] = tokens
        request = AdaptRequest(
            model=str(folder),
            data=data,
            output=output,
            work=work,
            families=families,
            learners=learners,
            task=task,
            length=length,
            text_column=text_column,
            label_column=label_column,
            skip_broken=skip_broken,
            executor=executor,
            device=place,
            made_of=Path(model).name,
            settings=settings,
        )
        if not team.leads:
            adapt_folder(request, lambda _: None, team=team)
            return
        note(f"training in {chosen.precision}: {chosen.reason}")
        with steps_shown() as tell, training_shown() as report:
            adapted = adapt_folder(request, report, tell, team)
    if as_json:
        show_json(adapted)
        return
    for line in _lines(adapted):
        show(line)


def _chosen_precision(asked: str, work: Path, device: torch.device) -> PrecisionChoice:
    """What to train in, written down for a run that goes on."""
    from adaptrt.models.training.precision import choose_precision, keep_choice

    try:
        work.mkdir(parents=True, exist_ok=True)
        choice = choose_precision(asked, work, device=device)
        keep_choice(choice, work)
    except OSError as error:
        raise CommandError(f"cannot write {work}: {error.strerror or error}; choose another --work") from error
    return choice


def _lines(report: AdaptReport) -> list[str]:
    labels = "the data's labels" if report.labelled else "the dense network's answers"
    lines = [
        f"{report.task} with {', '.join(report.families)}, adapted on {report.samples:,} samples",
        f"{report.held_out:,} samples to calibrate and as many to test with, judged by {labels}",
    ]
    if report.cut:
        lines.append(f"{report.cut:,} samples were longer than the network takes, and cut")
    if report.skipped:
        lines.append(
            f"{len(report.skipped):,} items could not be read and were left out, the first: {report.skipped[0]}"
        )
    if report.peak_memory is not None:
        lines.append(f"took {report.peak_memory / 2**30:.1f} GiB of memory at most")
    return [*lines, f"Network in {report.folder}; next: adaptrt export {report.folder}"]
