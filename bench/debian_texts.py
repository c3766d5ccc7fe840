"""Texts to adapt and to measure with: the descriptions of Debian's packages, out of the lists that apt keeps.

``python -m adaptrt.bench.debian_texts --texts texts.txt --held-out held_out.jsonl``. A text is a package's summary and
description in English on one line. Packages of one source have nearly the same text, so whole sources are held out: of
each one text goes to the second file, with the package's section, and none to the first.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from adaptrt import write_atomically
from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.console import existing_folder, run_command

LISTS = Path("/var/lib/apt/lists")
APT_HELPER = Path("/usr/lib/apt/apt-helper")
UPDATE = "apt-get update -o Acquire::Languages=en"
"""What fetches the lists; images of containers are set to take no descriptions without the option."""
_PACKED = (".lz4", ".xz", ".gz", ".bz2", ".zst")


@dataclass(frozen=True)
class DebianTexts:
    """What was read.

    Attributes:
        texts: To adapt on, each once.
        held_out: One text of each source package that is held out.
        sections: Of the held-out texts.
    """

    texts: list[str]
    held_out: list[str]
    sections: list[str]


@dataclass(frozen=True)
class _Package:
    source: str
    section: str


def read_texts(lists: Path = LISTS, count: int = 5000, seed: int = 0) -> DebianTexts:
    """Read apt's lists and divide their texts.

    Args:
        lists: Apt's folder.
        count: Texts to hold out.
        seed: Of the choice.

    Raises:
        BenchError: There are no lists, they cannot be read, or they have too few texts.
    """
    packages = _packages(lists)
    by_source: dict[str, list[tuple[str, str | None]]] = {}
    for text, name in _descriptions(lists).items():
        package = packages.get(name)
        source, section = (name, None) if package is None else (package.source, package.section)
        by_source.setdefault(source, []).append((text, section))
    draw = random.Random(seed)
    sources = sorted(by_source)
    draw.shuffle(sources)
    texts: list[str] = []
    held_out: list[tuple[str, str]] = []
    for source in sources:
        labelled = [(text, section) for text, section in by_source[source] if section is not None]
        if labelled and len(held_out) < count:
            held_out.append(draw.choice(labelled))
        else:
            texts += [text for text, _ in by_source[source]]
    if len(held_out) < count or not texts:
        raise BenchError(
            f"got {len(sources):,} source packages in {lists}, expected more than {count:,} to hold texts out; give a "
            "smaller --count"
        )
    return DebianTexts(texts, [text for text, _ in held_out], [section for _, section in held_out])


def _packages(lists: Path) -> dict[str, _Package]:
    """Source and section of each package."""
    packages = {}
    for stanza in _stanzas(lists, "Packages"):
        name, section = _field(stanza, "Package"), _field(stanza, "Section")
        if name is not None and section is not None:
            source = (_field(stanza, "Source") or name).split()[0]  # without its version
            packages[name] = _Package(source, section.rpartition("/")[2])  # without the area, as in contrib/games
    return packages


def _descriptions(lists: Path) -> dict[str, str]:
    """Texts, each on one line, and the first package that has it."""
    names: dict[str, str] = {}
    for stanza in _stanzas(lists, "Translation-en"):
        name, description = _field(stanza, "Package"), _field(stanza, "Description-en")
        if name is not None and description is not None:
            summary, *lines = description.splitlines()
            words = [word for line in lines for word in line.split() if word != "."]
            names.setdefault(" ".join([*f"{summary.strip()}.".split(), *words]), name)
    return names


def _field(stanza: str, name: str) -> str | None:
    """A field with the lines that it goes on in."""
    match = re.search(rf"^{name}: (.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
    return None if match is None else match[1]


def _stanzas(lists: Path, kind: str) -> Iterator[str]:
    files = sorted(path for ending in ("", *_PACKED) for path in lists.glob(f"*_{kind}{ending}"))
    if not files:
        raise BenchError(f"got no files *_{kind} in {lists}, expected apt's lists, on Debian or Ubuntu; run {UPDATE}")
    for path in files:
        yield from _content(path).split("\n\n")


def _content(path: Path) -> str:
    """A list's text; apt knows in what form it keeps them."""
    try:
        if path.suffix not in _PACKED:
            return path.read_text("utf-8", errors="replace")
        done = subprocess.run([APT_HELPER, "cat-file", path], capture_output=True, check=False)
    except FileNotFoundError:
        raise BenchError(f"got no {APT_HELPER}, expected apt to unpack {path.name}; install apt") from None
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}; look who may read it") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise BenchError(f"cannot read {path}: {said[0]}; run {UPDATE} again")
    return done.stdout.decode("utf-8", errors="replace")


def _write(path: Path, lines: list[str]) -> None:
    try:
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror or error}; name another file") from error


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--texts",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=existing_folder,
    required=True,
    help="File to write, a text a line.",
)
@click.option(
    "--held-out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=existing_folder,
    required=True,
    help="File to write, lines of JSON with text and section.",
)
@click.option("--count", type=click.IntRange(1), default=5000, show_default=True, help="Texts to hold out.")
@click.option("--lists", type=click.Path(path_type=Path), default=LISTS, show_default=True, help="Apt's folder.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the choice.")
def main(texts: Path, held_out: Path, count: int, lists: Path, seed: int) -> None:
    """Make texts of the descriptions of Debian's packages.

    \b
    Examples:
      apt-get update -o Acquire::Languages=en
      python -m adaptrt.bench.debian_texts --texts texts.txt --held-out held_out.jsonl
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    corpus = read_texts(lists, count, seed)
    rows = [{"text": text, "section": section} for text, section in zip(corpus.held_out, corpus.sections, strict=True)]
    _write(texts, corpus.texts)
    _write(held_out, [json.dumps(row, ensure_ascii=False) for row in rows])
    click.echo(f"{len(corpus.texts):,} texts in {texts}")
    click.echo(f"{len(corpus.held_out):,} texts of {len(set(corpus.sections))} sections in {held_out}")


if __name__ == "__main__":
    run_command(main)
