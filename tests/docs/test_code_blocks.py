"""Every fenced block of the documentation runs, or is checked as far as it can be here.

Python blocks of a page run one after the other in one process, with the bundles of ``prepared``; so do commands that
take seconds. Other commands are parsed: verbs, options, make targets, modules. A block that can neither run nor be
checked says why, as ``bash not-run: needs a Jetson``, and is counted in ``NOT_RUN``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.docs.code_blocks import PAGES, ROOT, Block, BlockError, blocks_of, page_text
from tests.docs.shell_lines import LineError, UnknownProgramError, check_command, commands_of, is_cheap

NOT_RUN: dict[tuple[str, str], int] = {
    ("docs/demo.md", "it serves until it is stopped"): 1,
    ("docs/embed.md", "needs CUDA and TensorRT"): 1,
    ("docs/embed.md", "needs a server"): 1,  # tests/serving/test_docs.py runs it
    ("docs/engines.md", "needs TensorRT and a GPU"): 1,
    ("docs/pretrained.md", "downloads 80 MB and trains for two hours"): 1,
    ("docs/pretrained.md", "needs the bundle of the block above"): 1,
    ("docs/pretrained.md", "needs a checkpoint, and a cluster"): 1,
    ("docs/pretrained.md", "trains for two hours"): 1,
    ("docs/pretrained.md", "needs a bundle and texts"): 1,
    ("docs/pretrained.md", "needs a network with routes"): 1,
    ("docs/pretrained.md", "needs an adaptation"): 1,
    ("docs/pretrained.md", "needs an adapted network"): 1,
    ("docs/pretrained.md", "needs a checkpoint and pictures"): 1,
    ("docs/jetson.md", "needs TensorRT"): 3,
    ("docs/jetson.md", "needs TensorRT's headers"): 1,
    ("docs/jetson.md", "needs a Jetson"): 1,
    ("docs/serving.md", "needs a server"): 2,
    ("docs/scale_out.md", "needs Triton"): 1,
    ("docs/scale_out.md", "needs a server"): 1,
    ("docs/scale_out.md", "needs podman or docker, and a cluster"): 1,
    ("docs/scale_out.md", "needs a cluster"): 2,
    ("docs/telemetry.md", "needs root"): 1,
    ("docs/telemetry.md", "takes a minute"): 1,
}
"""How many blocks of a page do not run, for which reason."""

RUN_ELSEWHERE = {
    "docs/own_networks.md": "tests/export/own_networks/test_docs.py",
    "docs/worked_examples.md": "tests/export/pretrained/test_worked_examples.py",
}
"""Pages whose blocks are examples, files and what they print; the test beside each runs them as a whole."""

HERE = [page for page in PAGES if page not in RUN_ELSEWHERE]
SHELLS = ("bash", "sh")


def check_block(block: Block) -> None:
    """Check what does not have to run.

    Raises:
        LineError: A command names what is not there, or cannot be checked and has no marker.
        ValueError: JSON is none.
        SyntaxError: Python is none.
    """
    if block.language == "json":
        json.loads(block.text)
    if block.language == "python":
        compile(block.text, block.place, "exec")
    for words in commands_of(block) if block.language in SHELLS else ():
        _check_words(block, words)


def _check_words(block: Block, words: list[str]) -> None:
    try:
        check_command(words)
    except UnknownProgramError as error:
        if block.not_run is None:
            raise LineError(f"{block.place}: {error}; mark the block with not-run and a reason") from error
    except LineError as error:
        raise LineError(f"{block.place}: {error}") from error


def steps_of(blocks: list[Block]) -> list[dict[str, Any]]:
    """What is run of a page."""
    steps: list[dict[str, Any]] = []
    for block in blocks:
        if block.not_run is not None:
            continue
        if block.language == "python":
            steps.append({"place": block.place, "python": block.text})
        elif block.language in SHELLS:
            cheap = [words for words in commands_of(block) if is_cheap(words)]
            steps += [{"place": block.place, "adaptrt": words[1:]} for words in cheap]
    return steps


def run_steps(steps: list[dict[str, Any]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run them in a process, in a folder."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "ADAPTRT_CACHE": str(folder / "cache"),
        "MPLBACKEND": "agg",
    }
    return subprocess.run(
        [sys.executable, "-m", "tests.docs.page_session"],
        input=json.dumps(steps),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("page", HERE)
def test_blocks_are_right(page: str) -> None:
    for block in blocks_of(page, page_text(page)):
        check_block(block)


@pytest.mark.parametrize("page", HERE)
def test_blocks_run(page: str, prepared: Path, tmp_path: Path) -> None:
    steps = steps_of(blocks_of(page, page_text(page)))
    folder = Path(shutil.copytree(prepared, tmp_path / "folder"))
    done = run_steps(steps, folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_pages_that_run_elsewhere_do() -> None:
    for page, test in RUN_ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text() and page in PAGES


def test_blocks_that_do_not_run_are_counted() -> None:
    blocks = [block for page in HERE for block in blocks_of(page, page_text(page))]
    assert len(blocks) > 20
    counted = Counter((block.page, block.not_run) for block in blocks if block.not_run is not None)
    assert counted == NOT_RUN


def fenced(info: str, *lines: str) -> str:
    return "\n".join(["Text.", "", f"```{info}", *lines, "```", ""])


@pytest.mark.parametrize(
    ("info", "line", "message"),
    [
        ("sh", "adaptrt exprot digits", "got the verb 'exprot', expected one of"),
        ("sh", "adaptrt run build/digits image.png --buget 50%", "No such option"),
        ("sh", "adaptrt export digits --points 1", "Invalid value"),
        ("sh", "adaptrt run", "Missing argument"),
        ("sh", "make exprot", "No rule to make target"),
        ("sh", "make export MODLE=fashion", "got the variable MODLE"),
        ("sh", "python -m adaptrt.bench.famillies", "expected a module that is there"),
        ("sh", "python -m adaptrt.bench.families --trian", "No such option"),
        ("sh", "python -m adaptrt.plugins_trt.compile --archs 87", "has no --archs"),
        ("sh", "python docs/make_shema.py", "got the file 'docs/make_shema.py'"),
        ("sh", "pip install '.[cpu,exprot]'", "got the extra 'exprot'"),
        ("bash", "trtexec --onnx=stage0.onnx", "mark the block with not-run and a reason"),
        ("bash not-run: needs a Jetson", "make exprot", "No rule to make target"),
        ("bash", 'adaptrt run "build', "expected the end of its quotation"),
    ],
)
def test_a_wrong_command_is_noticed(info: str, line: str, message: str) -> None:
    (block,) = blocks_of("page.md", fenced(info, line))
    with pytest.raises(LineError, match=message) as caught:
        check_block(block)
    assert str(caught.value).startswith("page.md:4: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (fenced("", "adaptrt export digits"), "got language ''"),
        (fenced("rust", "main"), "got language 'rust'"),
        (fenced("bash not-run:", "trtexec"), "expected 'not-run: REASON'"),
        (fenced("bash norun: needs a Jetson", "trtexec"), "expected 'not-run: REASON'"),
        ("```python\nx = 1\n", "got a block without an end"),
    ],
)
def test_a_block_that_is_written_wrongly_is_noticed(text: str, message: str) -> None:
    with pytest.raises(BlockError, match=message):
        blocks_of("page.md", text)


@pytest.mark.parametrize(("info", "line"), [("json", "{,}"), ("python", "x = = 1")])
def test_wrong_json_and_python_are_noticed(info: str, line: str) -> None:
    (block,) = blocks_of("page.md", fenced(info, line))
    with pytest.raises((ValueError, SyntaxError)):
        check_block(block)


def test_blocks_share_names_and_a_failure_names_its_line(tmp_path: Path) -> None:
    text = fenced("python", "x = 1") + fenced("python", "assert x == 1", "assert x == 2")
    done = run_steps(steps_of(blocks_of("page.md", text)), tmp_path)
    assert done.returncode == 1
    assert 'File "page.md", line 10' in done.stderr and "failed: page.md:9" in done.stderr


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    done = run_steps(steps_of(blocks_of("page.md", fenced("sh", "adaptrt inspect build/digits"))), tmp_path)
    assert done.returncode == 1 and "failed: page.md:4 adaptrt inspect build/digits" in done.stderr


def test_what_takes_long_or_a_gpu_is_not_run() -> None:
    lines = (
        "adaptrt run a b --watch",
        "adaptrt verify a --backend tensorrt",
        "adaptrt build a --target tensorrt",
        "adaptrt train",
        "make test",
    )
    assert steps_of(blocks_of("page.md", fenced("sh", *lines))) == []


def test_a_command_goes_on_in_the_next_line() -> None:
    (block,) = blocks_of("page.md", fenced("sh", "adaptrt run a \\", '    "b', 'c"   # comment', "make test"))
    assert commands_of(block) == [["adaptrt", "run", "a", "b\nc"], ["make", "test"]]
