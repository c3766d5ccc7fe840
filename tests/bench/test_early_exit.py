from __future__ import annotations

import importlib
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from adaptrt.bench.errors import BenchError
from adaptrt.bench.timing.exit_latency import EXIT_LIMIT, SPLIT_LIMIT, Result, measure
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, encode_bundle, read_bundle
from tests.staged_bundle import images, write_staged, write_unsplit

IMAGES = 70
SPLIT = Split(images(IMAGES, seed=4), np.arange(IMAGES) % 3)
Told = list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("graphs") / "unsplit.onnx"
    write_unsplit(file)
    return file


@pytest.fixture(scope="module")
def told() -> Told:
    return []


@pytest.fixture(scope="module")
def result(staged: Path, unsplit: Path, told: Told) -> Result:
    return measure(
        staged, unsplit, SPLIT, budgets=(0.01, 0.6, 0.8, 0.93), batches=(1, 5), rounds=1,
        on_turn=lambda *turn: told.append(turn),
    )  # fmt: skip


def test_never_exiting_is_measured_where_everything_runs_and_at_half_the_work(result: Result) -> None:
    rows = [(row.setting, row.batch) for row in result.split_rows]
    assert rows == [("everything", 1), ("what 50% runs", 1), ("everything", 5), ("what 50% runs", 5)]
    for row in result.split_rows:
        assert row.limit == SPLIT_LIMIT
        assert all(0 < s.low <= s.median <= s.high < math.inf for s in (row.unsplit, row.stages, row.ratio))


def test_points_are_exits_alone_and_what_the_runtime_chooses(result: Result) -> None:
    alone = [row for row in result.exit_rows if row.families == "exits"]
    assert [row.expected_cost for row in alone] == pytest.approx([0.6, 0.8, 0.93], abs=0.05)
    for row in alone:
        assert row.knobs["price"] == 0.0 and row.knobs["token_price"] == 0.0 and "exit_thresholds" in row.knobs
    knobs = [row.knobs for row in result.exit_rows]
    assert all(knobs.count(own) == 1 for own in knobs)


def test_costs_exits_and_accuracy_are_those_of_the_images(result: Result, staged: Path) -> None:
    model, labels = load(staged, threads=1), SPLIT.labels
    assert any(0 < row.exits[0] < 1 for row in result.exit_rows)
    for row in result.exit_rows:
        expected = model.run({"pixels": SPLIT.inputs}, knobs=row.knobs)
        assert expected.exit is not None
        assert row.timed_cost == pytest.approx(expected.macs_fraction.mean(), abs=1e-5)
        assert row.exits == pytest.approx([(expected.exit == 0).mean(), (expected.exit == 1).mean()])
        assert row.accuracy == pytest.approx((expected.outputs["logits"].argmax(1) == labels).mean())


def test_ratios_follow_from_the_time_and_the_cost(result: Result) -> None:
    for row in result.exit_rows:
        assert row.limit == EXIT_LIMIT
        assert row.over_expected.median == pytest.approx(row.over_dense.median / row.expected_cost)
        assert row.over_timed.median == pytest.approx(row.over_dense.median / row.timed_cost)
        assert row.over_dense.median == pytest.approx(row.milliseconds.median / result.dense.median)  # one round


def test_progress_goes_to_the_end(result: Result, told: Told) -> None:
    assert [what for what, _, _ in told] == sorted((what for what, _, _ in told), reverse=True)  # never, then exiting
    for what in ("never exiting", "exiting"):
        turns = [turn for turn in told if turn[0] == what]
        assert [done for _, done, _ in turns] == list(range(1, turns[0][2] + 1))
    assert len([turn for turn in told if turn[0] == "exiting"]) == len(result.exit_rows) + 1


def test_another_network_is_refused(staged: Path, tmp_path: Path) -> None:
    one = write_staged(tmp_path / "one", stages=1)
    with pytest.raises(BenchError, match="differ by .* name the model that the bundle was exported from"):
        measure(staged, tmp_path / "one" / one.stages[0].file, SPLIT, rounds=1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"curve": []}, "adaptrt calibrate"),
        ({"dense": {"file": None, "sha256": None}}, "no dense model"),
    ],
)
def test_what_cannot_be_measured(
    staged: Path, unsplit: Path, tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    folder = Path(shutil.copytree(staged, tmp_path / "bundle"))
    bundle = read_bundle(folder)
    fields = {n: msgspec.structs.replace(bundle.dense, **v) if isinstance(v, dict) else v for n, v in change.items()}
    changed = msgspec.structs.replace(bundle, **fields, budget_table=None)  # it may be of another curve
    (folder / BUNDLE_FILE).write_bytes(encode_bundle(changed))
    with pytest.raises(BenchError, match=expected):
        measure(folder, unsplit, SPLIT)


def test_one_stage_budgets_out_of_reach_and_other_images_are_refused(
    staged: Path, unsplit: Path, exported: Path
) -> None:
    with pytest.raises(BenchError, match="one stage, expected exits"):
        measure(exported, unsplit, SPLIT)
    with pytest.raises(BenchError, match=r"none of the budgets \[0\.01\]"):
        measure(staged, unsplit, SPLIT, budgets=(0.01,))
    with pytest.raises(BenchError, match="got inputs"):
        measure(staged, unsplit, Split(SPLIT.inputs[:, :, :2], SPLIT.labels))


@pytest.fixture
def command(unsplit: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The command, with a model and data of its own."""
    module = importlib.import_module("adaptrt.bench.early_exit")
    given: list[object] = []  # scales, of which this bundle has none
    network = SimpleNamespace(set_price_scales=given.append)
    source = SimpleNamespace(name="staged", data_name="noise", model=network)

    def save_unsplit(model: object, path: Path) -> None:
        assert model is network and given == [{}]
        shutil.copyfile(unsplit, path)

    monkeypatch.setattr(module, "load_model", lambda _name: source)
    monkeypatch.setattr(module, "load_data", lambda _name: DataSplits("noise", calibration=SPLIT, test=SPLIT))
    monkeypatch.setattr(module, "save_unsplit", save_unsplit)
    return SimpleNamespace(main=module.main, source=source)


def test_command_prints_both_tables_and_writes_json(command: SimpleNamespace, staged: Path, tmp_path: Path) -> None:
    file = tmp_path / "early_exit.json"
    options = ["--images", "40", "--budget", "0.8", "--batch", "2", "--rounds", "1", "--json", str(file)]
    done = CliRunner().invoke(command.main, ["any", str(staged), *options], catch_exceptions=False)
    assert done.exit_code == 0
    assert "nobody leaves early" in done.output and "40 images one by one" in done.output
    content = json.loads(file.read_text())
    assert content["benchmark"] == "early_exit" and content["images"] == 40
    assert content["exit_rows"][0]["families"] == "exits" and content["machine"]["cpu"]
    assert {row["batch"] for row in content["split_rows"]} == {2}


def test_a_model_without_data_needs_some(command: SimpleNamespace, staged: Path) -> None:
    command.source.data_name = None
    done = CliRunner().invoke(command.main, ["any", str(staged)])
    assert isinstance(done.exception, BenchError) and "--data" in str(done.exception)
