"""What `make test-aarch64` says where something is missing, and that its counts are those of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.aarch64 import __main__ as command
from tests.aarch64 import emulated
from tests.aarch64.parts import PARTS

ROOT = Path(__file__).resolve().parents[2]
REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="one"/><testcase classname="tests.a" name="two"><failure message="no"/></testcase>
<testcase classname="tests.a" name="three"><skipped message="no torch"/></testcase>
<testcase classname="tests.a" name="four"><error message="no"/></testcase>
<testcase classname="tests.a" name="five"><skipped message="no torch"/></testcase>
</testsuite></testsuites>"""


def test_one_line_without_the_program_that_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["aarch64", "--folder", str(tmp_path / "folder")])
    assert command.main() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("got no mmdebstrap, expected") and "apt-get install" in error
    assert not (tmp_path / "folder" / "emulator").exists()


@pytest.mark.parametrize("said", ["E: apt-get update failed", "", "I: one\\nI: two"])
def test_one_line_without_a_network(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "mmdebstrap"
    program.write_text(f"#!/bin/sh\nprintf '{said}' >&2\nexit 25\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(sys, "argv", ["aarch64", "--folder", str(tmp_path / "folder")])
    assert command.main() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "from mmdebstrap" in error and "see that there is a network" in error


def test_one_line_without_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root" / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "root" / "usr" / "bin" / "python3.13").touch()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(emulated.NotPreparedError, match=r"got 'ERROR: .*' from pip, expected wheels for aarch64"):
        emulated._fetch_packages(tmp_path / "part", tmp_path / "root")


def test_a_step_that_failed_is_done_again_and_one_that_was_finished_is_not(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        (part / "half").touch()
        raise emulated.NotPreparedError

    with pytest.raises(emulated.NotPreparedError):
        emulated._step(tmp_path / "root", "fetching", fail)
    assert not (tmp_path / "root").exists()
    emulated._step(tmp_path / "root", "fetching", lambda part: (part / "whole").touch())
    emulated._step(tmp_path / "root", "fetching", fail)
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["whole"]


def test_the_runtimes_packages_are_asked_for() -> None:
    names = "\n".join(emulated._requirements())
    assert all(name in names for name in ("onnxruntime>=", "msgspec>=", "numpy>=", "pytest>=", "tokenizers>="))
    assert "torch" not in names


def test_what_is_counted_and_kept(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    result = command.read_report(tmp_path / "report.xml")
    assert (result["passed"], result["failed"], result["skipped"]) == (1, 2, 2)
    assert result["failures"] == ["tests.a::two", "tests.a::four"] and result["skipped_because"] == {"no torch": 2}
    for name in ("one", "two", "one"):
        command.keep(tmp_path / "kept.json", name, result)
    assert json.loads((tmp_path / "kept.json").read_text()) == {"one": result, "two": result}


@pytest.mark.parametrize("name", PARTS)
def test_files_and_tests_that_are_left_out_are_there(name: str) -> None:
    assert all((ROOT / path).exists() for path in PARTS[name].paths)
    for test in PARTS[name].left_out:
        file, function = test.split("::")
        assert any(Path(file).is_relative_to(path) for path in PARTS[name].paths)
        assert f"def {function}(" in (ROOT / file).read_text()


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.aarch64", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--part" in done.stdout
