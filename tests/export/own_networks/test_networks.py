"""Four networks of strangers: exported, proved, run under budgets; batched as alone, work as counted independently."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptrt.export.calibration.full_budget import FULL_SETTING
from adaptrt.export.exporter import COUNTED_SAMPLES, ExportReport, export_bundle
from adaptrt.export.graph.trace import trace_dense
from adaptrt.export.own.derived_network import DerivedNetwork
from adaptrt.export.own.user_module import derived_model
from adaptrt.export.parity.check import gives_everything
from adaptrt.export.parity.graph_macs import check_work, count_dense_macs
from adaptrt.export.parity.padding import without_padding
from adaptrt.export.parity.reference import GOLDEN_FILE, read_golden
from adaptrt.export.parity.stage_graphs import StageFile
from adaptrt.export.parity.verify import verify_bundle
from adaptrt.models import Adaptive, LoadedModel
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.runtime import AdaptiveModel, Budget, load
from tests.export.own_networks.networks import NETWORKS, DepthMap, ExitCNN, Matcher, MixtureOfDepths, built

KINDS = tuple(NETWORKS)
SAMPLES = 64
Arrays = dict[str, np.ndarray]


@functools.cache
def derived(kind: str) -> LoadedModel:
    return derived_model(built(NETWORKS[kind]), kind.replace(" ", "_"))


def network(kind: str) -> DerivedNetwork:
    model = derived(kind).model
    assert isinstance(model, DerivedNetwork)
    return model


def inputs_of(own: Adaptive, seed: int, samples: int) -> Arrays:
    torch.manual_seed(seed)
    return {name: tensor.numpy() for name, tensor in own.example(samples).items()}


def splits(kind: str) -> DataSplits:
    """Labels are the answers of the network with everything running."""
    model, parts = network(kind), []
    for seed in (1, 2):
        arrays = inputs_of(model.network, seed, SAMPLES)
        with torch.no_grad():
            outputs = model.run_stages({name: torch.from_numpy(array) for name, array in arrays.items()}, {})[
                -1
            ].outputs
        name = next(name for name in ("logits", "depth", "matches0") if name in outputs)
        labels = outputs[name].argmax(1).numpy() if name == "logits" else outputs[name].numpy()
        first, *others = arrays
        parts.append(Split(arrays[first], labels, {other: arrays[other] for other in others}, first))
    return DataSplits("own", *parts)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @functools.cache
    def export(kind: str) -> tuple[Path, ExportReport]:
        folder = tmp_path_factory.mktemp("own") / kind.replace(" ", "_")
        return folder, export_bundle(derived(kind), folder, calibration=splits(kind), points=5)

    return export


def loaded(exported: Any, kind: str) -> AdaptiveModel:
    return load(exported(kind)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_exported_and_proved(exported: Any, kind: str) -> None:
    folder, report = exported(kind)
    assert report.parity.passed
    assert verify_bundle(folder).passed
    costs = [point.calibration_macs_fraction for point in report.curve]
    assert min(costs) < 0.5 and max(costs) >= 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_budgets_are_kept_and_quality_rises(exported: Any, kind: str) -> None:
    model, data = loaded(exported, kind), splits(kind).calibration
    feeds = data.named("")
    shares, qualities = [], []
    for share in (0.55, 0.8, 1.2):
        result = model.run(feeds, budget=Budget.fraction(share))
        judged = network(kind).task.judge(result.outputs, data.labels)
        shares.append(float(result.macs_fraction.mean()))
        qualities.append(float(judged.quality.mean()))
        assert shares[-1] <= share + 0.06  # between points of a coarse curve thresholds are interpolated
    assert shares == sorted(shares) and qualities[-1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_each_sample_gives_alone(exported: Any, kind: str) -> None:
    model = loaded(exported, kind)
    feeds = inputs_of(network(kind).network, 5, 9)
    together = model.run(feeds, budget=Budget.fraction(0.6))
    for sample in range(9):
        alone = model.run(
            {name: array[sample : sample + 1] for name, array in feeds.items()}, budget=Budget.fraction(0.6)
        )
        assert alone.macs_fraction[0] == pytest.approx(together.macs_fraction[sample], rel=1e-6)
        for name, array in alone.outputs.items():
            assert np.allclose(array[0], together.outputs[name][sample], atol=1e-4), name
        if together.exit is not None:
            assert alone.exit[0] == together.exit[sample]


@pytest.mark.parametrize("kind", KINDS)
def test_the_work_is_what_the_graphs_multiply(exported: Any, kind: str) -> None:
    """Counted from the ONNX graphs, by code that shares nothing with what wrote the count into them."""
    import onnx

    folder, model = exported(kind)[0], network(kind)
    bundle = load(folder).bundle
    stages = [StageFile(onnx.load(str(folder / s.file)), list(s.carry), list(s.decisions)) for s in bundle.stages]
    arrays = inputs_of(model.network, 7, COUNTED_SAMPLES)
    settings = [
        {
            spec.name: np.full(spec.shape, spec.default + way * (_least(spec) - spec.default), spec.dtype)
            for spec in knobs
        }
        for way in (0.0, 0.4, 0.8)
        if (knobs := model.knob_specs()) or way == 0.0
    ]
    check = check_work(stages, arrays, settings, model.dense_macs_of(arrays))
    assert check.max_error < 1e-6 and check.compared == len(settings) * COUNTED_SAMPLES * len(stages)


def _least(spec: Any) -> float:
    return float(spec.minimum if spec.default == spec.maximum else spec.maximum)


@pytest.mark.parametrize("kind", ["mixture of depths", "matcher"])
def test_the_dense_work_is_each_samples_own(kind: str) -> None:
    model = network(kind)
    arrays = inputs_of(model.network, 3, 4)
    dense = derived(kind).dense
    assert dense is not None
    graph = trace_dense(dense)
    axes = {
        name: ["", *(size if isinstance(size, str) else "" for size in shape[1:])]
        for name, shape in model.declaration.shapes.items()
    }
    counted = [
        count_dense_macs(graph, without_padding({name: array[s : s + 1] for name, array in arrays.items()}, axes))
        for s in range(4)
    ]
    assert counted == model.dense_macs_of(arrays) and len(set(counted)) > 1


@pytest.mark.parametrize("kind", ["exit CNN", "depth map", "matcher"])
def test_everything_runs_in_one_graph_without_exits(exported: Any, kind: str) -> None:
    model = loaded(exported, kind)
    assert model.bundle.dense.unsplit
    feeds = inputs_of(network(kind).network, 5, 9)
    whole, stages = model.run(feeds, budget=Budget.full()), model.run_stages(feeds)[-1]
    assert (whole.macs_fraction == 1).all() and (stages["macs_fraction"] > 1).all()
    assert (whole.exit == len(model.bundle.stages) - 1).all()
    for name, array in whole.outputs.items():
        assert np.allclose(array, stages[name], atol=1e-4), name
    full = [point for point in model.bundle.curve if point.macs_fraction == 1]
    assert full and model.operating_point(Budget.fraction(1.0)).macs_fraction <= 1


def test_a_graph_that_gives_something_else_does_not_stand_for_the_stages(exported: Any, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    folder = exported("exit CNN")[0]
    everything = read_golden(folder / GOLDEN_FILE)[0]
    assert gives_everything(folder / "dense.onnx", everything)
    graph = onnx.load(str(folder / "dense.onnx"))
    weight = graph.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(graph, str(tmp_path / "other.onnx"))
    assert not gives_everything(tmp_path / "other.onnx", everything)


# ---- what was derived ----


def test_inputs_that_are_handed_on_are_fed_by_the_runtime(exported: Any) -> None:
    bundle = loaded(exported, "matcher").bundle
    assert [spec.name for spec in network("matcher").stage_inputs(1)] == ["valid0", "valid1"]
    assert not {carry.name for carry in bundle.stages[1].carry} & {"state_valid0", "state_real0"}
    assert [carry.name for carry in loaded(exported, "depth map").bundle.stages[1].carry] == ["state_x", "macs_before"]


def test_axes_of_the_state_are_named(exported: Any) -> None:
    shapes = {carry.name: carry.shape for carry in loaded(exported, "matcher").bundle.stages[2].carry}
    assert shapes["state_x0"] == ["batch", "taken_0", 16] and shapes["state_real1"] == ["batch", "taken_1"]


def test_several_outputs_of_any_rank(exported: Any) -> None:
    result = loaded(exported, "matcher").run(inputs_of(network("matcher").network, 5, 3))
    assert {name: array.shape for name, array in result.outputs.items() if name != "macs_fraction"} == {
        "scores": (3, 24, 20),
        "matches0": (3, 24),
        "matchability": (3,),
    }
    assert result.outputs["matches0"].dtype == np.int64


def test_other_sizes_of_the_named_axes(exported: Any) -> None:
    """Each set may be of any size, one point alone among them."""
    model, own = loaded(exported, "matcher"), network("matcher")
    arrays = inputs_of(own.network, 5, 3)
    for m, n in ((1, 20), (24, 1), (7, 13)):
        sizes = {"m": m, "n": n}
        cut = {}
        for name, array in arrays.items():
            index = tuple(slice(sizes.get(str(axis))) for axis in own.declaration.shapes[name])
            cut[name] = np.ascontiguousarray(array[index])
        result = model.run(cut)
        share = model.run_stages(cut)[-1]["macs_fraction"]
        with torch.no_grad():
            wanted = own.run_stages({name: torch.from_numpy(array) for name, array in cut.items()}, {})[-1]
        assert np.allclose(result.outputs["scores"], wanted.outputs["scores"].numpy(), atol=1e-4)
        assert np.allclose(share, wanted.macs_fraction.numpy(), rtol=1e-6)


def test_the_networks_own_rule_is_a_point_of_the_curve(exported: Any) -> None:
    folder, report = exported("matcher")
    points = [point for point in report.curve if point.setting == "rule"]
    assert [point.knobs for point in points] == [{"exit_thresholds": [pytest.approx(0.95)] * 2}]
    model = load(folder)
    arrays = inputs_of(network("matcher").network, 5, 16)
    result = model.run(arrays, knobs=points[0].knobs)
    with torch.no_grad():
        stages = network("matcher").run_stages({name: torch.from_numpy(array) for name, array in arrays.items()}, {})
    leaves = np.stack([stage.confidence.numpy() > 0.95 for stage in stages[:-1]])  # type: ignore[union-attr]
    assert np.array_equal(result.exit, np.where(leaves.any(0), leaves.argmax(0), 2))


def test_never_is_infinity_and_thresholds_span_what_was_seen(exported: Any) -> None:
    _, report = exported("depth map")
    thresholds = [point.knobs["exit_thresholds"][0] for point in report.curve]
    assert max(thresholds) == np.inf and all(value < 0 for value in thresholds if np.isfinite(value))


def test_knobs_are_swept_each_entry_by_itself(exported: Any) -> None:
    _, report = exported("mixture of depths")
    walked = [point.knobs["routed"] for point in report.curve if point.setting == "knobs"]
    assert any(len(set(entries)) > 1 for entries in walked)
    assert walked[0] == [1.0, 1.0, 1.0] and walked[-1] == [0.0, 0.0, 0.0]
    together = [point.knobs["routed"] for point in report.curve if point.setting == "together"]
    assert len(together) == 5 and all(len(set(entries)) == 1 for entries in together)


def test_knobs_are_swept_with_exits_too(exported: Any) -> None:
    _, report = exported("matcher")
    settings = {point.setting for point in report.curve}
    assert settings == {"together", "common", "exits", "exits by share", "rule", FULL_SETTING}
    full = [point for point in report.curve if point.setting == FULL_SETTING]
    assert [point.calibration_macs_fraction for point in full] == [1.0]
    common = [point for point in report.curve if point.setting == "common"]
    assert len({point.knobs["prune"] for point in common}) > 1
    assert len({tuple(point.knobs["exit_thresholds"]) for point in common}) > 1
    costs = [point.calibration_macs_fraction for point in common]
    assert costs == sorted(costs)


def test_parts_that_only_early_exits_use() -> None:
    cnn = network("exit CNN")
    assert isinstance(cnn.network, ExitCNN)
    assert cnn.exit_modules() == [cnn.network.heads[0], cnn.network.heads[1]]
    own = {id(p) for module in cnn.exit_modules() for p in module.parameters()}
    assert cnn.dense_parameters() == sum(p.numel() for p in cnn.network.parameters() if id(p) not in own)
    depth = network("depth map")
    assert isinstance(depth.network, DepthMap) and depth.exit_modules() == [depth.network.up[0]]


def test_nested_taking_is_not_assumed() -> None:
    """A router's second block takes from all tokens, not from those that its first took."""
    model = network("mixture of depths")
    assert isinstance(model.network, MixtureOfDepths)
    arrays = {name: torch.from_numpy(array) for name, array in inputs_of(model.network, 5, 8).items()}
    with torch.no_grad():
        (out,) = model.run_stages(arrays, {"routed": torch.tensor([0.5, 0.5, 0.5])})
    taken = [
        {int(index) for index in selection.index[0, : selection.count[0]]}  # type: ignore[union-attr]
        for selection in out.decisions
    ]
    assert not taken[1] <= taken[0] or not taken[2] <= taken[1]


