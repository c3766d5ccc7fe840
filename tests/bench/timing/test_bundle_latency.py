from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.frontier_plot import plot_frontier
from adaptrt.bench.timing.bundle_latency import BundleLatency, measure_bundle, write_json
from adaptrt.bench.timing.interleave import Spread
from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, Bundle, encode_bundle, read_bundle
from adaptrt.runtime.control.budget_rows import budget_table
from tests.staged_bundle import images

Told = list[tuple[str, float]]


@pytest.fixture(scope="module")
def told() -> Told:
    return []


@pytest.fixture(scope="module")
def result(exported: Path, told: Told) -> BundleLatency:
    return measure_bundle(
        exported, batches=(1, 6), points=3, rounds=2, progress=lambda what, share: told.append((what, share))
    )


def spreads(result: BundleLatency) -> Iterator[Spread]:
    yield from (result.dense or {}).values()
    for row in result.rows:
        yield from row.latency_ms.values()
        yield from (row.ratio or {}).values()


def change(folder: Path, **fields: object) -> Bundle:
    bundle = msgspec.structs.replace(read_bundle(folder), **fields)
    bundle = msgspec.structs.replace(bundle, budget_table=budget_table(bundle))
    (folder / BUNDLE_FILE).write_bytes(encode_bundle(bundle))
    return bundle


def test_rows_run_from_the_cheapest_to_everything(exported: Path, result: BundleLatency) -> None:
    curve = read_bundle(exported).curve
    shares = [row.macs_fraction for row in result.rows]
    assert shares == sorted(shares) and sum(row.calibrated for row in result.rows) == 3
    assert shares[0] == min(point.macs_fraction for point in curve)
    assert result.rows[-1].price == 0.0 and result.rows[-1].macs_fraction > 1
    assert all(row.quality is not None for row in result.rows)


def test_numbers_are_positive_and_finite(result: BundleLatency) -> None:
    found = list(spreads(result))
    assert len(found) == 2 + 4 * len(result.rows)
    assert all(0 < s.low <= s.median <= s.high < math.inf for s in found)
    assert (result.batches, result.rounds, result.inputs) == ((1, 6), {1: 2, 6: 2}, "golden")
    assert result.dense_quality is not None and result.quality_metric == "accuracy"


@pytest.mark.usefixtures("result")
def test_progress_goes_from_nothing_to_all(told: Told) -> None:
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert {what for what, _ in told} == {"loading the graphs", "measuring batch 1", "measuring batch 6"}


def test_share_of_the_inputs_timed_is_the_runtimes(bundle: Path) -> None:
    inputs = np.random.default_rng(5).random((30, 1, 8, 8), dtype=np.float32)
    result = measure_bundle(bundle, batches=(30,), points=3, rounds=1, inputs=inputs)
    model = load(bundle, threads=1)
    for row in result.rows:
        expected = model.run({"pixels": inputs}, knobs=row.knobs).macs_fraction.mean()
        assert row.timed_macs_fraction[30] == pytest.approx(expected, abs=1e-5)
    assert result.inputs == "given"


def test_small_batches_time_samples_spread_over_all_given(bundle: Path) -> None:
    """Half of 32 samples cost more than the others: the 16 that are timed must be of both halves."""
    inputs = np.zeros((32, 1, 8, 8), np.float32)
    inputs[16:] = np.random.default_rng(0).random((16, 1, 8, 8), dtype=np.float32) * 3
    result = measure_bundle(bundle, batches=(1,), points=5, rounds=1, inputs=inputs)
    model = load(bundle, threads=1)
    for row in result.rows:
        expected = model.run({"pixels": inputs[::2]}, knobs=row.knobs).macs_fraction.mean()
        assert row.timed_macs_fraction[1] == pytest.approx(expected, abs=1e-5)


def test_without_golden_samples_noise_is_fed(bundle: Path) -> None:
    (bundle / "golden.npz").unlink()
    assert measure_bundle(bundle, batches=(2,), points=2, rounds=1).inputs == "random"


def test_without_a_dense_graph_there_are_no_ratios(bundle: Path) -> None:
    dense = msgspec.structs.replace(read_bundle(bundle).dense, file=None, sha256=None)
    (bundle / "dense.onnx").unlink()
    change(bundle, dense=dense)
    result = measure_bundle(bundle, batches=(2,), points=2)
    assert result.dense is None and all(row.ratio is None for row in result.rows)
    assert all(0 < s.median < math.inf for s in spreads(result))
    assert 3 <= result.rounds[2] <= 25
    plot_frontier(result, bundle / "frontier.png")
    json.loads(written(result, bundle))


