"""The simulated devices, what is measured on them, and the command."""

from __future__ import annotations

import importlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from adaptrt.bench.control.contention import Contention
from adaptrt.bench.control.on_machine import controller_cost
from adaptrt.bench.control.rivals import RIVALS
from adaptrt.bench.control.simulation import (
    DEVICE,
    LAG_LIMIT,
    MISS_LIMIT,
    PERCENTILE,
    QUALITY_LIMIT,
    TARGET,
    rows_of,
    simulate,
)
from adaptrt.bench.control.traces import FORGIVEN, TRACES, contention, spikes, steady, step, workload
from adaptrt.bench.deadlines import measure
from adaptrt.bench.errors import BenchError
from tests.runtime.conftest import TINY


def test_the_controller_reaches_what_it_must() -> None:
    rows = rows_of(3, rivals=("controller",))
    assert [row.trace for row in rows] == [make(0).name for make in TRACES]
    for row in rows:
        assert row.missed_worst <= MISS_LIMIT, row
        assert row.below_oracle <= QUALITY_LIMIT, row
        assert row.settled_after is None or 0 <= row.settled_after <= LAG_LIMIT, row


def test_the_measure_can_be_missed() -> None:
    found = {(row.trace, row.rival): row for row in rows_of(1, rivals=("no control", "fixed point"))}
    slow = found["step x2 and back", "fixed point"]
    assert slow.missed > 0.3 and slow.settled_after == -1
    assert found["steady", "no control"].missed > 0.9
    assert found["thermal ramp", "no control"].below_oracle < 0  # quality is not what it lacks


def test_every_way_of_choosing_meets_the_very_same_calls() -> None:
    one, other = step(3), step(3)
    for name, array in vars(one).items():
        if isinstance(array, np.ndarray):
            np.testing.assert_array_equal(array, getattr(other, name))
    for rival in RIVALS:
        np.testing.assert_array_equal(simulate(one, rival).milliseconds, simulate(other, rival).milliseconds)


def test_what_traces_count() -> None:
    assert steady(0).counted.all()
    assert (~step(0).counted).sum() == 2 * FORGIVEN and (~contention(0).counted).sum() == 11 * FORGIVEN
    assert 5 < (~spikes(0).counted).sum() < 60
    ratio = simulate(spikes(0), "no control").milliseconds[spikes(0).spike] / 10
    assert np.median(ratio) == pytest.approx(np.median(simulate(steady(0), "no control").milliseconds), rel=0.05)


@pytest.mark.parametrize("make", TRACES)
def test_the_oracle_meets_the_target_and_no_more(make) -> None:
    trace = make(0)
    level = DEVICE.oracle(trace, TARGET, PERCENTILE)
    times = np.array([DEVICE.response(trace, call, share) for call, share in enumerate(level)])
    missed = (times > TARGET)[trace.counted]
    assert 0.01 < missed.mean() < 0.07
    more = np.minimum(level * 1.05, DEVICE.profile.full)
    worse = np.array([DEVICE.response(trace, call, share) for call, share in enumerate(more)])
    assert (worse > TARGET)[trace.counted].mean() > missed.mean() + 0.05


def test_work_is_part_of_a_trace() -> None:
    trace = workload(0)
    assert trace.work[450:700].mean() == pytest.approx(1.25, rel=0.02) and trace.work[900:].mean() < 0.85


def test_command_writes_json_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path))
    main = importlib.import_module("adaptrt.bench.control.simulated_targets").main
    options = ["--seeds", "1", "--plot", tmp_path / "a.png", "--json", tmp_path / "a.json", "--threads", "1"]
    options += ["--bundle", TINY, "--seconds", "0.5", "--machine-plot", tmp_path / "b.svg"]
    done = CliRunner().invoke(main, [str(option) for option in options], catch_exceptions=False)
    assert done.exit_code == 0 and "thermal ramp" in done.output and "a core taken" in done.output
    content = json.loads((tmp_path / "a.json").read_text())
    assert len(content["rows"]) == len(TRACES) * len(RIVALS) and content["on_machine"]["target_ms"] > 0
    assert {phase["rival"] for phase in content["on_machine"]["phases"]} == {"no control", "fixed point", "controller"}
    assert (tmp_path / "a.png").stat().st_size > 10_000 and b"<svg" in (tmp_path / "b.svg").read_bytes()
    wrong = CliRunner().invoke(main, ["--machine-plot", str(tmp_path / "c.png")])
    assert wrong.exit_code == 2 and "--bundle" in wrong.output


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot tie a process to a core")
def test_contention_takes_time_only_while_it_is_on() -> None:
    core = sorted(os.sched_getaffinity(0))[-1]

    def used(process: int) -> int:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    with Contention(core) as other:
        process = other._process.pid
        time.sleep(0.2)
        before = used(process)
        time.sleep(0.2)
        assert used(process) == before
        other.switch(True)
        deadline = time.monotonic() + 20
        while used(process) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert used(process) > before
    assert other._process.poll() is not None


def test_what_the_controller_costs_is_measured() -> None:
    assert 1.0 < controller_cost() < 10_000.0


def test_deadlines_are_measured_against_the_stages(staged: Path, tmp_path: Path) -> None:
    main = importlib.import_module("adaptrt.bench.deadlines").main
    file = tmp_path / "d.json"
    done = CliRunner().invoke(main, [str(staged), "--calls", "30", "--json", str(file)], catch_exceptions=False)
    assert done.exit_code == 0 and "latest by" in done.output
    content = json.loads(file.read_text())
    assert content["first_stage_ms"] > 0 and content["full_ms"] > 0 and len(content["rows"]) == 5
    for row in content["rows"]:
        assert sum(row["exits"]) == pytest.approx(1.0) and row["calls"] == 30
    with pytest.raises(BenchError, match="expected several stages"):
        measure(TINY, batch=1, threads=1, calls=10)
