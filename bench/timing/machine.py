"""What a measurement was made with: machine, packages, commit, command. No host names, no paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FLAGS = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2"),
)
_RESULTS = "bench/results"
_PACKAGES = ("numpy", "onnxruntime", "onnx", "torch")


def describe_machine() -> dict[str, Any]:
    """The processor, memory, system and packages, for the JSON of a measurement."""
    cpuinfo = _read(Path("/proc/cpuinfo"))
    return {
        "cpu": _cpu_model(cpuinfo),
        "cores": usable_cores(),
        "flags": _flags(cpuinfo),
        "memory_gib": _memory_gib(),
        "os": _operating_system(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def describe_source(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command that is running and the commit it runs from.

    Args:
        arguments: The program and what follows it; None takes this process's own.

    Returns:
        ``command``, absolute paths cut to their last part; ``commit``, None outside a checkout of this
        project; ``modified``, whether the files differ from that commit (earlier results do not count).
    """
    root = Path(__file__).resolve().parents[2]
    commit, modified = None, None
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == root:  # else the checkout of whoever installed this
        commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
        changes = _git(root, "status", "--porcelain", "--", ".", f":(exclude){_RESULTS}")
        modified = None if changes is None else bool(changes)
    return {"command": _command(arguments), "commit": commit, "modified": modified}


def _command(arguments: Sequence[str] | None) -> str:
    if arguments is None:
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        program = ["python", "-m", spec.name] if spec is not None else [Path(sys.argv[0]).name]
        arguments = [*program, *sys.argv[1:]]
    return shlex.join(_without_folders(argument) for argument in arguments)


def _without_folders(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").replace("\0", "")
    except OSError:
        return ""


def _field(cpuinfo: str, *names: str) -> str | None:
    for name in names:
        found = re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
        if found:
            return found.group(1).strip()
    return None


def _cpu_model(cpuinfo: str) -> str:
    """Arm processors have no name in cpuinfo; the board's is the next best."""
    board = _read(Path("/proc/device-tree/model")).strip()
    return _field(cpuinfo, "model name") or board or platform.processor() or platform.machine()


def _flags(cpuinfo: str) -> list[str]:
    have = set((_field(cpuinfo, "flags", "Features") or "").split())
    return [flag for flag in _FLAGS if flag in have]


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _operating_system() -> str:
    """Distribution and kernel; the kernel's numbers only, for builders put names behind them."""
    numbers = re.match(r"\d+(\.\d+)*", platform.release())
    kernel = f"{platform.system()} {numbers.group() if numbers else ''}".strip()
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}, {platform.machine()}"
    except (OSError, KeyError):
        return f"{kernel}, {platform.machine()}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
