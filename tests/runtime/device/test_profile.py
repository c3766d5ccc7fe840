"""Profiles: measured on a device in simulation, kept on disk, never mistaken for another's."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import msgspec
import pytest

from adaptrt.runtime import BudgetError
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.control.chains import OperatingPoint
from adaptrt.runtime.device.profile import DeviceKey, Profile, measure_profile, profiled_shares
from adaptrt.runtime.device.profile_cache import ProfileCache, describe_device, hash_bundle
from tests.runtime.conftest import TINY

KEY = DeviceKey("bundle", "engine 1", "device", None, 1, 1, 2, None)


class Device:
    """Calls take what they take, in a time of their own."""

    def __init__(self, drift: float = 0.0, watts: float | None = None) -> None:
        self.watts = watts
        self.now, self.idle, self.calls, self.drift = 0.0, True, 0, drift

    def call(self, share: float) -> tuple[float, float, float | None]:
        took = (1 + 9 * share) * (1 + self.drift * self.now) * (1.5 if self.idle else 1.0)
        self.now += took / 1e3
        self.idle = False
        self.calls += 1
        return 0.9 * share, took, None if self.watts is None else self.watts * took

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.idle = True

    def profile(self, **options) -> Profile:
        points = [(share, OperatingPoint({}, share, 0.9)) for share in profiled_shares(0.3, 1.0, 8)]
        return measure_profile(self.call, points, KEY, clock=lambda: self.now, sleep=self.sleep, **options)


def test_the_steady_times_and_those_after_a_pause_apart():
    profile = Device().profile()
    for point in profile.points:
        assert point.median_ms == pytest.approx(1 + 9 * point.fraction)
        assert point.done == pytest.approx(0.9 * point.fraction) and point.quality == 0.9 and point.runs >= 5
    assert profile.cold == pytest.approx([1.5, 1.0, 1.0])
    assert profile.curve().at(0.45) == pytest.approx(1 + 9 * 0.5)


def test_energy_where_a_sensor_tells_it():
    assert not Device().profile().has_energy
    profile = Device(watts=7.0).profile()
    assert profile.has_energy
    assert profile.energy_curve().at(0.45) == pytest.approx(7 * (1 + 9 * 0.5))
    assert profile.energy_for(7.1) == pytest.approx(70.0) and profile.energy_for(6.9) == 0.0
    with pytest.raises(BudgetError):
        Device().profile().energy_curve()


def test_drift_falls_on_all_points_alike():
    profile = Device(drift=0.1).profile()
    ratios = [point.median_ms / (1 + 9 * point.fraction) for point in profile.points]
    assert max(ratios) / min(ratios) < 1.03


def test_it_ends_in_the_time_it_was_given():
    told: list[float] = []
    device = Device()
    assert device.profile(seconds=0.5, progress=told.append).seconds < 3  # on a clock of its own
    assert told == sorted(told) and told[-1] == 1.0
    assert Device().profile(seconds=0.0).points[0].runs == 5


def test_a_clock_that_stands_still():
    with pytest.raises(BudgetError, match="check the clock"):
        measure_profile(
            lambda _share: (0.5, 0.0, None),
            [(0.5, OperatingPoint({}, 0.5, None))],
            KEY,
            clock=lambda: 0.0,
            sleep=lambda _seconds: None,
        )
    with pytest.raises(BudgetError, match="no operating points"):
        measure_profile(lambda _share: (0.5, 1.0, None), [], KEY, clock=lambda: 0.0, sleep=lambda _seconds: None)


def test_one_point_is_a_profile():
    assert profiled_shares(1.0, 1.0) == [1.0]
    assert profiled_shares(0.2, 1.0, 5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_kept_and_found_again(tmp_path: Path):
    cache, profile = ProfileCache(tmp_path / "new" / "folder"), Device().profile()
    assert cache.load(KEY) == (None, None)
    assert cache.store(profile) is None
    assert cache.load(KEY) == (profile, None)
    others = {
        "threads": 2,
        "batch": 8,
        "device": "x",
        "backend": "y",
        "power_mode": "15W",
        "processors": 1,
        "quota": 0.3,
    }
    for field, value in others.items():
        assert cache.load(msgspec.structs.replace(KEY, **{field: value})) == (None, None)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: content[: len(content) // 2], "no profile that this version reads"),
        (lambda _content: b"", "no profile that this version reads"),
        (lambda _content: b"x" * 1_000_001, "larger than"),
        (lambda content: content.replace(b'"format_version":2', b'"format_version":1'), "format 1, expected 2"),
        (lambda content: content.replace(b'"device":"device"', b'"device":"another"'), "profile of another device"),
        (lambda content: content.replace(b'"median_ms":', b'"median_ms":-'), "no profile that this version reads"),
        (lambda content: content[:-1] + b',"more":1}', "no profile that this version reads"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, damage, why):
    cache, profile = ProfileCache(tmp_path), Device().profile()
    cache.store(profile)
    path = cache.path(KEY)
    path.write_bytes(damage(path.read_bytes()))
    found, reason = cache.load(KEY)
    assert found is None and why in reason and "\n" not in reason
    assert cache.store(profile) is None and cache.load(KEY)[0] == profile


ODD = {
    "noise": [0, -1, 1e300, 0.001, 0.5, None, "x"],
    "cold": [[0, 0, 0], [1, 1], [1, 1, 1, 1], [0.5, 1, 1], [1e300, 1, 1], [None, 1, 1], [], 3],
    "seconds": [-1, None, "3"],
    "points": [[], None, {}],
}
ODD_POINTS = {
    "fraction": [0, -0.5, 1e300, None],
    "done": [0, -0.5, 1e300, None],
    "quality": ["x"],
    "median_ms": [0, -1, 1e300, 1e-300, None],
    "p95_ms": [0, -1, 1e300, None],
    "runs": [0, -3, 0.5, None],
    "median_mj": [0, -1, 1e300],
}
ODD_KEYS = {"batch": [0, -1, 1e300], "threads": [0, -1], "processors": [0, None], "quota": [0, -1, 1e300]}


@pytest.mark.parametrize("place,field,value", [
    *(("profile", field, value) for field, values in ODD.items() for value in values),
    *(("point", field, value) for field, values in ODD_POINTS.items() for value in values),
    *(("key", field, value) for field, values in ODD_KEYS.items() for value in values),
], ids=str)  # fmt: skip
def test_odd_numbers_are_no_profile(tmp_path: Path, place, field, value):
    """What is in a file may be anything: found when it is read, not in the middle of somebody's call."""
    import json

    cache = ProfileCache(tmp_path)
    cache.store(Device(watts=7.0).profile())
    path = cache.path(KEY)
    content = json.loads(path.read_text())
    {"profile": content, "point": content["points"][3], "key": content["key"]}[place][field] = value
    path.write_text(json.dumps(content))
    found, reason = cache.load(KEY)
    assert found is None and "\n" not in reason
    assert "no profile that this version reads" in reason


