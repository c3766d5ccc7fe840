"""How many processors this process may really use: affinity, physical cores, and the quota of its control group.

``os.cpu_count()`` tells the host's, a container's share is elsewhere: ``cpu.max`` of every control group above the
process (cgroup v2), or ``cpu.cfs_quota_us`` over ``cpu.cfs_period_us`` (v1).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from adaptrt.runtime.errors import BackendError

_SMALLEST_QUOTA = 0.001


@dataclass(frozen=True)
class Processors:
    """What the system grants.

    Attributes:
        usable: logical processors that the process may run on.
        cores: physical cores among them.
        quota: processors' worth of time by the control groups; None without a limit.
    """

    usable: int
    cores: int
    quota: float | None

    @property
    def threads(self) -> int:
        """How many threads are worth having: one per core, no more than the quota feeds, at least one.

        A share of a processor is left out: threads that wait for each other use up the quota waiting.
        """
        return max(self.cores if self.quota is None else min(self.cores, int(self.quota)), 1)


def granted_processors(root: Path = Path("/")) -> Processors:
    """What is granted now; quotas may change while the process runs."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not everywhere
    usable = os.sched_getaffinity(0) if has_affinity else set(range(os.cpu_count() or 1))
    return Processors(len(usable), _physical(usable, root), cpu_quota(root))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that the control groups of this process grant; None without a limit."""
    quotas = [quota for folder, version in _control_groups(root) if (quota := _quota_of(folder, version)) is not None]
    return max(min(quotas), _SMALLEST_QUOTA) if quotas else None


def check_startable(threads: int) -> None:
    """Refuse a number of threads that the system does not let this process start.

    Engines start their threads in constructors that wait for ever where the system refuses one (ONNX Runtime 1.32
    under a limit of processes), so as many are started and ended here first. Another process may still take the
    room in between.

    Raises:
        BackendError: one was refused.
    """
    end = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(threads - 1):  # the caller's own is one of them
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise BackendError(
            f"got threads={threads}, but the system lets this process start only {len(started)} more, expected "
            f"{threads - 1}; pass threads={len(started) // 2 + 1}, or raise the limit (the container's pids, ulimit -u)"
        ) from None
    finally:
        end.set()
        for thread in started:
            thread.join()


def _physical(usable: set[int], root: Path) -> int:
    """Cores that the logical processors belong to; where nothing tells, each is taken for one."""
    cores = set()
    for number in usable:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        cores.add(_text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list") or str(number))
    return max(len(cores), 1)


def _control_groups(root: Path) -> Iterator[tuple[Path, int]]:
    """The folders of the control groups that limit this process's processors, and the version of their files."""
    mounts = [line.split() for line in _text(root / "proc/self/mountinfo").splitlines()]
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        unified = hierarchy == "0" and not controllers
        if not unified and "cpu" not in controllers.split(","):
            continue
        for fields in mounts:
            if "-" not in fields[6:]:
                continue
            kind, _, options = fields[fields.index("-", 6) + 1 :][:3]
            if unified and kind == "cgroup2":
                yield from ((folder, 2) for folder in _upwards(root, fields[4], fields[3], path))
            if not unified and kind == "cgroup" and "cpu" in options.split(","):
                yield from ((folder, 1) for folder in _upwards(root, fields[4], fields[3], path))


def _upwards(root: Path, mount: str, mounted: str, path: str) -> Iterator[Path]:
    """A control group's folder and those above it, up to where the hierarchy is mounted.

    In a container the path may be the host's while only the container's part is mounted, or lead out of it: then
    what is mounted is the group.
    """
    group, top = PurePosixPath(path), PurePosixPath(mounted)
    below = group.relative_to(top) if ".." not in group.parts and group.is_relative_to(top) else PurePosixPath()
    base = root / mount.lstrip("/")
    for parts in range(len(below.parts), -1, -1):
        yield base.joinpath(*below.parts[:parts])


def _quota_of(folder: Path, version: int) -> float | None:
    if version == 2:
        quota, _, period = _text(folder / "cpu.max").partition(" ")
    else:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    try:
        granted, every = int(quota), int(period)
    except ValueError:
        return None  # "max", or no such file
    return granted / every if granted > 0 and every > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
