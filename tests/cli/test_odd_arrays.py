"""Array files that are empty, of no axes, mismatched or not finite: one line in every verb that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.conftest import FIXTURES, TINY

ODD = {
    "empty": np.zeros((0, 4), np.float32),
    "no axes": np.float32(1).reshape(()),
    "not finite": np.full((3, 4), np.nan, np.float32),
    "another size": np.zeros((3, 5), np.float32),
}
WAYS = {
    "run --watch": ("run", TINY, "FILE", "--watch", "--seconds", 0.1),
    "run under a latency": ("run", TINY, "FILE", "--budget", "8ms"),
    "profile": ("profile", TINY, "--input", "FILE"),
    "bench": ("bench", TINY, "--input", "FILE", "--no-plot", "--rounds", 1),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("array", ODD.values(), ids=ODD)
def test_odd_arrays(cli, tmp_path: Path, way, array) -> None:
    np.save(tmp_path / "x.npy", array)
    result = cli(*(tmp_path / "x.npy" if word == "FILE" else word for word in way))
    assert result.exit_code == 2 and result.stderr.splitlines()[-1].startswith("error: "), result.output


@pytest.mark.parametrize("way", [("run", "FILE", "--watch"), ("profile", "--input", "FILE")], ids=["watch", "profile"])
def test_inputs_of_different_samples(cli, tmp_path: Path, way) -> None:
    arrays = {"x": np.zeros((3, 6), np.float32), "hint": np.zeros((2, 2), np.float32), "scale": np.ones(1, np.float32)}
    np.savez(tmp_path / "x.npz", **arrays)
    verb, *rest = (tmp_path / "x.npz" if word == "FILE" else word for word in way)
    result = cli(verb, FIXTURES / "exits", *rest)
    assert result.exit_code == 2 and "batch is 2, expected 3" in result.stderr
