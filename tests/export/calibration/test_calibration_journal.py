"""The journal: whole passes come back, anything damaged, stale or half-written does not."""

import dataclasses
import errno
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adaptrt.export.calibration.journal import Journal, calibration_key
from adaptrt.export.calibration.stage_records import StageRecords
from adaptrt.export.errors import CalibrationError, ExportError
from adaptrt.models.data.split import Split
from tests.export.fake_bundle import ALL, PRICE, FakeModel, fake_data


def records(seed: int, samples: int = 37) -> StageRecords:
    generator = np.random.default_rng(seed)
    floats = generator.random((3, 2, samples), dtype=np.float32)
    floats[0, 0, 0] = np.nan
    return StageRecords(floats[0], generator.random((2, samples)) < 0.5, floats[1], floats[2])


def same(one: StageRecords | None, other: StageRecords) -> bool:
    return one is not None and all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name), equal_nan=True)
        for field in dataclasses.fields(other)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with three passes."""
    file = tmp_path / "journal"
    with Journal(file, "key") as journal:
        for number in range(3):
            journal.add(f"pass {number}", records(number))
    return file


def test_passes_come_back_to_the_bit(path: Path) -> None:
    with Journal(path, "key") as journal:
        assert len(journal) == 3
        assert all(same(journal.get(f"pass {number}"), records(number)) for number in range(3))
        assert journal.get("pass 3") is None
        journal.add("pass 3", records(3))
    with Journal(path, "key") as journal:
        assert same(journal.get("pass 3"), records(3)) and same(journal.get("pass 0"), records(0))


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_truncated_last_line_is_written_over(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, "key") as journal:
        assert len(journal) == 2
        journal.add("pass 2", records(2))
    with Journal(path, "key") as journal:
        assert len(journal) == 3 and same(journal.get("pass 2"), records(2))


def test_reading_stops_at_a_damaged_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    middle = len(lines[2]) // 2
    lines[2] = lines[2][:middle] + (b"A" if lines[2][middle : middle + 1] != b"A" else b"B") + lines[2][middle + 1 :]
    path.write_bytes(b"".join(lines))
    with Journal(path, "key") as journal:
        assert len(journal) == 1 and same(journal.get("pass 0"), records(0))
    assert path.read_bytes() == b"".join(lines[:2])


@pytest.mark.parametrize("content", [b"", b"\n", b"[]\n", b"nothing\n", b"\xff\x00", b'["0", "{}"]\n'])
def test_another_file_of_that_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with Journal(path, "key") as journal:
        assert not len(journal)
        journal.add("one", records(1))
    with Journal(path, "key") as journal:
        assert same(journal.get("one"), records(1))


def test_another_calibrations_passes_are_ignored(path: Path) -> None:
    with Journal(path, "other key") as journal:
        assert not len(journal)
        journal.add("pass 0", records(9))
    with Journal(path, "other key") as journal:
        assert len(journal) == 1 and same(journal.get("pass 0"), records(9))


def test_one_at_a_time(path: Path) -> None:
    before = path.read_bytes()
    with Journal(path, "key") as journal:
        with pytest.raises(CalibrationError, match="another calibration writes .*, expected one at a time"):
            Journal(path, "other key").__enter__()
        assert len(journal) == 3
    assert path.read_bytes() == before


def test_a_journal_without_passes_leaves_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", "key"):
        pass
    assert not list(tmp_path.iterdir())


def test_memory_is_enough() -> None:
    with Journal(None, "key") as journal:
        journal.add("one", records(1))
        assert same(journal.get("one"), records(1)) and len(journal) == 1


def test_no_space_left(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(path, "key") as journal:
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(ExportError, match="cannot write .*: No space left on device; the bundle is as it was"):
            journal.add("pass 3", records(3))
    with pytest.raises(ExportError, match="No space left"):
        Journal(tmp_path / "new", "key").__enter__()
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot write .*: No such file"):
        Journal(tmp_path / "nowhere" / "journal", "key").__enter__()


def test_the_key_tells_files_knobs_and_data_apart() -> None:
    bundle, data = FakeModel(*ALL).bundle, fake_data(20)
    key = calibration_key(bundle, data)
    assert key == calibration_key(FakeModel(*ALL).bundle, fake_data(20))
    assert key == calibration_key(msgspec.structs.replace(bundle, name="renamed", curve=[]), data)
    stages = [msgspec.structs.replace(stage, sha256="a" * 64) for stage in bundle.stages[:1]] + bundle.stages[1:]
    wider = [msgspec.structs.replace(PRICE, maximum=9.0), *bundle.knobs[1:]]
    flipped = Split(data.test.inputs, data.test.labels[::-1].copy())
    others = [
        calibration_key(msgspec.structs.replace(bundle, stages=stages), data),
        calibration_key(msgspec.structs.replace(bundle, stages=bundle.stages[::-1]), data),
        calibration_key(msgspec.structs.replace(bundle, knobs=wider), data),
        calibration_key(bundle, fake_data(20, seed=1)),
        calibration_key(bundle, dataclasses.replace(data, test=flipped)),
    ]
    assert len({key, *others}) == 6
