"""``adaptrt verify``: prove a bundle on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from adaptrt.cli.backend import backend_options
from adaptrt.cli.verb import PATH, Verb, json_option

_EXAMPLES = """
adaptrt verify build/digits
adaptrt verify build/digits --json
adaptrt verify build/digits --backend openvino
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundle", type=PATH)
@backend_options
@json_option
def verify(bundle: Path, backend: str, precision: str | None, plugin_library: Path | None, as_json: bool) -> None:
    """Check a bundle on this machine against what torch computed.

    Decisions may differ only in ties, logits by at most 1e-4; otherwise an error and exit code 2. With a
    --backend other than the default, whose decisions cannot be forced, logits are compared on the samples
    without a decision close to a tie; in half precision the predictions are, of which 1% may differ.
    """
    from adaptrt.cli import output
    from adaptrt.runtime.backends.backend_table import DEFAULT_BACKEND

    if (backend, precision, plugin_library) != (DEFAULT_BACKEND, None, None):
        from adaptrt.export.parity.verify_backend import verify_backend

        checked = verify_backend(bundle, backend, precision=precision, plugin_library=plugin_library)
        if as_json:
            output.show_json({"bundle": str(bundle), "passed": True, **checked.plain()})
            return
        from adaptrt.cli import tables

        output.show(tables.backend_table(checked), f"{bundle} computes what torch computed on {checked.backend}")
        return
    from adaptrt.export.parity.verify import verify_bundle

    report = verify_bundle(bundle)
    if as_json:
        output.show_json({"bundle": str(bundle), "passed": report.passed, "rows": report.rows})
        return
    from adaptrt.cli import tables

    output.show(tables.parity_table(report.rows), f"{bundle} computes what torch computed")
