"""Profiles on disk, one file for each thing they hold for. What cannot be used is not used, and it is said why."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import msgspec

from adaptrt import write_atomically
from adaptrt.runtime.bundle import Bundle
from adaptrt.runtime.control.profile import FORMAT_VERSION, DeviceKey, Profile

CACHE_VARIABLE = "ADAPTRT_CACHE"
_LARGEST = 1_000_000  # bytes


def cache_folder() -> Path:
    """Where profiles lie: ``$ADAPTRT_CACHE``, or the platform's folder for caches."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named) / "profiles"
    from platformdirs import user_cache_path

    return user_cache_path("adaptrt") / "profiles"


def describe_device(root: Path = Path("/")) -> str:
    """The processor or board, and how many cores this process may use."""
    name = platform.machine()
    model = root / "proc/device-tree/model"
    cpuinfo = root / "proc/cpuinfo"
    try:
        if model.is_file():
            name += " " + model.read_bytes()[:200].split(b"\0")[0].decode(errors="replace")
        elif cpuinfo.is_file():
            lines = cpuinfo.read_text(errors="replace").splitlines()
            name += " " + next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass  # what cannot be read does not tell devices apart
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name.strip()}, {cores} cores, {platform.system()}"


def hash_bundle(bundle: Bundle) -> str:
    """Hash of what ``bundle.json`` says, the hashes of its graphs among it."""
    return hashlib.sha256(msgspec.json.encode(bundle)).hexdigest()


class ProfileCache:
    """A folder of profiles; any number of processes may use it at once.

    Args:
        folder: Made when the first profile is stored; None takes ``cache_folder()``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = cache_folder() if folder is None else folder

    def path(self, key: DeviceKey) -> Path:
        """The file of a profile."""
        return self._folder / f"{hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:32]}.json"

    def load(self, key: DeviceKey) -> tuple[Profile | None, str | None]:
        """The profile for exactly this, or None and, where there is a file that cannot be used, why."""
        path = self.path(key)
        try:
            with path.open("rb") as file:
                content = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return None, None
        except OSError as error:
            return None, f"{path} cannot be read ({error.strerror}); profiled again"
        if len(content) > _LARGEST:
            return None, f"{path} is larger than {_LARGEST} bytes; profiled again"
        try:
            profile = msgspec.json.decode(content, type=Profile)
            profile.curve()
        except Exception as error:  # msgspec's and BudgetError, and whatever odd numbers cause
            return None, f"{path} is no profile that this version reads ({error}); profiled again"
        if profile.format_version != FORMAT_VERSION:
            return None, f"{path} has format {profile.format_version}, expected {FORMAT_VERSION}; profiled again"
        if profile.key != key:
            return None, f"{path} is the profile of another device or setting ({profile.key.device}); profiled again"
        return profile, None

    def store(self, profile: Profile) -> str | None:
        """Keep a profile; why it could not be kept, or None. Two processes may store at once: one of them wins."""
        path = self.path(profile.key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, msgspec.json.encode(profile))
        except OSError as error:
            return (
                f"cannot keep the profile in {path.parent} ({error.strerror}); set {CACHE_VARIABLE} to a folder "
                "that can be written"
            )
        return None