def test_numbers_that_are_looked_up_have_the_tables_limits() -> None:
    (tokens, _) = network("mixture of depths").input_specs()
    assert (tokens.minimum, tokens.maximum) == (0, 49)


def test_margins_are_of_every_call() -> None:
    model = network("matcher")
    assert isinstance(model.network, Matcher)
    arrays = {name: torch.from_numpy(array) for name, array in inputs_of(model.network, 5, 8).items()}
    with torch.no_grad():
        stages = model.run_stages(arrays, {"prune": torch.tensor([0.4])})
    assert [len(stage.decisions) for stage in stages] == [0, 2, 2]
    assert [len(decisions) for decisions in model.stage_decisions()] == [0, 2, 2]


@pytest.mark.parametrize(
    ("kind", "knobs", "told"),
    [
        ("mixture of depths", {"routed": [0.5, 0.5, 0.5]}, {"n": (3, 20)}),
        ("matcher", {"prune": 0.4}, {"m": (2, 24), "n": (2, 20)}),
    ],
)
def test_what_calls_took_is_told(exported: Any, kind: str, knobs: Any, told: dict[str, tuple[int, int]]) -> None:
    model, own = loaded(exported, kind), network(kind)
    arrays = inputs_of(own.network, 5, 4)
    sets = model.run(arrays, knobs=knobs, decisions=True).decisions.sets
    assert {name: decided.kept.shape[1:] for name, decided in sets.items()} == told
    with torch.no_grad():
        values = {name: torch.as_tensor(value, dtype=torch.float32).reshape(-1) for name, value in knobs.items()}
        stages = own.run_stages({name: torch.from_numpy(array) for name, array in arrays.items()}, values)
    counts = [decision.count for stage in stages for decision in stage.decisions]  # type: ignore[union-attr]
    names = [spec.of for stage in model.bundle.stages for spec in stage.decisions]
    for name, decided in sets.items():
        wanted = [count.numpy() for count, of in zip(counts, names, strict=True) if of == name]
        assert np.array_equal(decided.kept.sum(2), np.stack(wanted, 1))
