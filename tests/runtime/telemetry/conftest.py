"""What the tests of telemetry share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def ordinary_user() -> Iterator[Path]:
    """A folder whose files are read with an ordinary user's rights, also where the tests run as root."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    was_root = os.geteuid() == 0
    try:
        if was_root:
            os.chown(root, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        yield root
    finally:
        if was_root:
            os.seteuid(0)
        shutil.rmtree(root)
