"""``adaptrt demo``: a page that shows a bundle in browsers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.verb import PATH, PATH_OR_TEXT, Verb, json_option, keep_on_interrupt

if TYPE_CHECKING:
    from adaptrt.export.demo.folder import Demo

_EXAMPLES = """
adaptrt demo build/digits --output build/demo
adaptrt demo build/digits --output build/demo --sample seven.png --sample three.png
adaptrt demo build/minilm --output build/demo --sample texts.txt
adaptrt demo build/minilm --output build/demo --sample "a library for parsing"
adaptrt demo build/digits --output site --page checkout/runtime/js/demo/dist
python -m http.server --directory build/demo 8000
"""


@click.command(cls=Verb, examples=_EXAMPLES)
@click.argument("bundle", type=PATH)
@click.option(
    "--output", type=PATH, default=Path("build/demo"), show_default=True, help="Folder to write; replaces a demo."
)
@click.option(
    "--sample",
    "samples",
    type=PATH_OR_TEXT,
    multiple=True,
    metavar="FILE|TEXT",
    help="What the page offers to try, several times for several: a picture, a text, or a .txt file with a text on "
    "each line. Default: some of the data that the bundle was calibrated with.",
)
@click.option("--page", type=PATH, help="Folder of the built page; default: this checkout's, which `make js` builds.")
@json_option
def demo(bundle: Path, output: Path, samples: tuple[str, ...], page: Path | None, as_json: bool) -> None:
    """Write a page that runs BUNDLE in a browser.

    A slider sets the budget. The folder has all that the page needs, works without a network, and is served by any
    static server. The bundle takes a picture or a text. The page itself is built by npm: `make js` in a checkout of
    the repository.
    """
    from adaptrt.export.demo.folder import write_demo

    keep_on_interrupt("no demo was written, one that was there is as it was")
    written = write_demo(bundle, output, page=page, samples=samples)
    if as_json:
        from adaptrt.cli.output import show_json

        show_json(written)
        return
    show_demo(written)


def show_demo(written: Demo) -> None:
    """Say what was written, and how it is seen."""
    import shlex

    from adaptrt.cli.output import show

    show(
        f"Demo in {written.folder}, {written.bytes / 1e6:.1f} MB, {written.samples} samples",
        f"To see it run: python -m http.server --directory {shlex.quote(str(written.folder))} 8000",
        "and open http://localhost:8000",
    )
