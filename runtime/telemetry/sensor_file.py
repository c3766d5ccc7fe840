"""One number in one file, as the kernel shows a sensor."""

from __future__ import annotations

import errno
import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

_LONGEST_NUMBER = 64
_LONGEST_SHOWN = 40

# What the kernel answers for a sensor whose part of the chip is switched off (Orin's gpu-thermal with an
# idle GPU), whose channel is disabled (an INA3221 input), or whose core is offline.
_ASLEEP = frozenset({errno.EAGAIN, errno.ENODATA, errno.EBUSY, errno.ENXIO})


@dataclass(frozen=True)
class Quantity:
    """A physical quantity and what one may believe of it.

    Attributes:
        unit: of the scaled value, for messages.
        scale: what one unit of the file's number is worth.
        lowest, highest: a value outside of these is garbage; NaN is, too.
    """

    unit: str
    scale: float
    lowest: float
    highest: float


VOLTAGE = Quantity("V", 1e-3, 0.0, 1e3)
CURRENT = Quantity("A", 1e-3, -1e3, 1e3)
POWER_MILLI = Quantity("W", 1e-3, -1e4, 1e4)
POWER_MICRO = Quantity("W", 1e-6, -1e4, 1e4)
# Zones that are switched off show -256 (Orin with JetPack 5) or 0 K.
TEMPERATURE = Quantity("°C", 1e-3, -60.0, 250.0)
CLOCK_KILO = Quantity("Hz", 1e3, 0.0, 1e11)
CLOCK = Quantity("Hz", 1.0, 0.0, 1e11)
FAN = Quantity("rpm", 1.0, 0.0, 1e6)
ENERGY = Quantity("J", 1e-6, 0.0, 1e15)


class KeptFile:
    """A short file that is read again and again through one open descriptor.

    The descriptor stays open because reading through it costs a fifth of opening anew (0.4 µs to 2.2 µs
    on x86), and because a process may open its sensors and then give up its rights. Reads are
    positioned: threads and forked processes may share the descriptor. A device that went away answers
    with an error; the descriptor is dropped then and the path opened again at the next read.
    """

    __slots__ = ("_complaint", "_descriptor", "name", "path")

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self._descriptor = -1
        self._complaint: tuple[int | None, str] = (None, "")

    def text(self, problems: list[str]) -> bytes | None:
        """What the file says now; None, and a line in ``problems``, if it cannot be read."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            return os.pread(self._descriptor, _LONGEST_NUMBER, 0)
        except OSError as error:
            if error.errno not in _ASLEEP:
                self.close()
            problems.append(self._refusal(error))
            return None

    @property
    def denied(self) -> bool:
        """Whether the last failure was one of rights."""
        return self._complaint[0] in (errno.EACCES, errno.EPERM)

    def close(self) -> None:
        """Close the descriptor; the next read opens the file again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def _refusal(self, error: OSError) -> str:
        # The same line at every reading: made once, since an idle GPU's thermometer is off most of the time.
        if self._complaint[0] != error.errno:
            if error.errno in _ASLEEP:
                said = f"{self.name}: no value, its part of the chip is off ({os.strerror(error.errno or 0)})"
            else:
                said = f"{self.name}: {error.strerror or type(error).__name__} ({self.path})"
            self._complaint = (error.errno, said)
        return self._complaint[1]


class SensorFile(KeptFile):
    """A number in a file."""

    __slots__ = ("quantity",)

    def __init__(self, path: Path, name: str, quantity: Quantity) -> None:
        super().__init__(path, name)
        self.quantity = quantity

    def read(self, problems: list[str]) -> float | None:
        """The value in the quantity's unit; None, and a line in ``problems``, if there is none."""
        text = self.text(problems)
        if text is None:
            return None
        quantity = self.quantity
        try:
            value = float(text) * quantity.scale
        except ValueError:
            problems.append(f"{self.name}: got {_shown(text)}, expected a number ({self.path})")
            return None
        if not quantity.lowest <= value <= quantity.highest:
            problems.append(f"{self.name}: got {value:.6g} {quantity.unit}, which no sensor means ({self.path})")
            return None
        return value


def exists(path: Path) -> bool:
    """Whether something is there, as far as one may look."""
    try:
        return path.exists()
    except OSError:
        return False


def read_text(path: Path) -> str | None:
    """A short text such as a label, without the line's end; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_NUMBER * 4).decode("utf-8", "replace").strip("\0\n\r\t ")
    except OSError:
        return None


def listed(folder: Path, pattern: str) -> list[Path]:
    """What matches in a folder, numbers in their order; nothing if it cannot be listed."""
    try:
        return sorted(folder.glob(pattern), key=lambda path: (len(str(path)), str(path)))
    except OSError:
        return []


def unused(name: str, taken: Container[str]) -> str:
    """A name that is not taken: the name itself, or with `` 2``, `` 3`` … behind."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} {number}"
    return free


def _shown(text: bytes) -> str:
    shown = repr(text.decode("utf-8", "replace"))
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
