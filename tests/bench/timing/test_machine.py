from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from adaptrt.bench.timing import machine
from adaptrt.bench.timing.machine import describe_machine, describe_source


def test_description_is_json_and_says_what_matters() -> None:
    described = describe_machine()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["cpu"] and described["cores"] >= 1
    assert described["python"] == platform.python_version()
    assert described["packages"]["numpy"] and described["packages"]["onnxruntime"]


def test_description_names_neither_host_nor_paths() -> None:
    text = json.dumps(describe_machine())
    assert os.path.expanduser("~") not in text and str(Path.cwd()) not in text  # noqa: PTH111 - there may be no home
    assert socket.gethostname() not in text.replace("linux", "")


def test_arm_board_without_a_model_name(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n",
        "/proc/device-tree/model": "NVIDIA Jetson AGX Orin\0".replace("\0", ""),
    }
    monkeypatch.setattr(machine, "_read", lambda path: files.get(str(path), ""))
    described = describe_machine()
    assert described["cpu"] == "NVIDIA Jetson AGX Orin"
    assert described["flags"] == ["asimd", "asimddp", "i8mm"]


def test_command_keeps_options_and_drops_folders() -> None:
    given = [
        "adaptrt",
        "bench",
        "build/digits",
        "--json",
        "/home/someone/a b.json",
        "--plot=/tmp/x/p.png",
        "--n=3",
    ]
    command = describe_source(given)["command"]
    assert command == "adaptrt bench build/digits --json 'a b.json' --plot=p.png --n=3"


@pytest.mark.parametrize("spec,command", [(None, "measure --json x.json"), ("a.b", "python -m a.b --json x.json")])
def test_own_command_is_found(monkeypatch: pytest.MonkeyPatch, spec: str | None, command: str) -> None:
    main = SimpleNamespace(__spec__=None if spec is None else SimpleNamespace(name=spec))
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["/some/folder/measure", "--json", "/another/x.json"])
    assert describe_source()["command"] == command


def fake_root(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    (root / "bench").mkdir(parents=True)
    checkout = Path(__file__).resolve().parents[3]
    place = Path(machine.__file__).resolve().relative_to(checkout)  # moved, it has to find its root from there
    monkeypatch.setattr(machine, "__file__", str(root / place))


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_of_a_checkout_and_whether_it_was_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    fake_root(monkeypatch, root)
    git(root, "init")
    assert describe_source()["commit"] is None  # nothing committed yet
    (root / "a.py").write_text("1")
    git(root, "add", ".")
    git(root, "commit", "-m", "first")
    (root / "bench" / "results").mkdir()
    (root / "bench" / "results" / "old.json").write_text("{}")
    source = describe_source()
    assert (source["commit"], source["modified"]) == (git(root, "rev-parse", "HEAD"), False)
    (root / "a.py").write_text("2")
    assert describe_source()["modified"] is True


def test_no_commit_outside_a_checkout_or_in_somebody_elses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = tmp_path / "project" / "site-packages" / "adaptrt"
    fake_root(monkeypatch, root)
    assert describe_source()["commit"] is None
    git(tmp_path / "project", "init")
    git(tmp_path / "project", "commit", "--allow-empty", "-m", "theirs")
    source = describe_source()
    assert (source["commit"], source["modified"]) == (None, None)
