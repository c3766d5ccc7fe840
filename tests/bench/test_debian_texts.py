"""Apt's lists become texts: fields of stanzas, sources held out as a whole, and what is said where there are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from adaptrt.bench import debian_texts
from adaptrt.bench.debian_texts import main, read_texts
from adaptrt.bench.errors import BenchError

PACKAGES = """\
Package: chess
Source: games (1:2.0-1)
Section: contrib/games
Description: a game
Description-md5: 0

Package: chess-data
Source: games
Section: games

Package: reader
Depends: libc6,
 libpng16-16
Section: text
"""
DESCRIPTIONS = """\
Package: chess
Description-md5: 0
Description-en: a game of  chess
 Two play it.
 .
  * on a board

Package: chess-data
Description-en: data of a game of chess
 Pictures.

Package: reader
Description-en: shows texts

Package: elsewhere
Description-en: of another architecture

Package: reader-copy
Description-en: shows texts
"""


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "debian_main_binary-amd64_Packages").write_text(PACKAGES)
    (folder / "debian_main_i18n_Translation-en").write_text(DESCRIPTIONS)
    (folder / "debian_main_i18n_Translation-en_GB").write_text("Package: reader\nDescription-en: colour\n")
    return folder


def test_one_text_of_each_held_out_source(lists: Path) -> None:
    everything = read_texts(lists, count=2)
    assert everything.texts == ["of another architecture."]
    by_text = dict(zip(everything.held_out, everything.sections, strict=True))
    assert by_text.pop("shows texts.") == "text"
    assert by_text in (
        {"a game of chess. Two play it. * on a board": "games"},
        {"data of a game of chess. Pictures.": "games"},
    )
    drawn = {tuple(read_texts(lists, count=1, seed=seed).sections) for seed in range(20)}
    assert drawn == {("games",), ("text",)}
    for seed in range(5):
        found = read_texts(lists, count=1, seed=seed)
        assert found == read_texts(lists, count=1, seed=seed)
        assert not set(found.texts) & set(found.held_out) and "shows texts." in [*found.texts, *found.held_out]


def test_files_are_written(lists: Path, tmp_path: Path) -> None:
    texts, held_out = tmp_path / "texts.txt", tmp_path / "held_out.jsonl"
    arguments = ["--texts", str(texts), "--held-out", str(held_out), "--lists", str(lists), "--count", "1"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0 and "1 texts of 1 sections" in done.output
    (row,) = (json.loads(line) for line in held_out.read_text().splitlines())
    assert set(row) == {"text", "section"} and row["text"] not in texts.read_text().splitlines()


def packed(folder: Path) -> None:
    (folder / "debian_main_binary-amd64_Packages").rename(folder / "debian_main_binary-amd64_Packages.lz4")


def without_descriptions(folder: Path) -> None:
    (folder / "debian_main_i18n_Translation-en").unlink()


def test_packed_lists_are_unpacked_by_apt(lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "apt-helper"
    helper.write_text('#!/bin/sh\n[ "$1" = cat-file ] && exec cat "$2"\n')
    helper.chmod(0o755)
    monkeypatch.setattr(debian_texts, "APT_HELPER", helper)
    plain = read_texts(lists, count=1)
    packed(lists)
    assert read_texts(lists, count=1) == plain
    helper.write_text("#!/bin/sh\necho 'E: damaged' >&2\nexit 100\n")
    with pytest.raises(BenchError, match=r"cannot read .*Packages\.lz4: E: damaged; run apt-get update"):
        read_texts(lists, count=1)


@pytest.mark.parametrize(
    ("change", "count", "said"),
    [
        (packed, 1, "got no no-apt-helper, expected apt to unpack debian_main_binary-amd64_Packages.lz4; install apt"),
        (without_descriptions, 1, r"got no files \*_Translation-en in .*; run apt-get update -o"),
        (lambda _: None, 3, "got 3 source packages in .*, expected more than 3 to hold texts out; give a smaller"),
    ],
)
def test_what_is_missing_is_one_line(
    lists: Path, monkeypatch: pytest.MonkeyPatch, change: object, count: int, said: str
) -> None:
    monkeypatch.setattr(debian_texts, "APT_HELPER", Path("no-apt-helper"))
    assert callable(change)
    change(lists)
    with pytest.raises(BenchError, match=said) as refused:
        read_texts(lists, count=count)
    assert "\n" not in str(refused.value)


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    options = ["--texts", "texts.txt", "--held-out", "held_out.jsonl", "--lists", "nowhere"]
    command = [sys.executable, "-m", "adaptrt.bench.debian_texts", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: got no files")
    assert not list(tmp_path.iterdir())
