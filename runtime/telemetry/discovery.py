"""Which sensors a machine has, found out once."""

from __future__ import annotations

from pathlib import Path

from adaptrt.runtime.errors import TelemetryError, shown
from adaptrt.runtime.telemetry.reading import Reader


def find_sensors(root: str | Path = "/") -> tuple[Reader, ...]:
    """The readers that have something to read, or something to say about why they have not.

    Args:
        root: the folder in which ``sys``, ``etc``, ``var`` lie; another than "/" is for trees that are laid
            out as a device's, or a host's file system seen from a container. GPUs under NVML belong to
            "/" only.

    Raises:
        TelemetryError: ``root`` is no folder. A machine without sensors is no error.
    """
    # Most processes never ask for sensors, and pay for no module that reads them.
    from adaptrt.runtime.telemetry.jetson import JetsonReader
    from adaptrt.runtime.telemetry.linux import LinuxReader
    from adaptrt.runtime.telemetry.nvml import NvmlReader
    from adaptrt.runtime.telemetry.rapl import RaplReader

    folder = Path(root)
    if not folder.is_dir():
        raise TelemetryError(f"got {shown(str(root))} as the root of the sensors; expected a folder, such as /")
    readers = (JetsonReader.find(folder), LinuxReader.find(folder), RaplReader.find(folder), NvmlReader.find(folder))
    return tuple(reader for reader in readers if reader is not None)
