"""Paths that the operating system refuses to look at: one line, exit code 2, nothing written."""

from __future__ import annotations

import errno
import importlib
import os

import pytest

LONG = "x" * 5000
"""Longer than a name, and than a whole path, may be."""


@pytest.fixture
def words(model_folder, exported, pixels, tmp_path):
    """What stands for a name in the arguments below."""
    return {"MODEL": model_folder, "BUNDLE": exported[0], "PIXELS": pixels, "TMP": tmp_path / "new"}


@pytest.mark.parametrize(
    "args",
    [
        ["export", LONG],
        ["export", "MODEL", "--data", f"{LONG}.npz"],
        ["export", "MODEL", "--output", LONG],
        ["calibrate", "BUNDLE", "--data", f"{LONG}.npz"],
        ["calibrate", LONG],
        ["verify", LONG],
        ["inspect", LONG],
        ["run", LONG, "PIXELS"],
        ["run", "BUNDLE", f"{LONG}.npy"],
        ["run", "BUNDLE", f"{LONG}.png"],
        ["run", "BUNDLE", "PIXELS", "--output", f"{LONG}.npz"],
        ["run", "BUNDLE", "PIXELS", "--explain", f"{LONG}.png"],
        ["bench", "BUNDLE", "--plot", f"{LONG}.png"],
        ["bench", "BUNDLE", "--no-plot", "--output", f"{LONG}.json"],
        ["bench", "BUNDLE", "--no-plot", "--rounds", "1", "--input", f"{LONG}.npy"],
        ["train", "--epochs-scale", "0.001", "--output", LONG, "--work", "TMP"],
        ["train", "--epochs-scale", "0.001", "--output", "TMP", "--work", LONG],
    ],
    ids=lambda args: " ".join(arg if len(arg) < 100 else "LONG" for arg in args),
)
def test_over_long_names(refused, contents, words, args):
    parent = words["TMP"].parent
    before = contents(parent) | contents(words["BUNDLE"])
    assert "x" * 50 in refused(*(words.get(arg, arg) for arg in args))
    assert contents(parent) | contents(words["BUNDLE"]) == before


@pytest.mark.parametrize(
    "args",
    [
        ["export", "locked"],
        ["export", "locked/model"],
        ["export", "MODEL", "--output", "locked/bundle"],
        ["export", "MODEL", "--data", "locked/mine.npz"],
        ["calibrate", "locked"],
        ["verify", "locked"],
        ["run", "locked", "PIXELS"],
        ["run", "BUNDLE", "locked/a.npy"],
        ["run", "BUNDLE", "locked/a.png"],
        ["run", "BUNDLE", "PIXELS", "--output", "locked/a.npz"],
        ["run", "BUNDLE", "PIXELS", "--explain", "locked/a.png"],
        ["train", "--epochs-scale", "0.001", "--output", "locked/weights", "--work", "TMP"],
    ],
    ids=" ".join,
)
def test_unreadable_folder(refused, words, tmp_path, args):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0)
    if os.access(locked, os.R_OK | os.X_OK):
        pytest.skip("this user may read everything")
    try:
        line = refused(*(words.get(arg, tmp_path / arg if arg.startswith("locked") else arg) for arg in args))
    finally:
        locked.chmod(0o700)
    assert "locked" in line
    assert not list(locked.iterdir()) and not words["TMP"].exists()


@pytest.mark.parametrize("name", ["/locked/a", b"/locked/a", "/locked/a" + LONG])
def test_what_no_verb_foresaw(refused, monkeypatch, name):
    def fail(*_args, **_settings):
        raise PermissionError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr(importlib.import_module("adaptrt.runtime.bundle.bundle_file"), "read_bundle", fail)
    line = refused("inspect", "x")
    assert line.startswith("error: cannot use '/locked/a") and "Permission denied" in line
    assert len(line) < 500
