"""Which of nvpmodel's power modes a Jetson is set to.

``/etc/nvpmodel.conf`` lists the modes, ``< POWER_MODEL ID=2 NAME=15W >``: "Supported Modes and Power
Efficiency" in the Jetson Linux Developer Guide; a whole block in github.com/rbonghi/jetson_stats, issue 130.
``/var/lib/nvpmodel/status`` holds what nvpmodel wrote last, ``pmode:0002`` with ``fmode:quiet`` behind it on
some releases; NVIDIA documents the tool and not this file (github.com/almond-bot/axol, pull request 220,
writes it, too). Everyone may read both files, while ``nvpmodel -q`` wants root on some releases
(github.com/NVIDIA-AI-IOT/jetbot, issue 49).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from adaptrt.runtime.telemetry.reading import PowerMode
from adaptrt.runtime.telemetry.sensor_file import exists

_STATUS = re.compile(rb"\bpmode:\s*(\d{1,9})\b")
_MODEL = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d{1,9})\s+NAME=(\S{1,64})\s*>", re.MULTILINE)
_LARGEST_CONFIGURATION = 1 << 20


class NvpModel:
    """The status file, looked at anew at each reading, and the names of the modes.

    It says which mode was set, not whether the clocks obey: where the tool failed at boot they may not.
    """

    def __init__(self, status: Path, names: dict[int, str]) -> None:
        self._status = status
        self._names = names

    @staticmethod
    def find(root: Path) -> NvpModel | None:
        """None where neither of nvpmodel's files is there."""
        status = root / "var/lib/nvpmodel/status"
        try:
            with (root / "etc/nvpmodel.conf").open("rb") as file:
                configuration = file.read(_LARGEST_CONFIGURATION).decode("utf-8", "replace")
        except OSError:
            configuration = ""
        names = {int(number): name for number, name in _MODEL.findall(configuration)}
        return NvpModel(status, names) if names or exists(status) else None

    def read(self, problems: list[str]) -> PowerMode | None:
        """The mode that is set; None, and a line in ``problems``, where that is not known."""
        try:
            # Opened anew each time: a descriptor that is kept would show the old file if it is replaced.
            descriptor = os.open(self._status, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                text = os.read(descriptor, 256)
            finally:
                os.close(descriptor)
        except OSError as error:
            problems.append(f"power mode: {error.strerror} ({self._status})")
            return None
        match = _STATUS.search(text)
        if match is None:
            problems.append(f"power mode: got {text[:40]!r}, expected pmode:0000 or the like ({self._status})")
            return None
        number = int(match[1])
        return PowerMode(self._names.get(number), number)
