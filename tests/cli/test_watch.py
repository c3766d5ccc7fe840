"""``adaptrt run --watch``, ``--deadline`` and latency budgets on the command line."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from adaptrt.cli import watch
from adaptrt.cli.group import adaptrt
from adaptrt.runtime import Budget, load
from adaptrt.runtime.telemetry import PowerMode, Reading
from tests.runtime.conftest import FIXTURES, TINY


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("adaptrt.runtime.device.profiling.SECONDS", 0.05)
    monkeypatch.setattr("adaptrt.runtime.device.profile._PAUSE_S", 0.01)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    spec = json.loads((TINY / "bundle.json").read_text())["inputs"][0]
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).random([5, *spec["shape"][1:]]).astype(spec["dtype"]))
    return path


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(adaptrt, [str(word) for word in words], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_watching_for_a_while(arrays: Path) -> None:
    code, out, err = run("run", TINY, arrays, "--budget", "50ms", "--watch", "--seconds", 0.5, "--batch", 1, "--json")
    told = json.loads(out)
    assert code == 0 and told["calls"] > 3 and told["budget"] == "50 ms for 0.95 of the calls" and told["met"] > 0.5
    assert "target met by" in err


def test_ctrl_c_is_how_watching_ends(arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = watch.calls

    def interrupted(*given: object, **options: object):
        for watched in endless(*given, **options):  # type: ignore[arg-type]
            yield watched
            if watched.calls == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(watch, "calls", interrupted)
    code, _, err = run("run", TINY, arrays, "--watch", "--batch", 1)
    assert code == 0 and "4 calls" in err


def test_metrics_while_it_runs(arrays: Path) -> None:
    pytest.importorskip("prometheus_client")
    code, _, err = run("run", TINY, arrays, "--watch", "--seconds", 0.2, "--metrics-port", 0)
    assert code == 0 and "metrics at http://127.0.0.1:" in err


def test_a_frame_says_everything() -> None:
    model = load(TINY, threads=1)
    spec = model.bundle.inputs[0]
    x = {spec.name: np.zeros([1, *spec.shape[1:]], spec.dtype)}
    watched = watch.Watched(Budget.latency(1e-6))
    result = model.run(x, budget=watched.budget)
    reading = Reading(
        0.0,
        total_power_w=6.25,
        temperature_c={"cpu": 71.5, "gpu": 64.0},
        clock_hz={"cpu0": 1.5e9},
        power_mode=PowerMode("15W", 0),
    )
    result = msgspec.structs.replace(result, telemetry=reading, energy_mj=12.5)
    for _ in range(3):
        watched.add(result)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(watch.view(model, watched))
    text = console.export_text()
    for words in ("6.25 W", "cpu 71.5 °C", "1.50 GHz", "15W", "12.50 mJ", "0.0% of 3 calls", "ran that one", "median"):
        assert words in text, words
    assert watch.sparkline([0.0, 0.5, 1.0, 9.0], 1.0) == " ▄██"
    assert watch.summary(watch.Watched(Budget.full())) == "no calls"


def test_a_deadline(tmp_path: Path) -> None:
    fed = {"x": np.zeros((2, 6), np.float32), "hint": np.zeros((2, 2), np.float32), "scale": np.ones(1, np.float32)}
    np.savez(tmp_path / "in.npz", **fed)
    code, out, _ = run("run", FIXTURES / "exits", tmp_path / "in.npz", "--deadline", 1e-3, "--json")
    assert code == 0 and next(iter(json.loads(out)["exits"].values())) == 2


def test_mistakes(arrays: Path) -> None:
    for words in (
        ("--seconds", 3),
        ("--watch", "--price", 0.5),
        ("--watch", "--output", "x.npz"),
        ("--deadline", -1),
        ("--deadline", 5),  # no exits
        ("--budget", "0ms"),
        ("--budget", "5mJ"),  # no sensor, or no permission, on machines that run tests
    ):
        if words == ("--budget", "5mJ") and load(TINY).telemetry().total:
            continue
        code, _, err = run("run", TINY, arrays, *words)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, words


@pytest.mark.parametrize("count,asked,expected", [(1, None, 1), (5, None, 5), (1, 4, 4), (5, 2, 2)])
def test_a_batch_is_as_large_as_what_was_given(tmp_path: Path, count: int, asked: int | None, expected: int) -> None:
    """One picture under a latency budget is timed as one, not repeated until a batch is full."""
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((count, 4), np.float32))
    more = () if asked is None else ("--batch", asked)
    code, out, err = run("run", TINY, path, "--budget", "50ms", "--watch", "--seconds", 0.2, "--json", *more)
    told = json.loads(out)
    assert code == 0 and told["batch"] == expected, err
    assert f"profiling batches of {expected} ..." in err and f"{expected} sample{'s' * (expected > 1)} each" in err


def test_profiling_is_shown_and_obeys_ctrl_c(arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the exception was lost in a library: the next step stops."""
    from adaptrt.runtime import AdaptiveModel

    usual, calls = AdaptiveModel.run, []

    def run_and_press(self: AdaptiveModel, *given: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 20:
            with contextlib.suppress(KeyboardInterrupt):  # as a callback of the garbage collector loses it
                signal.raise_signal(signal.SIGINT)
        return usual(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(AdaptiveModel, "run", run_and_press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for words in (("--watch",), ()):
            calls.clear()
            code, _, err = run("run", TINY, arrays, "--budget", "50ms", *words)
            assert code == 130 and "profiling batches of 5 ..." in err and "interrupted: " in err
            assert len(calls) < 100
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_warning_of_the_runtime_is_a_remark(arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "file"))
    code, _, err = run("run", TINY, arrays, "--budget", "50ms")
    assert code == 0 and err.count("note: cannot keep the profile in") == 1 and "Warning" not in err
