"""Profiles on disk, one file for each thing they hold for. What cannot be used is not used, and it is said why."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import msgspec

from adaptrt import write_atomically
from adaptrt.runtime.bundle.bundle_file import Bundle
from adaptrt.runtime.device.profile import FORMAT_VERSION, DeviceKey, Profile, check_profile
from adaptrt.runtime.errors import BudgetError, one_line

CACHE_VARIABLE = "ADAPTRT_CACHE"
_LARGEST = 1_000_000  # bytes
_REMEDY = f"set {CACHE_VARIABLE} to a folder that can be written"
_NO_FOLDER = (
    f"got no folder for caches ({CACHE_VARIABLE} or the home folder is missing, or names no folder), so profiles "
    f"are not kept; {_REMEDY}"
)


class _Version(msgspec.Struct):
    """Read first: another format has other keys."""

    format_version: int | None = None


def cache_folder() -> Path | None:
    """Where profiles lie: ``$ADAPTRT_CACHE`` (a ``~`` is the home folder), or the platform's folder for caches.

    None where there is none, as for a user whom the system does not know.
    """
    try:
        if named := os.environ.get(CACHE_VARIABLE):
            folder = Path(named)
            if folder.parts[0].startswith("~"):
                folder = folder.expanduser()
                if not Path(os.environ.get("HOME", "/")).is_absolute():
                    return None  # what the home folder is then no two libraries agree on
            return folder.absolute() / "profiles"
        from platformdirs import user_cache_path

        folder = user_cache_path("adaptrt")
    except (RuntimeError, KeyError, OSError):  # pathlib's and platformdirs' for an unknown user
        return None
    # Some versions leave a ~ as it is, or take an empty home for the root of the file system.
    root = os.environ.get("HOME") == "" and folder.parent == Path("/.cache")
    known = folder.is_absolute() and not any(part.startswith("~") for part in folder.parts) and not root
    return folder / "profiles" if known else None


def describe_device(root: Path = Path("/")) -> str:
    """The processor or board."""
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
    return f"{name.strip()}, {platform.system()}"


def hash_bundle(bundle: Bundle) -> str:
    """Hash of what ``bundle.json`` says, the hashes of its graphs among it."""
    return hashlib.sha256(msgspec.json.encode(bundle)).hexdigest()


class ProfileCache:
    """A folder of profiles; any number of processes may use it at once.

    Args:
        folder: Made when the first profile is stored; None takes ``cache_folder()``.

    Where there is no folder to be had, nothing is found and nothing kept, and both say why.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = cache_folder() if folder is None else folder

    def path(self, key: DeviceKey) -> Path | None:
        """The file of a profile; None where there is no folder."""
        if self._folder is None:
            return None
        return self._folder / f"{hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:32]}.json"

    def load(self, key: DeviceKey) -> tuple[Profile | None, str | None]:
        """The profile for exactly this, or None and, where there is a file that cannot be used, why."""
        path = self.path(key)
        if path is None:
            return None, _NO_FOLDER
        try:
            if path.exists() and not path.is_file():
                return None, f"{path} is no plain file; profiled again"  # a pipe would be waited for
            with path.open("rb") as file:
                content = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return None, None
        except OSError as error:
            return None, f"{path} cannot be read ({error.strerror}); profiled again"
        if len(content) > _LARGEST:
            return None, f"{path} is larger than {_LARGEST} bytes; profiled again"
        try:
            version = msgspec.json.decode(content, type=_Version).format_version
            if version != FORMAT_VERSION:
                return None, f"{path} has format {version}, expected {FORMAT_VERSION}; profiled again"
            profile = msgspec.json.decode(content, type=Profile)
            check_profile(profile)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BudgetError) as error:
            return None, f"{path} is no profile that this version reads ({one_line(error)}); profiled again"
        if profile.key != key:
            return None, f"{path} is the profile of another device or setting ({profile.key.device}); profiled again"
        return profile, None

    def store(self, profile: Profile) -> str | None:
        """Keep a profile; why it could not be kept, or None. Two processes may store at once: one of them wins."""
        path = self.path(profile.key)
        if path is None:
            return _NO_FOLDER
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, msgspec.json.encode(profile))
        except OSError as error:
            return f"cannot keep the profile in {path.parent} ({error.strerror}); {_REMEDY}"
        return None
