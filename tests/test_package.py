"""The package itself: its rooms, its one shared function."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import adaptrt
from adaptrt import write_atomically

ROOT = Path(__file__).parent.parent
ROOMS = ("ops", "models", "export", "plugins_trt", "runtime", "cli", "bench")


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_linked_into_the_package(room: str) -> None:
    link = ROOT / "src" / "adaptrt" / room
    assert link.is_symlink() and str(link.readlink()) == f"../../{room}"


def test_importing_the_package_imports_no_room() -> None:
    code = "import sys, adaptrt; print([name for name in sys.modules if name.startswith('adaptrt.')])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_files_stay_readable_in_size() -> None:
    files = [path for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.py")]
    javascript = ROOT / "runtime" / "js"
    demo = javascript / "demo"
    files += [*(javascript / "src").rglob("*.ts"), *(javascript / "tests").glob("*.js")]
    files += [*(demo / "src").glob("*.ts"), *(demo / "styles").glob("*.css"), *demo.glob("*.js")]
    assert len(files) > 100
    assert not [str(path) for path in files if len(path.read_text().splitlines()) > 400]


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(_: int) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk on fire"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_version_is_a_version() -> None:
    assert len(adaptrt.__version__.split(".")) == 3
