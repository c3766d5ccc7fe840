"""Models with ACMs, token selections and exits, alone and combined: exported, calibrated, run, compared with torch."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from adaptrt.export.calibration.evaluations import untold
from adaptrt.export.exporter import ExportReport, export_bundle
from adaptrt.export.graph.stage_files import trace_stages
from adaptrt.export.parity.check import check_parity, parity_inputs, parity_settings
from adaptrt.export.parity.comparison import ParityReport
from adaptrt.export.parity.verify import verify_bundle
from adaptrt.models import ACMConfig, LoadedModel, Network, ViTConfig
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.runtime import Budget, load
from tests.export.shared_traces import SharedTraces

SHAPE = ViTConfig(image_size=8, patch_size=2, width=16, depth=4, heads=2, ffn_width=32, classes=3, class_token=True)
ACM = ACMConfig(learners=2, gate_width=4)
PRUNING, EXITS = PruningConfig((0, 2)), ExitConfig((1, 3), "entropy")
VARIANTS: dict[str, dict[str, Any]] = {
    "combined": {"acm": ACM, "pruning": PRUNING, "exits": EXITS, "hard_budgets": True},
    "combined, patience, mean of tokens": {
        "acm": ACM,
        "pruning": PRUNING,
        "exits": ExitConfig((1, 3), "patience"),
        "hard_budgets": True,
        "class_token": False,
    },
    "tokens and exits": {"pruning": PRUNING, "exits": ExitConfig((2,), "certainty")},
    "dropped tokens in the mean, exits": {
        "pruning": PruningConfig((0, 2), averages_dropped=True),
        "exits": ExitConfig((1, 3), "entropy"),
        "class_token": False,
    },
    "routed, exits": {"others": {"routed_ffn": {"small": 0.25}}, "exits": ExitConfig((2,), "entropy")},
    "fixed": {"pruning": PruningConfig((0, 2), "fixed")},
    "merge": {"pruning": PruningConfig((0, 1, 2, 3), "merge")},
    "merge to one token": {
        "pruning": PruningConfig((0, 1, 2), "merge"),
        "image_size": 4,
        "class_token": False,
    },
}
IMAGES = np.random.default_rng(4).random((24, 1, 8, 8), dtype=np.float32)


def family_model(**families: Any) -> Network:
    """A tiny model whose decisions are spread: random gates, easy and hard inputs alike."""
    torch.manual_seed(0)
    model = Network.from_config(dataclasses.replace(SHAPE, **families)).eval()
    for name, parameter in model.named_parameters():
        if ("gate." in name or "selector." in name) and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7)
    return model


def noise(samples: int = 64) -> DataSplits:
    generator = np.random.default_rng(0)

    def split() -> Split:
        labels = generator.integers(0, 3, samples)
        return Split(generator.random((samples, 1, 8, 8), dtype=np.float32), labels)

    return DataSplits("noise", calibration=split(), test=split())


def parity(model: StagedNetwork, traces: SharedTraces) -> tuple[ParityReport, list[Any]]:
    stages, _ = traces.stages(model, debug=False, progress=untold)
    inputs = parity_inputs(model, None)
    return check_parity(model, stages, inputs, parity_settings(model, inputs)), stages


@pytest.mark.parametrize("name", VARIANTS)
def test_torch_and_the_graphs_agree(name: str, traces: SharedTraces) -> None:
    model = family_model(**VARIANTS[name])
    report, stages = parity(model, traces)
    assert report.require(name).passed
    assert {row.batch for row in report.rows} == {1, 2, 64}
    if "price" in {spec.name for spec in model.knob_specs()}:
        assert len({row.price for row in report.rows}) >= 5
    for stage in stages:
        kinds = {node.op_type for node in stage.graph.graph.node} | {
            node.op_type for function in stage.graph.functions for node in function.node
        }
        assert not kinds & {"If", "Loop", "NonZero", "Compress", "Unique"}
        onnx.checker.check_model(stage.graph, full_check=True)


def test_a_changed_selector_is_noticed_as_flips() -> None:
    model = family_model(pruning=PRUNING)
    stages, _ = trace_stages(model, debug=False, progress=untold)
    inputs = parity_inputs(model, None)
    settings = parity_settings(model, inputs)
    with torch.no_grad():
        model.blocks[2].selector.threshold.bias += 0.05  # type: ignore[union-attr, operator]
    report = check_parity(model, stages, inputs, settings[1:-1])
    assert sum(row.flips for row in report.rows) > 0 and not report.passed


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, traces: SharedTraces) -> ExportReport:
    model = family_model(**VARIANTS["combined"])
    source = LoadedModel("tiny", model, Network.from_config(SHAPE).eval(), "noise")
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        traces.install(patch)
        return export_bundle(source, folder, calibration=noise(), points=5, evaluations=40)


def test_a_bundle_of_all_families_proves_itself(exported: ExportReport) -> None:
    assert exported.parity.passed
    assert verify_bundle(exported.bundle_folder).passed
    bundle = load(exported.bundle_folder).bundle
    assert [stage.file for stage in bundle.stages] == ["stage0.onnx", "stage1.onnx", "stage2.onnx"]
    assert [knob.name for knob in bundle.knobs] == ["price", "token_price", "capacity", "keep", "exit_thresholds"]
    settings = {point.setting for point in bundle.curve}
    assert {"price", "acm", "tokens", "exits", "hard"} <= settings
    assert any(point.frontier for point in bundle.curve)


def expected_exit(stages: list[Any], thresholds: list[float], sample: int) -> int:
    for number, threshold in enumerate(thresholds):
        if float(stages[number].confidence[sample]) > threshold:
            return number
    return len(thresholds)


@pytest.mark.parametrize("price", [0.0, 0.4, 1.0])
def test_samples_leave_where_torch_says(exported: ExportReport, price: float) -> None:
    running = load(exported.bundle_folder)
    model = family_model(**VARIANTS["combined"])
    for scale in running.bundle.knobs[:1]:
        price *= scale.maximum
    # The graph's price goes through its scales; torch's model here has none and gets no price but the limits.
    stages = running.run_stages({"pixels": IMAGES}, knobs={"price": price})
    middle = [float(np.median(stage["confidence"])) for stage in stages[:-1]]
    result = running.run({"pixels": IMAGES}, knobs={"price": price, "exit_thresholds": middle})
    assert result.exit is not None and len(set(result.exit.tolist())) > 1
    for sample, left in enumerate(result.exit):
        confident = [float(stage["confidence"][sample]) > t for stage, t in zip(stages, middle, strict=False)]
        assert left == next((number for number, sure in enumerate(confident) if sure), 2)
        np.testing.assert_allclose(result.outputs["logits"][sample], stages[left]["logits"][sample], atol=1e-5)
        assert result.macs_fraction[sample] == pytest.approx(stages[left]["macs_fraction"][sample], abs=1e-6)
    if price == 0:
        with torch.no_grad():
            out = model.run_stages({"pixels": torch.from_numpy(IMAGES)}, {"price": torch.zeros(1)})
        assert [expected_exit(out, middle, sample) for sample in range(len(IMAGES))] == result.exit.tolist()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_sample_does_not_depend_on_its_batch_mates(exported: ExportReport, share: float) -> None:
    running = load(exported.bundle_folder)
    together = running.run({"pixels": IMAGES}, budget=Budget.fraction(share))
    for sample in range(len(IMAGES)):
        alone = running.run({"pixels": IMAGES[sample : sample + 1]}, budget=Budget.fraction(share))
        np.testing.assert_allclose(alone.outputs["logits"][0], together.outputs["logits"][sample], rtol=0, atol=1e-6)
        assert alone.macs_fraction[0] == pytest.approx(together.macs_fraction[sample], abs=1e-6)
        assert alone.exit is not None and together.exit is not None and alone.exit[0] == together.exit[sample]


def test_hard_budgets_cost_every_input_the_same(exported: ExportReport) -> None:
    running = load(exported.bundle_folder)
    hard = [point for point in running.bundle.curve if point.hard]
    cheapest, dearest = hard[0].macs_fraction, hard[-1].macs_fraction
    bright = np.linspace(0, 1, 40, dtype=np.float32)[:, None, None, None]
    inputs = np.random.default_rng(9).random((40, 1, 8, 8), dtype=np.float32) * bright
    for share in np.linspace(cheapest, dearest, 5):
        result = running.run({"pixels": inputs}, budget=Budget.fraction(float(share), hard=True))
        assert np.ptp(result.macs_fraction) <= 1e-6
        assert result.macs_fraction[0] <= share + 1e-6
    assert dearest > cheapest


def test_exact_numbers_of_learners_and_tokens(exported: ExportReport) -> None:
    running = load(exported.bundle_folder)
    result = running.run({"pixels": IMAGES}, knobs={"capacity": [7, 5, 3, 0], "keep": [9, 4]}, decisions=True)
    assert result.decisions is not None
    learners = result.decisions.learners
    assert (np.where(learners > 0, learners, 0).sum(2) == [7, 5, 3, 0]).all()
    assert (result.decisions.kept.sum(2) == [9, 4]).all()
    assert result.decisions.kept[:, :, 0].all()  # the class token stays


def test_work_falls_along_the_price(exported: ExportReport) -> None:
    running = load(exported.bundle_folder)
    price = running.bundle.knobs[0]
    means = [
        float(running.run({"pixels": IMAGES}, knobs={"price": value}).macs_fraction.mean())
        for value in np.linspace(price.minimum, price.maximum, 7)
    ]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(means))
    assert means[0] > 1 > means[-1]


def test_one_token_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    families = {**VARIANTS["combined"], "class_token": False}
    model = Network.from_config(dataclasses.replace(SHAPE, image_size=2, **families)).eval()
    report = export_bundle(LoadedModel("one", model, None, None), tmp_path / "one", calibration=None)
    assert report.parity.passed
    running = load(tmp_path / "one")
    result = running.run({"pixels": np.zeros((3, 1, 2, 2), np.float32)}, knobs={"price": 1.0})
    assert result.outputs["logits"].shape == (3, 3)
    assert running.run({"pixels": np.zeros((0, 1, 2, 2), np.float32)}).outputs["logits"].shape == (0, 3)


@pytest.mark.usefixtures("shared_traces")
@pytest.mark.parametrize("rule", ["fixed", "merge"])
def test_a_rule_that_discloses_nothing_is_calibrated_by_its_numbers(rule: str, tmp_path: Path) -> None:
    source = LoadedModel("tiny", family_model(pruning=PruningConfig((0, 2), rule)), None, "noise")
    report = export_bundle(source, tmp_path / "bundle", calibration=noise(), points=4, evaluations=40)
    work = [point.macs_fraction for point in report.curve]
    assert len(work) >= 3 and min(work) < 0.85 * max(work)
    budget = (min(work) + max(work)) / 2
    result = load(tmp_path / "bundle").run({"pixels": IMAGES}, budget=Budget.fraction(budget, hard=True))
    assert result.reachable and np.ptp(result.macs_fraction) < 1e-6
    assert result.macs_fraction.max() <= budget + 1e-6
