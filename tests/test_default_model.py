"""The default model from its shipped weights to a running bundle, and what the README promises of it."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.export.exporter import ExportReport, export_bundle
from adaptrt.export.parity.comparison import TIE
from adaptrt.export.parity.reference import run_reference
from adaptrt.models.data.split import DataSplits, load_data
from adaptrt.models.registry import load_model, weights_folder
from adaptrt.runtime import Budget, load

pytestmark = pytest.mark.slow("exports the shipped model")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data() -> DataSplits:
    return load_data("digits")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, data: DataSplits) -> ExportReport:
    folder = tmp_path_factory.mktemp("project") / "build" / "digits"
    return export_bundle(load_model("digits"), folder, calibration=data, points=9, debug=True)


def test_its_weights_are_small_enough_to_ship() -> None:
    files = list(weights_folder("digits").glob("*.safetensors"))
    assert {path.name for path in files} == {"model.safetensors", "dense.safetensors"}
    assert sum(path.stat().st_size for path in files) <= 12_000_000


def test_parity_holds_at_seven_prices_and_three_batch_sizes(digits: ExportReport) -> None:
    assert digits.parity.passed
    assert len({row.price for row in digits.parity.rows}) >= 5
    assert {row.batch for row in digits.parity.rows} == {1, 2, 64}
    assert all(row.flips == 0 and row.max_output_error <= 1e-4 for row in digits.parity.rows)


def test_accuracy_on_held_out_digits(digits: ExportReport, data: DataSplits) -> None:
    model = load(digits.bundle_folder)
    dense = model.bundle.dense.quality
    assert dense is not None and dense >= 0.96
    result = model.run({"pixels": data.test.inputs}, budget=Budget.fraction(0.59))
    assert 0.5 < result.macs_fraction.mean() <= 0.6
    assert (result.outputs["logits"].argmax(1) == data.test.labels).mean() >= dense - 0.01


def test_work_falls_as_the_price_rises_and_is_counted_right(digits: ExportReport, data: DataSplits) -> None:
    model, source = load(digits.bundle_folder), load_model("digits").model
    layers = source.layers()
    dense = sum(layer.dense for layer in layers)
    fixed = sum(layer.gate if layer.per_run else layer.dense for layer in layers)
    per_run = np.array([layer.per_run for layer in layers if layer.per_run])
    means = []
    for price in np.linspace(0, 1, 11):
        result = model.run({"pixels": data.test.inputs[:100]}, knobs={"price": float(price)})
        counted = (fixed + result.outputs["learners"].sum(2, dtype=np.int64) @ per_run) / dense
        np.testing.assert_allclose(result.macs_fraction, counted, atol=1e-6)
        means.append(result.macs_fraction.mean())
    assert means == sorted(means, reverse=True) and means[-1] < 0.5 < 1 < means[0]


def test_a_sample_alone_and_in_a_batch_is_the_same(digits: ExportReport, data: DataSplits) -> None:
    model = load(digits.bundle_folder)
    images = data.test.inputs[:64]
    price = model.operating_point(Budget.fraction(0.6)).knobs["price"]
    assert isinstance(price, float)
    clear = run_reference(load_model("digits").model, {"pixels": images}, {"price": price}).clear(TIE)
    together = model.run({"pixels": images}, knobs={"price": price})
    for index in range(64):
        alone = model.run({"pixels": images[index : index + 1]}, knobs={"price": price})
        same = np.array_equal(alone.outputs["learners"][0], together.outputs["learners"][index])
        assert same or not clear[index]  # a decision in a tie may fall either way
        if same:
            difference = np.abs(alone.outputs["logits"][0] - together.outputs["logits"][index])
            assert difference.max() <= 1e-4
    assert clear.sum() > 10


def test_the_python_of_the_readme_runs(digits: ExportReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(digits.bundle_folder, tmp_path / "build" / "digits")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["result"].reachable and np.isfinite(names["result"].macs_fraction).all()
    assert np.isfinite(names["macs_fraction"]).all()
