"""The dense model's graph runs where everything would, and nowhere else."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptrt.runtime import AdaptiveModel, Budget, BundleError, load
from tests.runtime.conftest import FIXTURES
from tests.runtime.test_stages import exits_inputs

onnx = pytest.importorskip("onnx")

MARK = 7.0
"""What the graph answers with here, so that a test sees which one ran."""
ZEROS = ", ".join(["0.0"] * 18)
GRAPH = """<ir_version: 10, opset_import: ["" : 20]>
unsplit (float[batch, 6] x) => (float[batch, 3] logits) <float[6, 3] w = {ZEROS}, float[1] mark = {7.0}>
{
    nothing = MatMul(x, w)
    logits = Add(nothing, mark)
}
""".replace("ZEROS", ZEROS)


WITH_WORK = GRAPH.replace("logits)", "logits, float[batch] macs_fraction)").replace(
    "    logits = Add",
    """    axis = Constant <value_ints = [1]> ()
    summed = ReduceSum <keepdims: int = 0> (x, axis)
    unsummed = Sub(summed, summed)
    share = Constant <value_float = 0.75> ()
    macs_fraction = Add(unsummed, share)
    logits = Add""",
)
"""Of a model that the stages were adapted from: it says its share of work, too."""


def with_dense(folder: Path, edit: Any, text: str = GRAPH, *, of: str = "unsplit") -> Path:
    graph = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)).SerializeToString()
    (folder / "dense.onnx").write_bytes(graph)
    dense = {"file": "dense.onnx", "sha256": hashlib.sha256(graph).hexdigest(), of: True}
    edit(folder, lambda content: content["dense"].update(dense))
    return folder


@pytest.fixture
def folder(exits: Path, edit: Any) -> Path:
    return with_dense(exits, edit)


@pytest.fixture
def model(folder: Path) -> AdaptiveModel:
    return load(folder, threads=1)


def ran_unsplit(result: Any) -> bool:
    return bool(len(result.outputs["logits"])) and bool((result.outputs["logits"] == MARK).all())


@pytest.mark.parametrize("samples", [1, 5])
def test_it_runs_where_everything_does(model: AdaptiveModel, samples: int) -> None:
    result = model.run(exits_inputs(samples), budget=Budget.full())
    assert ran_unsplit(result)
    np.testing.assert_array_equal(result.macs_fraction, np.ones(samples, np.float32))
    np.testing.assert_array_equal(result.exit, np.full(samples, 2))
    assert ran_unsplit(model.run(exits_inputs(samples), knobs={}))


@pytest.mark.parametrize(
    "asked",
    [
        {"knobs": {"price": 0.5}},
        {"knobs": {"exit_thresholds": [np.inf, 2.0]}},
        {"budget": Budget.fraction(0.3)},
        {"decisions": True},
        {"deadline_ms": 1e6},
    ],
    ids=str,
)
def test_it_runs_nowhere_else(model: AdaptiveModel, asked: dict[str, Any]) -> None:
    if "decisions" in asked and not any(stage.decisions for stage in model.bundle.stages):
        with pytest.raises(Exception, match="decisions"):
            model.run(exits_inputs(4), **asked)
        return
    result = model.run(exits_inputs(4), **asked)
    other = load(FIXTURES / "exits", threads=1).run(exits_inputs(4), **asked)
    np.testing.assert_array_equal(result.outputs["logits"], other.outputs["logits"])
    assert not ran_unsplit(result)


def test_what_the_stages_were_adapted_from_says_its_work(exits: Path, edit: Any) -> None:
    model = load(with_dense(exits, edit, WITH_WORK, of="answers_full"), threads=1)
    result = model.run(exits_inputs(5), budget=Budget.full())
    assert ran_unsplit(result)
    np.testing.assert_array_equal(result.macs_fraction, np.full(5, 0.75, np.float32))
    np.testing.assert_array_equal(result.exit, np.full(5, 2))
    assert not ran_unsplit(model.run(exits_inputs(5), budget=Budget.fraction(0.3)))


def test_it_answers_for_one_stage_as_well(tiny: Path, edit: Any) -> None:
    text = WITH_WORK.replace("6, 3]", "4, 3]").replace("batch, 6]", "batch, 4]").replace(ZEROS, ZEROS[: 12 * 5 - 2])
    model = load(with_dense(tiny, edit, text, of="answers_full"), threads=1)
    x = {"x": np.ones((3, 4), np.float32)}
    result = model.run(x)
    assert ran_unsplit(result) and result.exit is None
    np.testing.assert_array_equal(result.macs_fraction, np.full(3, 0.75, np.float32))
    assert model.run({"x": x["x"][:0]}).outputs["logits"].shape == (0, 3)
    assert not ran_unsplit(model.run(x, knobs={"price": 0.5}))


def test_what_answers_full_budgets_has_to_say_its_work(exits: Path, edit: Any) -> None:
    with pytest.raises(BundleError, match="macs_fraction"):
        load(with_dense(exits, edit, of="answers_full"))
    edit(exits, lambda content: content["dense"].update(file=None, sha256=None))
    with pytest.raises(BundleError, match="dense: answers_full true"):
        load(exits)


def test_every_stage_is_still_there_for_calibration(model: AdaptiveModel) -> None:
    stages = model.run_stages(exits_inputs(3))
    assert len(stages) == 3 and not (stages[-1]["logits"] == MARK).any()


def test_no_samples(model: AdaptiveModel) -> None:
    result = model.run(exits_inputs(0), budget=Budget.full())
    assert result.outputs["logits"].shape == (0, 3) and result.exit is not None and result.exit.shape == (0,)


def test_a_device_may_leave_the_file_out(folder: Path) -> None:
    (folder / "dense.onnx").unlink()
    assert not ran_unsplit(load(folder, threads=1).run(exits_inputs(2), budget=Budget.full()))


def test_a_damaged_file_is_refused_when_it_is_loaded(folder: Path) -> None:
    (folder / "dense.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"dense\.onnx"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GRAPH.replace("] x)", "] y)").replace("MatMul(x", "MatMul(y"), r"inputs are \['y'\]"),
        (GRAPH.replace("logits", "scores"), r"outputs \['scores'\]"),
        (GRAPH.replace(ZEROS, ZEROS[:28]).replace("6, 3]", "6, 1]").replace("batch, 3]", "batch, 1]"), "logits"),
    ],
    ids=["inputs", "outputs", "shape"],
)  # fmt: skip
def test_a_graph_of_another_network_is_refused(exits: Path, edit: Any, text: str, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        load(with_dense(exits, edit, text))


def test_it_takes_several_stages_and_a_file(tmp_path: Path, folder: Path, edit: Any) -> None:
    edit(folder, lambda content: content["dense"].update(file=None, sha256=None))
    with pytest.raises(BundleError, match="dense: unsplit true"):
        load(folder)
    tiny = Path(shutil.copytree(FIXTURES / "tiny", tmp_path / "tiny"))
    edit(tiny, lambda content: content["dense"].update(unsplit=True))
    with pytest.raises(BundleError, match="dense: unsplit true"):
        load(tiny)
