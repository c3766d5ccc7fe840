"""A bundle that ``adaptrt export`` wrote, run with numpy and ONNX Runtime alone, against what torch computed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from adaptrt.runtime import AdaptiveModel, Budget, load

EXPORTED = Path(__file__).parent / "fixtures" / "exported"
TIE = 1e-4  # a decision closer to a tie than this may fall either way
LOGITS, MACS = 1e-4, 1e-6  # tolerances, absolute

Array = np.ndarray[Any, Any]
Golden = dict[str, Array]


@pytest.fixture(scope="module")
def exported() -> AdaptiveModel:
    return load(EXPORTED, threads=1)


@pytest.fixture(scope="module")
def golden() -> Golden:
    with np.load(EXPORTED / "golden.npz", allow_pickle=False) as arrays:
        return {
            "inputs": arrays["input.pixels"],
            "prices": arrays["knob.price"][:, 0],
            "logits": arrays["stage0.logits"],
            "macs_fraction": arrays["stage0.macs_fraction"],
            "k": arrays["k"],
            "margin": arrays["margin"],
        }


def clear_samples(golden: Golden) -> Array:
    """Samples none of whose decisions is near a tie: bool [runs, samples].

    At a price of 0 there are no ties: a gain is above it, however small.
    """
    nearest = np.abs(golden["margin"]).min(axis=(1, 3, 4))  # of [runs, gates, samples, tokens, comparisons]
    return (nearest > TIE) | (golden["prices"] == 0)[:, None]


def require_golden(model: AdaptiveModel, golden: Golden, *, batch: int | None = None) -> None:
    """Run everything at every price, ``batch`` samples at a time, and compare what is not near a tie."""
    inputs, clear = golden["inputs"], clear_samples(golden)
    for run, price in enumerate(golden["prices"]):
        assert clear[run].any(), f"nothing to compare at price {price}"
        size = batch or len(inputs)
        for start in range(0, len(inputs), size):
            rows = slice(start, start + size)
            result = model.run({"pixels": inputs[rows]}, knobs={"price": float(price)})
            for name, got, tolerance in (
                ("logits", result.outputs["logits"], LOGITS),
                ("macs_fraction", result.macs_fraction, MACS),
            ):
                expected = golden[name][run, rows]
                assert got.shape == expected.shape and got.dtype == np.float32
                chosen = clear[run, rows]
                np.testing.assert_allclose(got[chosen], expected[chosen], rtol=0, atol=tolerance, err_msg=name)


def test_the_fixture_is_worth_running(exported, golden):
    bundle = exported.bundle
    assert bundle.producer.startswith("adaptrt ") and bundle.ops == {"ConditionalMLP": 4}
    assert len(bundle.curve) == 5
    assert len(golden["prices"]) >= 5 and len(golden["inputs"]) >= 16
    assert set(golden["k"].flat) == {0, 1, 2, 3, 4}
    assert np.ptp(golden["logits"], axis=0).min() > 10 * LOGITS  # each sample's depend on the price
    assert clear_samples(golden).mean() > 0.9


def test_golden_runs(exported, golden):
    require_golden(exported, golden)


def test_each_sample_alone(exported, golden):
    require_golden(exported, golden, batch=1)


@pytest.mark.parametrize(("name", "error"), [("logits", 2 * LOGITS), ("macs_fraction", 3 * MACS)])
def test_a_difference_is_found(exported, golden, name, error):
    run = len(golden["prices"]) // 2
    sample = int(np.argmax(clear_samples(golden)[run]))
    altered = golden[name].copy()
    altered[run, sample] += error
    with pytest.raises(AssertionError, match=name):
        require_golden(exported, {**golden, name: altered})


def test_nothing_to_compare_is_found(exported, golden):
    with pytest.raises(AssertionError, match="nothing to compare"):
        require_golden(exported, {**golden, "margin": np.zeros_like(golden["margin"])})


def test_empty_batch(exported, golden):
    result = exported.run({"pixels": golden["inputs"][:0]}, budget=Budget.fraction(0.7))
    assert result.outputs["logits"].shape == (0, 3)
    assert result.macs_fraction.shape == (0,)


def test_budgets(exported, golden):
    """Its network is hardly trained: much of what costs more is no better, and is not run."""
    shares = sorted(point.calibration_macs_fraction for point in exported.bundle.curve)
    spent = []
    for asked in [*((low + high) / 2 for low, high in pairwise(shares)), shares[-1]]:
        result = exported.run({"pixels": golden["inputs"]}, budget=Budget.fraction(asked))
        expected = exported.operating_point(Budget.fraction(asked)).macs_fraction
        assert result.reachable and expected <= asked
        assert abs(result.macs_fraction.mean() - expected) < 0.1
        spent.append(float(result.macs_fraction.mean()))
    full = exported.run({"pixels": golden["inputs"]}, budget=Budget.full()).macs_fraction
    assert spent == sorted(spent) and spent[0] < full.mean()
    assert full.min() > 1  # everything, and the gates


def test_plain_onnxruntime_runs_it(exported, golden):
    pixels, price = golden["inputs"][:5], golden["prices"][2]
    session = onnxruntime.InferenceSession(str(EXPORTED / "model.onnx"), providers=["CPUExecutionProvider"])
    logits, work = session.run(["logits", "macs_fraction"], {"pixels": pixels, "price": np.array([price], np.float32)})
    result = exported.run({"pixels": pixels}, knobs={"price": float(price)})
    np.testing.assert_allclose(logits, result.outputs["logits"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(work, result.macs_fraction, rtol=0, atol=1e-6)
