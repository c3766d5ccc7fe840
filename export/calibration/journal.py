"""The journal of a calibration: every finished pass, so that an interrupted search goes on where it was.

One JSON object per line. The first line says what the passes are of: the bundle's files and the data.
Every line carries a checksum; reading stops at the first that is damaged, such as the last one of a
process that was killed. What follows is written over.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from adaptrt.export.calibration.stage_records import StageRecords
from adaptrt.export.errors import CalibrationError, ExportError

if TYPE_CHECKING:
    from adaptrt.models.data.split import DataSplits
    from adaptrt.runtime.bundle.bundle_file import Bundle

JOURNAL_FILE = "calibration.journal.jsonl"  # its name in a bundle's folder
_FORMAT = 2


def calibration_key(bundle: Bundle, data: DataSplits) -> str:
    """What passes may be taken over for: the same files, knobs and data, 64 hexadecimal digits."""
    digest = hashlib.sha256(f"{_FORMAT} {bundle.exit_criterion} {bundle.task}".encode())
    for stage in bundle.stages:
        files = [stage.sha256, *(data_file.sha256 for data_file in stage.external_data)]
        digest.update(json.dumps(files).encode())
    for knob in bundle.knobs:
        digest.update(json.dumps([knob.name, knob.shape, knob.minimum, knob.maximum, knob.default]).encode())
    for split in (data.calibration, data.test):
        for array in (split.inputs, *split.others.values(), split.labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Journal:
    """Finished passes by name, on disk as soon as they are finished. Use as a context manager.

    Args:
        path: The file; None keeps the passes in memory only.
        key: Of ``calibration_key``; a file that another calibration left is written over.

    Raises:
        ExportError: The file cannot be written.
        CalibrationError: Another process is at work with it.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key
        self._passes: dict[str, StageRecords] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Journal:
        if self._path is None:
            return self
        with self._writing():
            self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise CalibrationError(
                    f"another calibration writes {self._path}, expected one at a time; wait for it or stop it"
                ) from error
            try:
                self._file.seek(self._read(self._file))
                self._file.truncate()
                if self._file.tell() == 0:
                    self._append({"format": _FORMAT, "key": self._key})
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            if not self._passes:
                self.remove()  # nothing to go on from
            with contextlib.suppress(OSError):  # what could not be written has been reported
                self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._passes)

    def get(self, name: str) -> StageRecords | None:
        """A finished pass, if it is."""
        return self._passes.get(name)

    def add(self, name: str, records: StageRecords) -> None:
        """Keep a finished pass.

        Raises:
            ExportError: It cannot be written.
        """
        self._passes[name] = records
        if self._file is not None:
            with self._writing():
                self._append({"name": name, "records": _encoded(records)})

    def remove(self) -> None:
        """Remove the file: its calibration has ended."""
        if self._path is not None and self._file is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _append(self, content: dict[str, Any]) -> None:
        assert self._file is not None
        line = json.dumps(content, sort_keys=True)
        self._file.write(json.dumps([_checksum(line), line]).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, file: IO[bytes]) -> int:
        """Take over what is whole and of this calibration; gives how many bytes that is."""
        size = 0
        for number, raw in enumerate(file):
            try:
                checksum, line = json.loads(raw)
                if checksum != _checksum(line) or not raw.endswith(b"\n"):
                    break
                content = json.loads(line)
                if number == 0:
                    if content != {"format": _FORMAT, "key": self._key}:
                        break
                else:
                    self._passes[content["name"]] = _decoded(content["records"])
            except (ValueError, TypeError, KeyError, AttributeError, zlib.error, binascii.Error):
                break
            size += len(raw)
        return size

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ExportError(
                f"cannot write {self._path}: {error.strerror or error}; the bundle is as it was, make room or make "
                "its folder writable and try again"
            ) from error


def _checksum(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()[:16]


def _encoded(records: StageRecords) -> dict[str, Any]:
    arrays = {
        "confidence": records.confidence.astype("<f4"),
        "loss": records.loss.astype("<f4"),
        "macs_fraction": records.macs_fraction.astype("<f4"),
        "quality": records.quality.astype("<f4"),
    }
    packed = {name: base64.b64encode(zlib.compress(array.tobytes(), 1)).decode() for name, array in arrays.items()}
    return {"shape": list(records.confidence.shape), **packed}


def _decoded(content: dict[str, Any]) -> StageRecords:
    shape = tuple(content["shape"])

    def array(name: str) -> npt.NDArray[np.float32]:
        return np.frombuffer(zlib.decompress(base64.b64decode(content[name])), "<f4").astype(np.float32)

    names = ("confidence", "quality", "loss", "macs_fraction")
    return StageRecords(**{name: array(name).reshape(shape) for name in names})
