"""One number in one file, and everything that a sensor may do instead of giving one."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptrt.runtime.telemetry.sensor_file import ENERGY, FAN, TEMPERATURE, VOLTAGE, SensorFile, unused


def read(path: Path) -> tuple[float | None, list[str]]:
    problems: list[str] = []
    return SensorFile(path, "tj-thermal", TEMPERATURE).read(problems), problems


def test_a_number_comes_in_its_unit(tmp_path: Path) -> None:
    path = tmp_path / "temp"
    path.write_text("47406\n")
    assert read(path) == (pytest.approx(47.406), [])


def test_each_read_sees_what_the_file_says_then(tmp_path: Path) -> None:
    path = tmp_path / "in1_input"
    path.write_text("19800\n")
    sensor = SensorFile(path, "VDD_IN", VOLTAGE)
    assert sensor.read([]) == pytest.approx(19.8)
    path.write_text("4968\n")
    assert sensor.read([]) == pytest.approx(4.968)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got ''"),
        (b"\n", r"got '\\n'"),
        (b"<unknown>\n", "got '<unknown>"),
        (b"12 34\n", "got '12 34"),
        (b"\x00\xff\x80", "expected a number"),
        (b"nan\n", "which no sensor means"),
        (b"inf\n", "which no sensor means"),
        (b"-256000\n", "got -256 °C"),
        (b"9" * 5000, "which no sensor means"),
        (b"x" * 5000, "expected a number"),
    ],
)
def test_garbage_is_absent_and_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "temp"
    path.write_bytes(content)
    value, problems = read(path)
    assert value is None
    (problem,) = problems
    assert said.replace("\\\\", "\\") in problem and problem.startswith("tj-thermal: ")
    assert "\n" not in problem and len(problem) < 400


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(content=st.one_of(st.binary(max_size=80), st.integers().map(lambda n: f"{n}\n".encode())))
def test_whatever_is_there_gives_a_number_or_a_problem(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "temp"
    path.write_bytes(content)
    value, problems = read(path)
    assert (value is None) == (len(problems) == 1)
    assert value is None or -60 <= value <= 250


def test_a_file_that_is_not_there_and_then_is(tmp_path: Path) -> None:
    sensor = SensorFile(tmp_path / "temp", "cpu", TEMPERATURE)
    problems: list[str] = []
    assert sensor.read(problems) is None
    assert problems == [f"cpu: No such file or directory ({tmp_path / 'temp'})"]
    (tmp_path / "temp").write_text("40000\n")
    assert sensor.read([]) == pytest.approx(40)


def test_a_folder_or_a_pipe_in_its_place_neither_raises_nor_waits(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        value, problems = read(tmp_path / name)
        assert value is None and len(problems) == 1


def test_a_sensor_that_goes_away_while_it_is_open() -> None:
    """The kernel's own file of a process that ends: it was open, and then there is nothing behind it."""
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    sensor = SensorFile(Path(f"/proc/{child.pid}/oom_score"), "child", FAN)
    problems: list[str] = []
    try:
        assert sensor.read(problems) is not None
    finally:
        child.communicate(timeout=60)
    assert sensor.read(problems) is None and sensor.read(problems) is None
    assert len(problems) == 2 and "No such process" in problems[0] and "No such file" in problems[1]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ETIMEDOUT, "Connection timed out"),
        (errno.ENODEV, "No such device"),
        (errno.EIO, "Input/output error"),
        (errno.EAGAIN, "its part of the chip is off"),
        (errno.ENODATA, "its part of the chip is off"),
    ],
)
def test_a_chip_that_refuses_is_absent_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    """Orin's gpu-thermal answers EAGAIN while the GPU is off, an I2C chip ETIMEDOUT or EIO."""
    path = tmp_path / "temp"
    path.write_text("43000\n")
    sensor = SensorFile(path, "gpu-thermal", TEMPERATURE)

    def refuse(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    problems: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refuse)
        assert sensor.read(problems) is None and sensor.read(problems) is None
    assert len(problems) == 2 and problems[0] == problems[1] and said in problems[0]
    assert sensor.read(problems) == pytest.approx(43)


def test_rights_are_asked_once_when_it_is_opened(ordinary_user: Path) -> None:
    path = ordinary_user / "energy_uj"
    path.write_text("1000000\n")
    path.chmod(0)
    refused = SensorFile(path, "package-0", ENERGY)
    problems: list[str] = []
    assert refused.read(problems) is None and refused.denied
    assert problems == [f"package-0: Permission denied ({path})"]
    path.chmod(0o444)
    assert refused.read([]) == pytest.approx(1)
    path.chmod(0)
    assert refused.read([]) == pytest.approx(1)


def test_a_closed_sensor_holds_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "temp"
    path.write_text("1\n")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a listing by Path opens more
    sensors = [SensorFile(path, "a", TEMPERATURE) for _ in range(3)]
    for sensor in sensors:
        sensor.read([])
    assert len(os.listdir("/proc/self/fd")) == before + 3  # noqa: PTH208
    sensors[0].close()
    del sensors, sensor
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_names_are_told_apart() -> None:
    assert unused("acpitz", {}) == "acpitz"
    assert unused("acpitz", {"acpitz": 1, "acpitz 2": 2}) == "acpitz 3"
