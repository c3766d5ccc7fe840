"""``adaptrt serve``: bundles over HTTP and gRPC, with a budget for every request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.backend import backend_options, open_model
from adaptrt.cli.budgets import budget_forms, budget_metavar, parse_budget
from adaptrt.cli.table_options import TableOption
from adaptrt.cli.verb import PATH, Verb, json_option, keep_on_interrupt

if TYPE_CHECKING:
    from adaptrt.runtime.serving.server import Address

_EXAMPLES = """
adaptrt serve build/digits
adaptrt serve build/digits build/fashion --budget 20ms
adaptrt serve build/digits --http-port 9000 --no-grpc --threads 1
adaptrt serve build/digits --host 0.0.0.0 --max-queue 64 --max-batch 8
adaptrt serve build/digits --input mine.npy --batch-wait-ms 2
adaptrt serve build/digits --http-port 0 --grpc-port 0 --json
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=PATH)
@click.option(
    "--budget",
    cls=TableOption,
    default="full",
    table_metavar=budget_metavar,
    table_help=lambda: f"Of requests that name none: {budget_forms()}; default: full.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; there is no password.")
@click.option(
    "--http-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any that is free."
)
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535), default=8081, show_default=True, help="0: any that is free."
)
@click.option("--no-grpc", is_flag=True, help="Serve HTTP alone.")
@click.option(
    "--max-queue", type=click.IntRange(1, 100_000), default=256, show_default=True, help="Requests that wait."
)
@click.option(
    "--max-batch",
    type=click.IntRange(1, 4096),
    default=16,
    show_default=True,
    help="Samples that requests of one budget have together in a call.",
)
@click.option(
    "--batch-wait-ms",
    type=click.FloatRange(0, 1000),
    default=0.0,
    show_default=True,
    help="That a call waits for more of them; 0: those that wait already.",
)
@click.option(
    "--max-request-bytes", type=click.IntRange(1, 1 << 30), default=16 << 20, show_default=True, help="Of a request."
)
@click.option(
    "--max-connections", type=click.IntRange(1, 100_000), default=512, show_default=True, help="Over HTTP at once."
)
@click.option(
    "--receive-seconds",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    show_default=True,
    help="That a client may take to send a request.",
)
@click.option(
    "--grace-seconds",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    show_default=True,
    help="That requests have to end in when the server stops.",
)
@click.option(
    "--input", "source", type=PATH, help="To measure with, .npy or .npz; default: the bundle's own, or noise."
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per operator; default: one per core granted.")
@backend_options
@json_option
def serve(
    bundles: tuple[Path, ...],
    budget: str,
    host: str,
    http_port: int,
    grpc_port: int,
    no_grpc: bool,
    max_queue: int,
    max_batch: int,
    batch_wait_ms: float,
    max_request_bytes: int,
    max_connections: int,
    receive_seconds: float,
    grace_seconds: float,
    source: Path | None,
    threads: int | None,
    backend: str,
    precision: str | None,
    plugin_library: Path | None,
    as_json: bool,
) -> None:
    """Serve bundles by REST and gRPC, each request on a budget.

    It speaks the Open Inference Protocol, until Ctrl-C or SIGTERM. A request may name a `budget` ("45%", "8ms",
    "full") and a `deadline_ms`. A latency budget counts from the request's arrival, with what it waits: as more
    wait, the work falls, and a request is refused only where the cheapest work is too much for its budget. Metrics
    for Prometheus are at /metrics of the HTTP port. With --json the addresses are printed as JSON.
    """
    for name, number in (("--batch-wait-ms", batch_wait_ms), ("--grace-seconds", grace_seconds)):
        if number != number:
            raise click.UsageError(f"got {name} nan, expected a number; give one")
    if receive_seconds != receive_seconds:
        raise click.UsageError("got --receive-seconds nan, expected a number; give one")
    import importlib

    from adaptrt.cli.errors import CommandError
    from adaptrt.cli.output import note, show, show_json
    from adaptrt.cli.profile import find_inputs
    from adaptrt.cli.progress import steps_shown
    from adaptrt.runtime.serving.served_model import ServedModel
    from adaptrt.runtime.serving.server import ServerSettings
    from adaptrt.runtime.serving.server import serve as serve_models

    keep_on_interrupt("the server has stopped")
    importlib.import_module("fastapi")  # missing, it is better missed before the device is measured
    asked = parse_budget(budget)
    if source is not None and len(bundles) > 1:
        raise CommandError(f"got --input with {len(bundles)} bundles, expected one bundle; leave it out")
    models = []
    for bundle in bundles:
        model = open_model(bundle, threads, backend, precision, plugin_library)
        sample = find_inputs(bundle, model.bundle, 1, source)
        with steps_shown() as progress:

            def tell(share: float, name: str = model.bundle.name) -> None:
                progress(f"measuring {name}", share)

            models.append(ServedModel(model, asked, sample, max_batch, tell))

    def started(address: Address) -> None:
        if as_json:
            show_json({"models": [model.name for model in models], **vars(address)})
        else:
            shown = f"[{address.host}]" if ":" in address.host else address.host
            grpc = "" if address.grpc_port is None else f", gRPC at {shown}:{address.grpc_port}"
            show(f"serving {', '.join(model.name for model in models)} at http://{shown}:{address.http_port}{grpc}")
        import sys

        sys.stdout.flush()

    serve_models(
        models,
        ServerSettings(
            host,
            http_port,
            None if no_grpc else grpc_port,
            max_queue,
            max_batch,
            batch_wait_ms,
            max_request_bytes,
            max_connections,
            receive_seconds,
            grace_seconds,
        ),
        started,
    )
    note("the server has stopped")
