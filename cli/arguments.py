"""Arguments of ``adaptrt run`` as the inputs of a bundle: array files, pictures, recordings, texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.errors import CommandError, one_line
from adaptrt.cli.input_files import ARRAY_FILES, Array, read_files

if TYPE_CHECKING:
    from adaptrt.cli.background import Background, LaidOver
    from adaptrt.runtime import AdaptiveModel, Bundle

_WAV = ".wav"
_SHOWN = 60
"""Characters of a text in a table."""


@dataclass(frozen=True)
class GivenInputs:
    """What the arguments are.

    Attributes:
        arrays: Of each input, by its name.
        label: What the names are: ``file`` or ``text``.
        names: Files, or texts in full; of the samples, where there are as many.
        laid_over: Pictures that are not opaque; None where there are none.
    """

    arrays: dict[str, Array]
    label: str
    names: list[str]
    laid_over: LaidOver | None = None

    def shown(self) -> list[str]:
        """The names as a table has them."""
        words = (" ".join(name.split()) for name in self.names)
        lines = ["".join(sign if sign.isprintable() else "�" for sign in line) for line in words]
        return [line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…" for line in lines]


def read_arguments(arguments: Sequence[str], model: AdaptiveModel, background: Background | None) -> GivenInputs:
    """Read the arguments as the model's bundle declares it.

    An argument that names a file is that file: arrays, or else of what the bundle takes: a picture, a recording, or
    texts, one a line. Every other argument is a text where the bundle takes texts, and a file that is missing
    elsewhere. A note says how many samples were cut, and which pictures were laid over what.

    Raises:
        CommandError: A file is missing, damaged, or nothing that the bundle takes.
        InputError: Likewise, of texts and recordings.
        BundleError: The bundle's tokenizer is damaged or that of another model.
    """
    bundle = model.bundle
    pictured = any(spec.preprocessing is not None for spec in bundle.inputs)
    if (bundle.text is None and bundle.audio is None) or _arrays(arguments, bundle):
        paths = [Path(argument) for argument in arguments]
        read = read_files(paths, bundle.inputs, background)
        files = [click.format_filename(path, shorten=True) for path in paths]
        return GivenInputs(read.arrays, "file", files, read.laid_over)
    texts: list[str] = []
    pictures: list[Path] = []
    recordings: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if not _is_file(path) and bundle.text is not None:
            texts.append(argument)
        elif bundle.audio is not None and (not pictured or path.suffix.lower() == _WAV):
            recordings.append(path)
        elif pictured:
            pictures.append(path)
        else:
            texts += _lines(path)
    arrays: dict[str, Array] = {}
    laid_over = None
    if texts:
        arrays |= _noted(model.preprocess.text(texts), "texts")
    if recordings:
        arrays |= _noted(model.preprocess.audio(recordings), "recordings")
    if pictures:
        specs = [spec for spec in bundle.inputs if spec.preprocessing is not None]
        read = read_files(pictures, specs, background)
        arrays, laid_over = arrays | read.arrays, read.laid_over
    elif background is not None:
        raise CommandError("got a background without images, expected some; leave --background out")
    files = [click.format_filename(path, shorten=True) for path in (pictures or recordings)]
    return GivenInputs(arrays, "text" if texts else "file", texts or files, laid_over)


def _arrays(arguments: Sequence[str], bundle: Bundle) -> bool:
    """Whether these are arrays: a file of them, there or not, and no text that ends in its name."""
    named = [argument for argument in arguments if Path(argument).suffix.lower() in ARRAY_FILES]
    one_word = any(len(argument.split()) == 1 for argument in named)
    return any(_is_file(Path(argument)) for argument in named) or (bool(named) and (bundle.text is None or one_word))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for a name, as texts are
        return False


def _lines(path: Path) -> list[str]:
    """The lines of a file that have something on them.

    Raises:
        CommandError: It cannot be read, is no UTF-8, or has none.
    """
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"cannot read {str(path)!r} ({one_line(error)}), expected texts in UTF-8, one a line; convert it"
        ) from None
    if not lines:
        raise CommandError(f"{str(path)!r} is empty, expected texts in UTF-8, one a line; write some")
    return lines


def _noted(arrays: dict[str, Array], what: str) -> dict[str, Array]:
    from adaptrt.cli.output import note

    cut = getattr(arrays, "cut", 0)
    if cut:
        count = len(next(iter(arrays.values())))
        note(f"note: {cut} of {count} {what} longer than the model takes, cut")
    return arrays
