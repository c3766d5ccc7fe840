"""Writing so that a reader finds the old content or the new, never a part: files and whole folders."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from adaptrt import write_atomically
from adaptrt.export.calibration.journal import JOURNAL_FILE
from adaptrt.export.errors import ExportError
from adaptrt.export.parity.reference import GOLDEN_FILE
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, MAX_BUNDLE_BYTES, PreprocessingFile
from adaptrt.runtime.bundle.bundle_files import bundle_root, read_file, read_preprocessing
from adaptrt.runtime.bundle.engine_files import ENGINES
from adaptrt.runtime.bundle.expectations import Invalid
from adaptrt.runtime.bundle.json_form import decode_bundle
from adaptrt.runtime.errors import BundleError

_OURS = (BUNDLE_FILE, GOLDEN_FILE, JOURNAL_FILE, "bench.json", "frontier.*", "*.onnx", "*.onnx.data", ENGINES)
"""What a bundle's folder holds that an export, a calibration, a benchmark or a build of engines wrote."""

_SUFFIX = ".partial"
_LOCK = ".lock"


def write_file(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there.

    Raises:
        ExportError: It cannot be written; the old file, if any, is untouched.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise _unwritable(path, error) from error


def check_replaceable(output: Path) -> None:
    """Refuse to replace what is not a bundle, or holds files that no export wrote.

    Raises:
        ExportError: ``output`` is a file, or a folder with something else in it.
    """
    try:
        if not output.is_dir():
            if output.exists():
                raise ExportError(f"{output} is a file, expected a folder or nothing; choose another output")
            return
        files = list(output.iterdir())
    except OSError as error:
        raise _unwritable(output, error) from error
    if files and not (output / BUNDLE_FILE).is_file():
        raise ExportError(
            f"{output} is a folder with other content and no {BUNDLE_FILE}, expected a bundle, an empty folder "
            "or none; choose another output"
        )
    listed = _preprocessing_files(output) if files else set()
    foreign = sorted(
        path.name for path in files if path.name not in listed and not any(path.match(pattern) for pattern in _OURS)
    )
    if foreign:
        raise ExportError(
            f"{output} holds {foreign[0]!r}, expected nothing but a bundle, since an export replaces the whole "
            "folder; move it away or choose another output"
        )


def write_preprocessing(folder: Path, file: str, content: bytes, role: str) -> PreprocessingFile:
    """Write a file that makes inputs, such as a tokenizer's, into a bundle's folder; its entry for ``Bundle.files``.

    Raises:
        ExportError: It cannot be written.
    """
    write_file(folder / file, content)
    return PreprocessingFile(file, hashlib.sha256(content).hexdigest(), role)


def _preprocessing_files(output: Path) -> set[str]:
    """Those files that an export wrote because the bundle lists them; none where they are not what it wrote."""
    try:
        root = bundle_root(output)
        listed = decode_bundle(read_file(root, BUNDLE_FILE, limit=MAX_BUNDLE_BYTES)).files
    except (BundleError, Invalid):
        return set()
    names = set()
    for entry in listed:
        with contextlib.suppress(BundleError):
            read_preprocessing(root, entry)
            names.add(entry.file)
    return names


@contextlib.contextmanager
def staged_folder(output: Path, check: Callable[[Path], None] = check_replaceable) -> Iterator[Path]:
    """Give a folder to write into that takes the place of ``output`` when the block ends without error.

    It stands beside ``output``, on the same file system. On an error or an interrupt it is removed and
    ``output`` stays as it was; what a killed process left behind is removed by the next export.

    Args:
        output: Folder to be.
        check: Refuses to replace what it must not.

    Raises:
        ExportError: ``check`` refuses, or nothing can be written there.
    """
    check(output)
    partial: Path | None = None
    with contextlib.ExitStack() as stack:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(output)
            partial = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=_SUFFIX))
            stack.callback(shutil.rmtree, partial, ignore_errors=True)
            partial.chmod(0o755)
            stack.enter_context(_locked(partial))
            yield partial
            (partial / _LOCK).unlink()
            _swap(partial, output)
        except OSError as error:
            raise _unwritable(output, error) from error
        except ExportError as error:
            if isinstance(error.__cause__, OSError):  # name the output, not the place it was being written to
                raise _unwritable(output, error.__cause__) from error
            raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock for as long as this process works in the folder; it ends with the process, however that ends."""
    with (folder / _LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _remove_leftovers(output: Path) -> None:
    """Remove what killed exports of this very output left; those still at work hold their lock."""
    pattern = f".{glob.escape(output.name)}.{'[0-9a-z_]' * 8}{_SUFFIX}"
    for leftover in output.parent.glob(pattern):
        with contextlib.suppress(OSError), _locked(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


def _swap(partial: Path, output: Path) -> None:
    """Put ``partial`` in the place of ``output``; on any error or interrupt the old folder is put back."""
    if not output.exists():
        partial.rename(output)
        return
    old = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=_SUFFIX)) / "old"
    try:
        output.rename(old)
        partial.rename(output)
    except BaseException:
        if old.exists() and not output.exists():
            old.rename(output)
        raise
    finally:
        if output.exists():
            shutil.rmtree(old.parent, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> ExportError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExportError(f"no space left while writing {path}; nothing was changed, free some space and try again")
    reason = error.strerror or str(error) or os.strerror(error.errno or 0)
    return ExportError(f"cannot write {path}: {reason}; nothing was changed, choose another output")
