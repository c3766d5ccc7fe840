"""``python -m adaptrt.bench`` lists what is in the folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from adaptrt.bench import __main__ as command_list

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "README.md"


def test_every_command_says_what_it_measures() -> None:
    listed = command_list.commands()
    assert {"control", "deadlines", "families", "gpu_check"} <= listed.keys()
    assert not {"errors", "gpu", "reports", "timing", "__main__", "__init__"} & listed.keys()
    assert all(len(sentence.split()) > 3 and "``python" not in sentence for sentence in listed.values())


def test_a_new_file_and_a_new_folder_are_listed(tmp_path: Path) -> None:
    runs = 'if __name__ == "__main__":\n    pass\n'
    (tmp_path / "heat.py").write_text(f'"""How hot it gets. And how fast."""\n{runs}')
    (tmp_path / "parts.py").write_text('"""Parts of others."""\n')
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "__init__.py").write_text('"""How loud\nit gets.\n\nMore."""\n')
    (tmp_path / "noise" / "__main__.py").write_text(f'"""Runs it."""\n{runs}')
    assert command_list.commands(tmp_path) == {"heat": "How hot it gets", "noise": "How loud it gets"}


def test_the_list_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench"])
    command_list.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(command_list.commands())
    assert all(line.startswith("python -m adaptrt.bench.") for line in lines)


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adaptrt.bench", "families"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "families" in done.stderr


def test_kept_results_name_commands_that_are_listed() -> None:
    text = RESULTS.read_text()
    named = {part.split("`")[0].split()[0] for part in text.split("python -m adaptrt.bench.")[1:]}
    assert named <= command_list.commands().keys()
