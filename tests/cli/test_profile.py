"""``adaptrt profile``: a table, JSON, a picture, and a file that latency budgets find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from adaptrt.cli.budgets import parse_budget
from adaptrt.cli.errors import CommandError
from adaptrt.cli.group import adaptrt
from adaptrt.runtime import Budget, BudgetError
from tests.runtime.conftest import FIXTURES, TINY


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("adaptrt.runtime.device.profile._PAUSE_S", 0.01)
    return tmp_path / "cache" / "profiles"


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(adaptrt, [str(word) for word in words], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_table_and_picture(tmp_path: Path, cache: Path) -> None:
    code, out, _ = run("profile", TINY, "--seconds", 0.1, "--threads", 1, "--plot", tmp_path / "p.png")
    assert code == 0 and "ms, median" in out and "1 thread," in out and str(cache) in out
    assert len(list(cache.iterdir())) == 1 and (tmp_path / "p.png").stat().st_size > 5_000


def test_json_and_own_inputs(tmp_path: Path, cache: Path) -> None:
    shape = json.loads((TINY / "bundle.json").read_text())["inputs"][0]["shape"]
    np.save(tmp_path / "x.npy", np.zeros([3, *shape[1:]], np.float32))
    code, out, _ = run("profile", TINY, "--seconds", 0.1, "--batch", 2, "--json", "--input", tmp_path / "x.npy")
    content = json.loads(out)
    assert code == 0 and content["key"]["batch"] == 2 and Path(content["file"]).parent == cache
    assert [point["fraction"] for point in content["points"]] == sorted(p["fraction"] for p in content["points"])


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "file"))
    code, out, err = run("profile", TINY, "--seconds", 0.1, "--json")
    assert code == 0 and "cannot keep the profile" in err and json.loads(out)["file"] is None


def test_mistakes(tmp_path: Path) -> None:
    for words in (
        ("profile", tmp_path / "none"),
        ("profile", TINY, "--plot", tmp_path / "x.txt"),
        ("profile", TINY, "--input", tmp_path / "none.npy"),
        ("profile", TINY, "--seconds", "nan"),
    ):
        code, _, err = run(*words)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, words


def test_budgets_of_the_device() -> None:
    assert parse_budget("8ms") == Budget.latency(8.0)
    assert parse_budget("40mJ") == Budget.energy(40.0)
    assert parse_budget("10W") == Budget.power(10.0)
    for wrong in ("ms", "xms", "8s"):
        with pytest.raises(BudgetError, match="write it like one of these"):
            parse_budget(wrong)
    for wrong in ("0ms", "-3ms", "nanms", "infW"):
        with pytest.raises(BudgetError, match="above 0"):
            parse_budget(wrong)
    with pytest.raises(CommandError, match="--hard"):
        parse_budget("8ms", hard=True)


@pytest.mark.parametrize("name", ["exits", "tokens", "texts"])
def test_inputs_are_drawn_for_every_input_within_its_limits(name: str) -> None:
    """None of these bundles carries inputs of its own."""
    code, out, err = run("profile", FIXTURES / name, "--seconds", 0.1, "--batch", 3, "--json")
    assert code == 0 and json.loads(out)["key"]["batch"] == 3, err
