"""What stands in blocks of shell commands: whether verbs, options, targets and modules are there, and what is run."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import click
import tomllib

from adaptrt.cli.group import adaptrt
from tests.docs.code_blocks import ROOT, Block

Words = Sequence[str]
_ASSIGNMENT = re.compile(r"^[A-Z_][A-Z0-9_]*=")


class LineError(Exception):
    """A command that is not as the page says."""


class UnknownProgramError(LineError):
    """A command that nothing here can check."""


def commands_of(block: Block) -> list[list[str]]:
    """The words of every command; lines that go on in the next are joined, comments left out."""
    commands, begun = [], ""
    for line in block.text.splitlines():
        begun += line
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # a quotation that goes on
            begun += "\n"
            continue
        begun = ""
        if words:
            commands.append(words)
    if begun:
        raise LineError(f"{block.place}: got {begun.strip()!r}, expected the end of its quotation")
    return commands


def check_command(words: Words) -> None:
    """Check one command.

    Raises:
        UnknownProgramError: There is no check for this program.
        LineError: It names what is not there.
    """
    words = [*words]
    while words and _ASSIGNMENT.match(words[0]):
        del words[0]
    program, *rest = words
    check = CHECKS.get(program)
    if check is None:
        raise UnknownProgramError(f"got the program {program!r}, expected one of {', '.join(CHECKS)}")
    check(rest)


def is_cheap(words: Words) -> bool:
    """Whether the command is run against a tiny bundle, not only checked."""
    program, verb, *rest = [*words, ""]
    if program != "adaptrt" or verb not in RUN:
        return False
    backend = rest[rest.index("--backend") + 1] if "--backend" in rest else "onnxruntime"
    return backend in ("onnxruntime", "openvino", "auto") and RUN[verb](rest)


RUN: dict[str, Callable[[Words], bool]] = {
    "inspect": lambda _: True,
    "verify": lambda _: True,
    "profile": lambda _: True,
    "run": lambda words: "--watch" not in words or "--seconds" in words,
    "build": lambda words: "openvino" in words,
}
"""Verbs that take seconds, and whether they do with these options."""


def _parse(command: click.Command, name: str, words: Words) -> None:
    try:
        command.make_context(name, [*words])
    except click.exceptions.Exit:  # --help and --version
        return
    except click.ClickException as error:
        raise LineError(f"`{' '.join([name, *words])}`: {error.format_message()}") from error


def _check_adaptrt(words: Words) -> None:
    verb = words[0] if words else ""
    command = adaptrt.get_command(click.Context(adaptrt), verb)
    if command is None:
        if verb.startswith("-"):
            return _parse(adaptrt, "adaptrt", words)
        raise LineError(f"got the verb {verb!r}, expected one of {', '.join(adaptrt.list_commands(None))}")
    return _parse(command, f"adaptrt {verb}", words[1:])


@cache
def _make(words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def _check_make(words: Words) -> None:
    text = (ROOT / "Makefile").read_text()
    for word in words:
        name = word.partition("=")[0]
        if _ASSIGNMENT.match(word) and not re.search(rf"\$\({name}\b|^{name} ", text, re.MULTILINE):
            raise LineError(f"got the variable {name}, which the Makefile does not read")
    done = _make(tuple(words))
    if done.returncode:
        raise LineError(f"`make {' '.join(words)}`: {done.stderr.strip()}")


def _check_python(words: Words) -> None:
    if not words:
        raise LineError("got `python` alone, expected a module or a file")
    if words[0] == "-m":
        module, options = words[1], words[2:]
        if module.partition(".")[0] != "adaptrt":
            raise UnknownProgramError(f"got `python -m {module}`, expected a module of adaptrt")
        return _check_module(module, options)
    if not (ROOT / words[0]).is_file():
        raise LineError(f"got the file {words[0]!r}, expected one of the repository")
    return None


def _check_module(module: str, options: Words) -> None:
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{module}.__main__")
    if spec is None or spec.origin is None:
        raise LineError(f"got `python -m {module}`, expected a module that is there and runs")
    main = getattr(importlib.import_module(spec.name), "main", None)
    if isinstance(main, click.Command):
        return _parse(main, f"python -m {module}", options)
    named = {option.partition("=")[0] for option in options if option.startswith("--")}
    known = _options(module) if "argparse" in Path(spec.origin).read_text() else frozenset[str]()
    if not named <= known:
        raise LineError(f"`python -m {module}` has no {', '.join(sorted(named - known))}")
    return None


@cache
def _options(module: str) -> frozenset[str]:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False)
    return frozenset(re.findall(r"--[a-z][a-z-]*", done.stdout))


def _check_pip(words: Words) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = project["optional-dependencies"]
    for extras in re.findall(r"(?:^|\s)(?:\.|adaptrt)\[([^\]]*)\]", " ".join(words)):
        unknown = [extra for extra in extras.split(",") if extra not in known]
        if unknown:
            raise LineError(f"got the extra {unknown[0]!r}, expected one of {', '.join(known)}")


CHECKS: dict[str, Callable[[Words], None]] = {
    "adaptrt": _check_adaptrt,
    "make": _check_make,
    "python": _check_python,
    "pip": _check_pip,
}
"""What checks the arguments of a program."""
