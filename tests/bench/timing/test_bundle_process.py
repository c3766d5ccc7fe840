"""A whole bundle in its process computes what the runtime does, at the knobs that are fed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.bundle_worker import BundleRunner
from adaptrt.bench.timing.session_process import BundleProcess
from adaptrt.runtime import load
from tests.staged_bundle import images

KNOBS = {"price": 0.1, "exit_thresholds": [0.8]}


@pytest.fixture
def process(staged: Path) -> Iterator[BundleProcess]:
    with BundleProcess(staged) as running:
        arrays = {"pixels": images(9), "price": np.float32([0.1]), "exits": np.float32([0.8])}
        running.load(arrays)
        yield running


def test_it_computes_what_the_runtime_does(process: BundleProcess, staged: Path) -> None:
    feed = {"pixels": "pixels", "price": "price", "exit_thresholds": "exits"}
    expected = load(staged, threads=1).run({"pixels": images(9)}, knobs=KNOBS)  # type: ignore[arg-type]
    assert expected.exit is not None and set(expected.exit.tolist()) == {0, 1}
    np.testing.assert_array_equal(process.output("exit", feed), expected.exit)
    np.testing.assert_allclose(process.output("macs_fraction", feed), expected.macs_fraction)
    np.testing.assert_allclose(process.output("logits", feed), expected.outputs["logits"].ravel(), rtol=1e-6)


def test_knobs_that_are_not_fed_stand_at_their_defaults(process: BundleProcess) -> None:
    assert (process.output("exit", {"pixels": "pixels"}) == 1).all()


def test_it_names_what_it_takes_and_gives(process: BundleProcess) -> None:
    assert process.inputs == ["pixels", "price", "token_price", "capacity", "exit_thresholds"]
    assert process.outputs == ["logits", "macs_fraction", "exit"]
    with pytest.raises(BenchError, match=r"got output 'speed', expected one of logits, macs_fraction, exit"):
        process.output("speed", {"pixels": "pixels"})


def test_it_times_every_run_of_every_feed(process: BundleProcess) -> None:
    feeds = [{"pixels": "pixels"}, {"pixels": "pixels", "price": "price"}]
    seconds = np.array(process.time(feeds, warm=1, runs=3))
    assert seconds.shape == (2, 3) and (seconds > 0).all() and np.isfinite(seconds).all()


def test_a_knob_out_of_its_limits_is_an_error_and_the_process_goes_on(process: BundleProcess) -> None:
    process.load({"dear": np.float32([99.0])})
    with pytest.raises(BenchError, match="price"):
        process.time([{"pixels": "pixels", "price": "dear"}])
    assert process.time([{"pixels": "pixels"}])


def test_a_bundle_that_does_not_load_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no bundle\.json in") as caught:
        BundleProcess(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_timed_call_solves_no_budget_and_checks_no_knobs(staged: Path) -> None:
    """Feeds of equal knobs share one model that has them as its budget."""
    runner = BundleRunner(staged, threads=1)
    feed = {"pixels": images(2), "price": np.float32([0.3])}
    one, other = runner.prepare(feed), runner.prepare({**feed, "pixels": images(3)})
    assert one.func.__self__ is other.func.__self__  # type: ignore[attr-defined]
    result = one()
    assert result.knobs["price"] == [np.float32(0.3)] and result.budget is not None  # type: ignore[attr-defined]
