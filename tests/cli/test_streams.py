"""Standard output and error that are full, closed, or read by nobody any more, of real processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from adaptrt.cli import streams
from adaptrt.cli.group import VERBS
from tests.runtime.conftest import FIXTURES

pytestmark = pytest.mark.slow("starts interpreters")

BUNDLE = FIXTURES / "exported"
FULL = pytest.param(
    "full", marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
)
KINDS = [FULL, "closed", "left"]
REDIRECTED = {"full": "{}>/dev/full", "closed": "{}>&-"}
ADVICE = "; send it to a terminal, a pipe or a file with space left, what the command wrote to other files is kept\n"
SAID = {
    "full": "error: cannot write the output: No space left on device" + ADVICE,
    "closed": "error: cannot write the output: stdout is closed" + ADVICE,
    "left": "",
}


def command(*words, stdout="", stderr="", **variables):
    """Run it, its streams full, closed, or left by their reader; the others are caught."""
    line = 'exec "$0" -m adaptrt.cli "$@"'
    for number, kind in ((1, stdout), (2, stderr)):
        line += " " + REDIRECTED.get(kind, "").format(number)
    source = str(Path(__file__).parents[2] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            ["sh", "-c", line, sys.executable, *map(str, words)],
            stdout=write if stdout == "left" else subprocess.PIPE,
            stderr=write if stderr == "left" else subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **variables},
            timeout=120,
        )
    finally:
        os.close(write)


@pytest.fixture
def arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((3, 1, 4, 4), dtype=np.float32))
    return tmp_path / "x.npy"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["inspect", BUNDLE], ["inspect", BUNDLE, "--json"], ["run", BUNDLE, "ARRAYS"]],
    ids=lambda words: " ".join(map(str, [word for word in words if word != BUNDLE])),
)
def test_results_that_cannot_be_written(arrays, words, kind):
    done = command(*(arrays if word == "ARRAYS" else word for word in words), stdout=kind)
    assert done.returncode == (streams.READER_LEFT if kind == "left" else 2)
    assert done.stderr == SAID[kind] and not done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_proof_that_cannot_be_written(exported, kind):
    done = command("verify", exported[0], stdout=kind)
    assert done.returncode == (streams.READER_LEFT if kind == "left" else 2)
    assert done.stderr == SAID[kind] and not done.stdout


@pytest.mark.parametrize("kind", [FULL])
@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_that_cannot_be_written(verb, kind):
    done = command(verb, "--help", stdout=kind)
    assert (done.returncode, done.stderr, done.stdout) == (2, SAID[kind], "")


@pytest.mark.parametrize("kind", [FULL])
def test_unbuffered(kind):
    done = command("inspect", BUNDLE, stdout=kind, PYTHONUNBUFFERED="1")
    assert (done.returncode, done.stderr) == (2, SAID[kind])


@pytest.mark.parametrize("kind", [FULL])
def test_nowhere_to_say_anything(kind):
    assert command("inspect", BUNDLE, stdout=kind, stderr=kind).returncode == 2
    assert command("--version", stdout="closed", stderr="closed").returncode == 2
    assert command("--version", stdout="left", stderr=kind).returncode == streams.READER_LEFT


def test_a_pipe_whose_reader_has_enough():
    line = f'"{sys.executable}" -m adaptrt.cli inspect "{BUNDLE}" | head -1'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("exported, format ") and done.stderr == ""


def test_a_file_is_not_given_the_place_of_a_closed_stream(arrays, tmp_path):
    done = command("run", BUNDLE, arrays, "--output", tmp_path / "out.npz", stdout="closed")
    assert (done.returncode, done.stderr) == (2, SAID["closed"])
    with np.load(tmp_path / "out.npz") as outputs:  # kept, as the line says
        assert len(outputs["logits"]) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_note_that_cannot_be_shown(arrays, kind):
    shown = command("run", BUNDLE, arrays, "--budget", "0.01%", "--json")
    assert shown.returncode == 0 and shown.stderr.startswith("note: ")
    done = command("run", BUNDLE, arrays, "--budget", "0.01%", "--json", stderr=kind)
    assert done.returncode == 0 and json.loads(done.stdout)["results"] == json.loads(shown.stdout)["results"]


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}], ids=["log", "bars"])
@pytest.mark.parametrize("kind", [FULL, "left"])
def test_progress_that_cannot_be_shown(arrays, tmp_path, kind, variables):
    words = ["profile", BUNDLE, "--input", arrays, "--seconds", "0.3", "--threads", "1", "--json"]
    done = command(*words, stderr=kind, ADAPTRT_CACHE=str(tmp_path / "cache"), **variables)
    assert done.returncode == 0 and json.loads(done.stdout)["points"]


@pytest.mark.parametrize("kind", [FULL, "closed"])
def test_a_live_view_that_cannot_be_shown(arrays, kind):
    words = ["run", BUNDLE, arrays, "--watch", "--seconds", "0.3", "--json"]
    done = command(*words, stderr=kind, FORCE_COLOR="1")
    assert done.returncode == 0 and json.loads(done.stdout)["calls"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_mistake_that_cannot_be_shown(kind):
    done = command("run", BUNDLE, "nowhere.npy", stderr=kind)
    assert done.returncode == 2 and not done.stdout and not done.stderr


def _guarded(kind, descriptor, **settings):
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w")), **settings)
    return streams._guarded(stream, kind)


def test_what_a_stream_was_it_stays():
    read, write = os.pipe()
    guarded = _guarded(streams._Results, write, encoding="latin-1", errors="replace")
    assert (guarded.encoding, guarded.errors, guarded.fileno()) == ("latin-1", "replace", write)
    assert not guarded.isatty()
    guarded.write("°…")
    guarded.flush()
    assert os.read(read, 10) == "°?".encode("latin-1")
    os.close(read)
    somebodys = io.StringIO()
    assert streams._guarded(somebodys, streams._Results) is somebodys


def test_the_reader_that_left_is_told_of_once():
    read, write = os.pipe()
    os.close(read)
    guarded = _guarded(streams._Results, write)
    with pytest.raises(streams.ReaderLeftError):
        print("one", file=guarded, flush=True)
    print("two", file=guarded, flush=True)
    guarded.close()


@pytest.mark.parametrize("kind", [streams._Results, streams._Remarks])
def test_a_full_pipe_that_does_not_block_is_waited_for(kind):
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"." * 4096)
    taken = bytearray()

    def take():
        while chunk := os.read(read, 4096):
            taken.extend(chunk)

    guarded = _guarded(kind, write)
    reader = threading.Timer(0.1, take)
    reader.start()
    print("x" * 100_000, file=guarded, flush=True)
    os.close(write)
    reader.join()
    os.close(read)
    assert taken.strip(b".") == b"x" * 100_000 + b"\n"