@pytest.mark.parametrize("damage", [
    lambda c: c.update(points=c["points"][::-1]),
    lambda c: [point.update(median_mj=None) for point in c["points"]],
    lambda c: [point.update(done=0.5) for point in c["points"]],
    lambda c: [point.update(median_ms=3.0) for point in c["points"]],
    lambda c: c["points"].__delitem__(slice(1, None)),
])  # fmt: skip
def test_an_unusual_profile_that_is_read_works(tmp_path: Path, damage):
    """Whatever passes the checks gives budgets that can be asked."""
    import json

    from adaptrt.runtime import Budget
    from adaptrt.runtime.device.device_budgets import DeviceBudgets
    from adaptrt.runtime.plan import Planner

    cache = ProfileCache(tmp_path)
    cache.store(Device(watts=7.0).profile())
    path = cache.path(KEY)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    found, reason = cache.load(KEY)
    assert reason is None
    budgets = DeviceBudgets(Planner(read_bundle(TINY)))
    budgets.use(found)
    for own in (True, False):
        for milliseconds in (1e-6, 1.0, 5.0, 1e6):
            ticket = budgets.begin(Budget.latency(milliseconds), 1, 0.0, for_call=own, profiler=None)
            budgets.end(ticket, 0.5, 3.0, 0.1)
            assert 0 < ticket.expected < 1e9


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path):
    cache = ProfileCache(tmp_path)
    os.mkfifo(cache.path(KEY))
    found, reason = cache.load(KEY)
    assert found is None and "no plain file" in reason
    assert cache.store(Device().profile()) is None and cache.load(KEY)[0] is not None


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    cache = ProfileCache(tmp_path / "file" / "below")
    assert "ADAPTRT_CACHE" in (cache.store(Device().profile()) or "")
    assert cache.load(KEY)[0] is None


def _store(folder: str, times: int) -> None:
    profile = Device().profile(seconds=0.0)
    for _ in range(times):  # no assertions: this process may run without them
        problem = ProfileCache(Path(folder)).store(profile)
        found, reason = ProfileCache(Path(folder)).load(KEY)
        if problem is not None or found is None:
            raise RuntimeError(problem or reason)


def test_two_processes_at_once(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_store, args=(str(tmp_path), 30)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_devices_and_bundles_have_names(tmp_path: Path):
    assert "Linux" in describe_device() or sys.platform != "linux"
    board = tmp_path / "proc" / "device-tree"
    board.mkdir(parents=True)
    (board / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    assert "NVIDIA Jetson Orin Nano" in describe_device(tmp_path)
    bundle = read_bundle(TINY)
    assert hash_bundle(bundle) == hash_bundle(read_bundle(TINY))
    assert hash_bundle(bundle) != hash_bundle(msgspec.structs.replace(bundle, name="other"))
