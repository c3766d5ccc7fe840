"""Profiles: measured on a device in simulation, kept on disk, never mistaken for another's."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import msgspec
import pytest

from adaptrt.runtime import BudgetError
from adaptrt.runtime.bundle import read_bundle
from adaptrt.runtime.chains import OperatingPoint
from adaptrt.runtime.control.profile import DeviceKey, Profile, measure_profile, profiled_shares
from adaptrt.runtime.control.profile_cache import ProfileCache, describe_device, hash_bundle
from tests.runtime.conftest import TINY

KEY = DeviceKey("bundle", "engine 1", "device", None, 1, 1)


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
    assert device.profile(seconds=0.5, progress=told.append).seconds < 3
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
    for field, value in [("threads", 2), ("batch", 8), ("device", "x"), ("backend", "y"), ("power_mode", "15W")]:
        assert cache.load(msgspec.structs.replace(KEY, **{field: value})) == (None, None)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: content[: len(content) // 2], "no profile that this version reads"),
        (lambda _content: b"", "no profile that this version reads"),
        (lambda _content: b"x" * 1_000_001, "larger than"),
        (lambda content: content.replace(b'"format_version":1', b'"format_version":2'), "format 2, expected 1"),
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


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    cache = ProfileCache(tmp_path / "file" / "below")
    assert "ADAPTRT_CACHE" in (cache.store(Device().profile()) or "")
    assert cache.load(KEY)[0] is None


def _store(folder: str, times: int) -> None:
    profile = Device().profile(seconds=0.0)
    for _ in range(times):
        assert ProfileCache(Path(folder)).store(profile) is None
        found, reason = ProfileCache(Path(folder)).load(KEY)
        assert found is not None, reason


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
    assert "cores" in describe_device()
    board = tmp_path / "proc" / "device-tree"
    board.mkdir(parents=True)
    (board / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    assert "NVIDIA Jetson Orin Nano" in describe_device(tmp_path)
    bundle = read_bundle(TINY)
    assert hash_bundle(bundle) == hash_bundle(read_bundle(TINY))
    assert hash_bundle(bundle) != hash_bundle(msgspec.structs.replace(bundle, name="other"))
