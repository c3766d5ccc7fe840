"""``adaptrt verify``: prove a bundle on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from adaptrt.cli.verb import PATH, Verb, json_option

_EXAMPLES = """
adaptrt verify build/digits
adaptrt verify build/digits --json
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundle", type=PATH)
@json_option
def verify(bundle: Path, as_json: bool) -> None:
    """Check a bundle on this machine against what torch computed.

    Decisions may differ only in ties, logits by at most 1e-4; otherwise an error and exit code 2.
    """
    from adaptrt.cli import output
    from adaptrt.export.verify import verify_bundle

    report = verify_bundle(bundle)
    if as_json:
        output.show_json({"bundle": str(bundle), "passed": report.passed, "rows": report.rows})
        return
    from adaptrt.cli import tables

    output.show(tables.parity_table(report.rows), f"{bundle} computes what torch computed")
