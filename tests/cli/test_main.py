from __future__ import annotations

import importlib

import click
import pytest

import adaptrt.cli.group as group
from adaptrt import __version__

VERBS = ["train", "export", "calibrate", "verify", "inspect", "run", "bench"]


def test_help_imports_nothing_heavy(python):
    code = """
from adaptrt.cli.main import main
sys.argv = ["adaptrt", "--help"]
try:
    main()
finally:
    heavy = {"torch", "onnx", "onnxruntime", "numpy", "rich", "PIL", "matplotlib"} & set(sys.modules)
    assert not heavy, heavy
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert all(f"\n  {verb}" in done.stdout for verb in VERBS)
    assert "..." not in done.stdout.partition("Commands:")[2]  # a line of help per verb that fits


def test_version(cli):
    assert cli("--version").stdout == f"adaptrt {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(cli, verb):
    result = cli(verb, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: adaptrt {verb} ")
    examples = result.stdout.partition("\nExamples:\n")[2].splitlines()
    assert len(examples) >= 2 and all(line.startswith(f"  adaptrt {verb} ") for line in examples)
    assert "--json" in result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_examples_parse(verb):
    command = group.adaptrt.get_command(click.Context(group.adaptrt), verb)
    for line in command.examples:
        command.make_context(verb, line.split()[2:])


def test_entry_point_and_module(python, main_code):
    assert python(main_code("--version")).stdout == f"adaptrt {__version__}\n"
    code = "import runpy; sys.argv = ['x', '--version']; runpy.run_module('adaptrt.cli', run_name='__main__')"
    assert python(code).stdout == f"adaptrt {__version__}\n"


@pytest.mark.slow("starts interpreters")
@pytest.mark.parametrize(
    ("module", "args", "extra"),
    [
        ("click", ["--help"], "cli"),
        ("rich", ["verify", "x"], "cli"),
        ("torch", ["train", "--epochs-scale", "0.001"], "export"),
        ("torch", ["export", "digits"], "export"),
        ("onnx", ["verify", "x"], "cli"),
        ("onnxruntime", ["export", "digits"], "cpu"),
    ],
)
def test_missing_package_names_the_extra(python, main_code, module, args, extra, tmp_path, exported):
    args = [str(exported[0]) if arg == "x" else arg for arg in args]
    done = python(main_code(*args), without=(module,), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {module} is not installed") and f"'adaptrt[{extra}]'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_missing_onnxruntime_in_run(python, main_code, exported, pixels):
    done = python(main_code("run", exported[0], pixels), without=("onnxruntime",))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "adaptrt[cpu]" in done.stderr


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["fly"], "No such command 'fly'"),
        (["--fly"], "--fly"),
        (["run"], "BUNDLE"),
        (["run", "a"], "INPUT"),
        (["run", "a", "b", "--batch", "0"], "--batch"),
        (["run", "a", "b", "--budget", "1", "--price", "1"], "--price"),
        (["run", "a", "b", "--hard"], "--budget"),
        (["run", "a", "b", "--hard", "--price", "1"], "--budget"),
        (["export", "a", "--data", "digits", "--no-calibrate"], "--no-calibrate"),
        (["export", "a", "--evaluations", "50", "--no-calibrate"], "--no-calibrate"),
        (["export", "a", "--evaluations", "0"], "--evaluations"),
        (["export", "a", "--points", "1"], "--points"),
        (["calibrate", "a", "--points", "many"], "many"),
        (["bench", "a", "--plot", "x.png", "--no-plot"], "--no-plot"),
        (["train", "--epochs-scale", "nan"], "--epochs-scale"),
        (["train", "--epochs-scale", "0.001", "--output", ""], "--output"),
        (["run", "", "b"], "BUNDLE"),
        (["train", "--epochs-scale", "0.001", "--precision", "float8"], "float8"),
    ],
)
def test_wrong_usage(refused, tmp_path, monkeypatch, args, match):
    monkeypatch.chdir(tmp_path)
    line = refused(*args)
    assert match in line and "--help`" in line
    assert not list(tmp_path.iterdir())


def test_no_arguments_show_the_verbs(cli):
    result = cli()
    assert result.exit_code == 2
    assert "inspect" in result.output


def _verb_that_raises(monkeypatch, error):
    module = importlib.import_module("adaptrt.cli.inspect")

    def callback(**_: object) -> None:
        raise error

    monkeypatch.setattr(module.inspect, "callback", callback)


def test_defects_keep_their_traceback(cli, monkeypatch):
    for error in (RuntimeError("a bug"), ModuleNotFoundError("no module", name="numpi"), OSError("what")):
        _verb_that_raises(monkeypatch, error)
        with pytest.raises(type(error)):
            cli("inspect", "x")


def test_message_of_several_lines_becomes_one(refused, monkeypatch):
    _verb_that_raises(monkeypatch, group.AdaptrtError("got\n a; do\tb"))
    assert refused("inspect", "x") == "error: got a; do b"


def test_interrupt(cli, monkeypatch):
    _verb_that_raises(monkeypatch, KeyboardInterrupt())
    result = cli("inspect", "x")
    assert result.exit_code == 130
    assert result.stderr == "interrupted: nothing was written\n"
