from __future__ import annotations

import json

import numpy as np


def test_table(cli, exported):
    result = cli("verify", exported[0])
    assert result.exit_code == 0
    assert "flips" in result.stdout and "computes what torch computed" in result.stdout


def test_json(cli, exported):
    report = json.loads(cli("verify", exported[0], "--json").stdout)
    assert report["passed"] is True
    assert len(report["rows"]) >= 5
    assert all(row["flips"] == 0 and row["decisions"] > 0 for row in report["rows"])


def test_other_results(refused, bundle):
    with np.load(bundle / "golden.npz") as arrays:
        golden = dict(arrays)
    golden["stage0.logits"] = golden["stage0.logits"] + np.float32(0.01)
    np.savez(bundle / "golden.npz", **golden)
    assert "outputs differ by 1.00e-02" in refused("verify", bundle)


def test_nothing_to_compare_with(refused, bundle):
    (bundle / "golden.npz").unlink()
    assert "golden.npz" in refused("verify", bundle)