def test_a_bundle_of_several_stages_runs_on_the_runtime(staged: Path) -> None:
    """Samples leave early in what is timed, and the share of work is that of the very samples."""
    inputs = images(100, seed=3)
    result = measure_bundle(staged, batches=(1, 5), points=4, rounds=1, inputs=inputs)
    assert result.stages == 2 and result.samples == {1: 64, 5: 60}
    model = load(staged, threads=1)
    exits = []
    for row in result.rows:
        for batch, picked in ((1, np.arange(64) * 100 // 64), (5, np.arange(60) * 100 // 60)):
            expected = model.run({"pixels": inputs[picked]}, knobs=row.knobs)
            assert row.timed_macs_fraction[batch] == pytest.approx(expected.macs_fraction.mean(), abs=1e-5)
        exits.append(set(expected.exit.tolist()))
    assert exits[0] == {0} and {0, 1} in exits and exits[-1] == {1}
    assert all(0 < s.median < math.inf for s in spreads(result))
    assert result.rows[-1].knobs == {"price": 0.0} and result.rows[-1].price == 0.0
    assert result.dense is not None


def test_samples_of_one_stage_are_sixteen(result: BundleLatency) -> None:
    assert result.stages == 1 and result.samples == {1: 16, 6: 12}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"inputs": np.zeros((3, 1, 8, 7), np.float32)}, r"got inputs float32 \[3, 1, 8, 7\]"),
        ({"inputs": np.zeros((3, 1, 8, 8))}, "got inputs float64"),
        ({"inputs": np.zeros((0, 1, 8, 8), np.float32)}, "at least one sample"),
        ({"inputs": np.zeros((3, 64), np.float32)}, r"\[3, 64\]"),
        ({"batches": ()}, "got batches"),
        ({"batches": (1, 1)}, "got batches"),
        ({"batches": (0,)}, "got batches"),
        ({"points": 1}, "got 1 points"),
        ({"rounds": 0}, "got 0 rounds"),
        ({"threads": 0}, "got 0 threads"),
    ],
)
def test_what_makes_no_sense_is_refused(exported: Path, arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(BenchError, match=expected):
        measure_bundle(exported, **{"batches": (1,), "points": 2, "rounds": 1, **arguments})  # type: ignore[arg-type]


def test_an_uncalibrated_bundle_is_refused(bundle: Path) -> None:
    change(bundle, curve=[])
    with pytest.raises(BenchError, match="adaptrt calibrate"):
        measure_bundle(bundle)


def written(result: BundleLatency, folder: Path) -> str:
    write_json(result, folder / "result.json")
    return (folder / "result.json").read_text()


def test_json_is_valid_and_complete(result: BundleLatency, tmp_path: Path) -> None:
    content = json.loads(written(result, tmp_path))
    assert set(content) == {field.name for field in dataclasses.fields(BundleLatency)}
    row = content["rows"][0]
    assert set(row["latency_ms"]) == set(row["ratio"]) == {"1", "6"}
    assert row["ratio"]["6"].keys() == {"median", "low", "high"}
    assert content["machine"]["cpu"] and "commit" in content["source"]


def test_plot_is_written(result: BundleLatency, tmp_path: Path) -> None:
    plot_frontier(result, tmp_path / "frontier.png")
    header = (tmp_path / "frontier.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(header[at : at + 4], "big") for at in (16, 20))
    assert width > 900 and height > 900
    assert [entry.name for entry in tmp_path.iterdir()] == ["frontier.png"]


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")])
def test_plot_is_of_the_kind_its_name_says(result: BundleLatency, tmp_path: Path, suffix: str, start: bytes) -> None:
    plot_frontier(result, tmp_path / f"frontier{suffix}")
    assert (tmp_path / f"frontier{suffix}").read_bytes().startswith(start)


def test_plot_of_another_kind_is_refused(result: BundleLatency, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"frontier\.bmp, expected one of \.png, \.svg, \.pdf"):
        plot_frontier(result, tmp_path / "frontier.bmp")


def test_plot_without_qualities(result: BundleLatency, tmp_path: Path) -> None:
    rows = tuple(dataclasses.replace(row, quality=None) for row in result.rows)
    bare = dataclasses.replace(result, rows=rows, dense_quality=None, quality_metric=None)
    plot_frontier(bare, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
