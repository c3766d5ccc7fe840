"""Writing so that a reader finds the old content or the new, never a part: files and whole folders."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from adaptrt import write_atomically
from adaptrt.export.errors import ExportError
from adaptrt.runtime.bundle import BUNDLE_FILE


def write_file(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there.

    Raises:
        ExportError: It cannot be written; the old file, if any, is untouched.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise _unwritable(path, error) from error


@contextlib.contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """Give a folder to write into that takes the place of ``output`` when the block ends without error.

    It stands beside ``output``, on the same file system. On an error or an interrupt it is removed and
    ``output`` stays as it was; what a killed process left behind is removed by the next export.

    Raises:
        ExportError: ``output`` exists and is no bundle, or nothing can be written there.
    """
    check_replaceable(output)
    partial: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        for leftover in output.parent.glob(f".{output.name}.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=".partial"))
        partial.chmod(0o755)
        yield partial
        _swap(partial, output)
    except OSError as error:
        raise _unwritable(output, error) from error
    except ExportError as error:
        if isinstance(error.__cause__, OSError):  # name the output, not the place it was being written to
            raise _unwritable(output, error.__cause__) from error
        raise
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(output: Path) -> None:
    """Refuse to replace what is not a bundle.

    Raises:
        ExportError: ``output`` is a file, or a folder with something in it and no ``bundle.json``.
    """
    if output.is_dir():
        if any(output.iterdir()) and not (output / BUNDLE_FILE).is_file():
            raise ExportError(
                f"{output} is a folder with other content and no {BUNDLE_FILE}, expected a bundle, an empty folder "
                "or none; choose another output"
            )
    elif output.exists():
        raise ExportError(f"{output} is a file, expected a folder or nothing; choose another output")


def _swap(partial: Path, output: Path) -> None:
    if not output.exists():
        partial.rename(output)
        return
    old = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=".partial"))
    output.rename(old / "old")
    try:
        partial.rename(output)
    except OSError:
        (old / "old").rename(output)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> ExportError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExportError(f"no space left while writing {path}; nothing was changed, free some space and try again")
    return ExportError(f"cannot write {path}: {error.strerror or error}; nothing was changed, choose another output")
