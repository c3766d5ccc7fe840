"""Parity checks, and that they can fail."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from adaptrt.export.errors import ExportError, ParityError
from adaptrt.export.exporter import ExportReport, export_bundle
from adaptrt.export.graph.bodies import attach_bodies
from adaptrt.export.graph.trace import trace, trace_dense
from adaptrt.export.parity.check import check_parity, knob_defaults, parity_settings
from adaptrt.export.parity.comparison import TIE, ParityReport, ParityRow, compare, count_flips
from adaptrt.export.parity.reference import Reference, StageValues, encode_golden, read_golden, run_reference
from adaptrt.export.parity.stage_graphs import StageFile, StageGraphs
from adaptrt.export.parity.verify import verify_bundle
from adaptrt.models import Network
from adaptrt.runtime import BundleError
from adaptrt.runtime.bundle.schema import DecisionSpec
from tests.export.conftest import SHAPE, source, tiny_data, tiny_model

IMAGES = np.random.default_rng(3).random((64, 1, 4, 4), dtype=np.float32)
INPUTS = {"pixels": IMAGES}


def staged(graph: onnx.ModelProto) -> list[StageFile]:
    """A graph of one stage with its decisions."""
    names = [output.name for output in graph.graph.output if output.name.startswith("learners_")]
    decisions = [DecisionSpec("learners", number, {"runs": name}) for number, name in enumerate(names)]
    return [StageFile(graph, [], decisions)]


def check(model: Network, graph: onnx.ModelProto, inputs: np.ndarray, prices: list[float]) -> ParityReport:
    return check_parity(model, staged(graph), {"pixels": inputs}, [{"price": price} for price in prices])


def prices_of(model: Network) -> list[float]:
    return [setting["price"] for setting in parity_settings(model, INPUTS)]


def compared(model: Network, graph: onnx.ModelProto, reference: Reference) -> ParityRow:
    return compare(StageGraphs(staged(graph), knob_defaults(model)), reference)


def test_torch_and_the_graph_agree(model: Network, graph: onnx.ModelProto) -> None:
    prices = prices_of(model)
    assert len(prices) >= 5
    report = check(model, graph, IMAGES, prices)
    assert report.require("tiny").passed
    compared_at = {(np.float32(row.price), row.batch) for row in report.rows}
    assert compared_at == {(np.float32(price), batch) for price in prices for batch in (1, 2, 64)}
    tokens = model.config.tokens * len(model.gates())
    assert all(row.decisions == row.samples * tokens and row.flips == 0 for row in report.rows)
    assert {row.agreeing for row in report.rows} == {1.0}


def test_changed_weights_are_noticed(model: Network, graph: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    weights = next(tensor for tensor in changed.graph.initializer if len(tensor.dims) == 3)
    array = onnx.numpy_helper.to_array(weights).copy()
    array[0] *= 1.05
    weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
    low, _ = model.price_limits()
    report = check(model, changed, IMAGES, [low])
    assert not report.passed
    with pytest.raises(ParityError, match=r"tiny: at price .* outputs differ by"):
        report.require("tiny")


def test_a_changed_gate_is_noticed_as_flips() -> None:
    model = tiny_model()
    graph = trace(model)
    attach_bodies(graph)
    with torch.no_grad():
        model.blocks[1].ffn.gate.outer.bias += 0.05  # type: ignore[union-attr, operator]
    prices = prices_of(model)
    report = check(model, graph, IMAGES, prices[1:-1])
    assert sum(row.flips for row in report.rows) > 0
    with pytest.raises(ParityError, match="decisions differ outside ties, expected 0"):
        report.require("tiny")


def test_nothing_compared_is_a_failure(model: Network, graph: onnx.ModelProto) -> None:
    with pytest.raises(ParityError, match="nothing was compared"):
        check(model, graph, IMAGES, []).require("tiny")
    with pytest.raises(ParityError, match="nothing was compared"):
        check(model, graph, IMAGES[:0], [0.5]).require("tiny")
    empty = compared(model, graph, run_reference(model, {"pixels": IMAGES[:0]}, {"price": 0.5}))
    assert empty.samples == 0
    assert not ParityReport([empty]).passed


def test_nan_never_passes(model: Network, graph: onnx.ModelProto) -> None:
    reference = run_reference(model, {"pixels": IMAGES[:2]}, {"price": 0.5})
    values = StageValues({"logits": np.full_like(reference.outputs["logits"], np.nan)}, reference.macs_fraction)
    broken = dataclasses.replace(reference, stages=[values])
    assert not ParityReport([compared(model, graph, broken)]).passed


def test_a_graph_of_another_model_is_refused(model: Network) -> None:
    reference = run_reference(model, {"pixels": IMAGES[:2]}, {"price": 0.5})
    with pytest.raises(ParityError, match="gates and 0 selections, expected 0 and 0 as in the graph"):
        compared(model, trace_dense(Network.from_config(SHAPE).eval()), reference)


@pytest.mark.parametrize(
    ("margin", "chosen", "wanted", "counted"),
    [
        ([0.3, 0.1, -0.2], 2, 2, (0, 0)),
        ([0.3, 0.1, -0.2], 1, 2, (1, 0)),
        ([0.3, TIE / 2, -0.2], 1, 2, (0, 1)),
        ([0.3, -TIE / 2, -0.2], 2, 1, (0, 1)),
        ([0.3, TIE / 2, TIE / 3], 1, 3, (0, 1)),
        ([0.3, TIE / 2, 0.2], 1, 3, (1, 0)),  # only one of the two comparisons between 1 and 3 is a tie
        ([TIE / 2, -0.1, -0.2], 2, 1, (1, 0)),  # the tie is at another learner
    ],
)
def test_flips_and_ties(margin: list[float], chosen: int, wanted: int, counted: tuple[int, int]) -> None:
    margins = np.array([[margin]], np.float32)
    assert count_flips(np.array([[chosen]], np.int32), np.array([[wanted]], np.int32), margins) == counted


def test_ties_of_an_argmax_gate() -> None:
    one, two = np.array([[1]], np.int32), np.array([[2]], np.int32)
    assert count_flips(one, two, np.array([[[TIE / 2]]], np.float32)) == (0, 1)
    assert count_flips(one, two, np.array([[[2 * TIE]]], np.float32)) == (1, 0)


def test_decisions_of_different_shapes_are_refused() -> None:
    k = np.zeros((2, 5), np.int32)
    with pytest.raises(ParityError, match="got decisions of shape"):
        count_flips(k, k[:1], np.zeros((1, 5, 2), np.float32))


def test_a_bundle_verifies_itself(exported: ExportReport) -> None:
    report = verify_bundle(exported.bundle_folder)
    assert report.passed and len(report.rows) >= 5


def test_golden_runs_come_back(model: Network, tmp_path: Path) -> None:
    references = [run_reference(model, {"pixels": IMAGES[:3]}, {"price": price}) for price in (0.2, 0.6)]
    (tmp_path / "golden.npz").write_bytes(encode_golden(references))
    for got, wanted in zip(read_golden(tmp_path / "golden.npz"), references, strict=True):
        for name in ("k", "margin", "kept", "selection_margin", "macs_fraction"):
            np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
        assert got.outputs.keys() == wanted.outputs.keys() == {"logits"}
        np.testing.assert_array_equal(got.outputs["logits"], wanted.outputs["logits"])
        np.testing.assert_array_equal(got.inputs["pixels"], IMAGES[:3])
        assert got.knobs == wanted.knobs


def test_golden_arrays_that_do_not_fit_together_are_named(bundle: Path) -> None:
    references = read_golden(bundle / "golden.npz")
    fewer = [dataclasses.replace(r, inputs={"pixels": r.inputs["pixels"][:-1]}) for r in references]
    (bundle / "golden.npz").write_bytes(encode_golden(fewer))
    with pytest.raises(ExportError, match="cannot read"):
        verify_bundle(bundle)
    wide = [dataclasses.replace(r, k=r.k.astype(np.int64)) for r in references]
    (bundle / "golden.npz").write_bytes(encode_golden(wide))
    with pytest.raises(ExportError, match=r"k is int64 .*, expected int32"):
        verify_bundle(bundle)


def test_at_the_lowest_price_a_tie_excuses_nothing() -> None:
    k, margin = np.array([[1]], np.int32), np.array([[[0.4, TIE / 2]]], np.float32)
    assert count_flips(k, k + 1, margin) == (0, 1)
    assert count_flips(k, k + 1, margin, tie=0.0) == (1, 0)


def test_work_that_differs_without_a_tie_is_a_failure(model: Network, graph: onnx.ModelProto) -> None:
    low, high = model.price_limits()
    reference = run_reference(model, {"pixels": IMAGES[:4]}, {"price": low + 0.37 * (high - low)})
    values = StageValues(reference.outputs, reference.macs_fraction + np.float32(0.01))
    row = compared(model, graph, dataclasses.replace(reference, stages=[values]))
    assert row.agreeing == 0 and row.unexplained > 0 and "free-running without a tie" in " ".join(row.failures())


def test_few_samples_are_still_compared_at_every_batch_size(tmp_path: Path) -> None:
    data = tiny_data(10)
    report = export_bundle(source(), tmp_path / "few", calibration=data, points=3)
    assert {row.batch for row in report.parity.rows} == {1, 2, 64}
    assert len({row.price for row in report.parity.rows}) == 7


def test_golden_runs_that_differ_fail(bundle: Path) -> None:
    references = read_golden(bundle / "golden.npz")
    changed = [
        dataclasses.replace(
            r, stages=[StageValues({"logits": r.outputs["logits"] + np.float32(1e-3)}, r.macs_fraction)]
        )
        for r in references
    ]
    (bundle / "golden.npz").write_bytes(encode_golden(changed))
    with pytest.raises(ParityError, match="outputs differ by 1.0"):
        verify_bundle(bundle)


def test_damaged_or_missing_golden_runs_are_named(bundle: Path) -> None:
    path = bundle / "golden.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ExportError, match=r"cannot read .*golden\.npz"):
        verify_bundle(bundle)
    path.unlink()
    with pytest.raises(ExportError, match=r"has no golden\.npz"):
        verify_bundle(bundle)


def test_a_changed_graph_is_refused_before_it_is_run(bundle: Path) -> None:
    path = bundle / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="sha256"):
        verify_bundle(bundle)
