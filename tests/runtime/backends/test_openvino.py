"""OpenVINO itself against ONNX Runtime, on the graphs that are prepared for it."""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from adaptrt.runtime import BackendError, Budget, BundleError, load
from adaptrt.runtime.backends import BackendSettings, StageProgram
from adaptrt.runtime.bundle.bundle_file import TensorSpec
from tests.prepared_engines import prepare, require_openvino

require_openvino()

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOLERANCE = 1e-4
PRICES = (0.0, 0.1, 0.3, 0.6, 1.0)


@pytest.fixture(scope="module", params=["tiny", "exits", "tokens", "exported"])
def folder(request, tmp_path_factory):
    """A bundle that is prepared for OpenVINO."""
    if not (FIXTURES / request.param).is_dir():
        pytest.fail(f"no fixture {request.param}")
    target = tmp_path_factory.mktemp("openvino") / request.param
    shutil.copytree(FIXTURES / request.param, target)
    prepare(target)
    return target


@pytest.fixture(scope="module")
def models(folder):
    return load(folder, threads=1), load(folder, threads=1, backend="openvino")


def draw(model, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of a batch; axes that count something else get 7."""
    generator = np.random.default_rng(seed)
    arrays = {}
    axis = next(spec.shape[0] for spec in model.bundle.outputs if spec.name == "macs_fraction")
    for spec in model.bundle.inputs:
        shape = [batch if size == axis else 7 if isinstance(size, str) else size for size in spec.shape]
        if spec.dtype == "bool":
            arrays[spec.name] = np.ones(shape, bool)
        elif np.dtype(spec.dtype).kind == "f":
            arrays[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
        else:
            arrays[spec.name] = generator.integers(0, 5, shape).astype(spec.dtype)
    return arrays


def largest_difference(ours, theirs) -> float:
    """Between two results; whole numbers and what was decided must agree exactly."""
    assert ours.outputs.keys() == theirs.outputs.keys() and ours.outputs
    if theirs.exit is not None:
        np.testing.assert_array_equal(ours.exit, theirs.exit)
    worst = 0.0
    pairs = [*((ours.outputs[name], array) for name, array in theirs.outputs.items())]
    for one, other in [*pairs, (ours.macs_fraction, theirs.macs_fraction)]:
        assert one.shape == other.shape and one.dtype == other.dtype
        if other.dtype.kind != "f":
            np.testing.assert_array_equal(one, other)
        elif other.size:
            worst = max(worst, float(np.abs(one.astype(np.float64) - other).max()))
    return worst


def knob_settings(model):
    """Five prices, and where there are exits thresholds at which some samples leave."""
    for price in PRICES:
        knobs = {}
        for knob in model.bundle.knobs:
            if "price" in knob.name:
                knobs[knob.name] = knob.minimum + price * (min(knob.maximum, 1.0) - knob.minimum)
            if knob.name == "exit_thresholds":
                knobs[knob.name] = min(knob.maximum, 0.35 + 0.1 * price)
        yield knobs


@pytest.mark.parametrize("batch", [1, 5])
def test_agrees_with_onnx_runtime(models, batch):
    portable, openvino = models
    exits = set()
    shares = []
    for seed, knobs in enumerate(knob_settings(portable)):
        arrays = draw(portable, batch, seed)
        expected = portable.run(arrays, knobs=knobs)
        assert largest_difference(openvino.run(arrays, knobs=knobs), expected) <= TOLERANCE
        exits |= set() if expected.exit is None else set(expected.exit.tolist())
        shares.append(float(expected.macs_fraction.mean()))
    assert len({round(share, 6) for share in shares}) > 1, "the knobs changed nothing"
    if len(portable.bundle.stages) > 1 and batch > 1:
        assert len(exits) > 1, "every sample left at the same stage"


def test_the_comparison_can_fail(models):
    portable, _ = models
    one = portable.run(draw(portable, 3, 1))
    assert largest_difference(one, portable.run(draw(portable, 3, 2))) > TOLERANCE


def test_decisions_agree(models):
    portable, _ = models
    if not any(stage.decisions for stage in portable.bundle.stages):
        return
    arrays = draw(portable, 4)
    expected, found = (model.run(arrays, decisions=True).decisions for model in models)
    np.testing.assert_array_equal(found.learners, expected.learners)
    np.testing.assert_array_equal(found.kept, expected.kept)


def test_each_stage_on_all_samples_agrees(models):
    portable, openvino = models
    arrays = draw(portable, 3)
    for expected, found in zip(portable.run_stages(arrays), openvino.run_stages(arrays), strict=True):
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, atol=TOLERANCE, rtol=0)


def test_results_are_the_callers_own(models):
    _, openvino = models
    first, second = draw(openvino, 2, 1), draw(openvino, 2, 2)
    result = openvino.run(first)
    kept = {name: array.copy() for name, array in result.outputs.items()}
    openvino.run(second)
    for name, array in result.outputs.items():
        np.testing.assert_array_equal(array, kept[name])
        array[...] = 0  # may be written
    np.testing.assert_array_equal(openvino.run(first).macs_fraction, result.macs_fraction)


def test_many_threads_each_get_their_own_answer(models):
    portable, openvino = models
    work = [(draw(portable, 1 + seed % 3, seed), knobs) for seed, knobs in enumerate([*knob_settings(portable)] * 4)]
    expected = [portable.run(arrays, knobs=knobs) for arrays, knobs in work]
    differences: list[float] = []
    errors: list[Exception] = []
    start = threading.Barrier(4)

    def run(turn: int) -> None:
        try:
            start.wait()
            for number in range(turn, len(work), 2):  # two threads do each piece
                found = openvino.run(work[number][0], knobs=work[number][1])
                differences.append(largest_difference(found, expected[number]))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(turn % 2,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(differences) == 2 * len(work)
    assert max(differences) <= TOLERANCE


def test_inputs_may_be_read_only_or_not_contiguous(models):
    portable, openvino = models
    arrays = draw(portable, 4)
    expected = openvino.run(arrays)
    odd = {}
    for name, array in arrays.items():
        odd[name] = np.asfortranarray(array)
        odd[name].flags.writeable = False
    assert largest_difference(openvino.run(odd), expected) == 0


def test_no_samples(models):
    portable, openvino = models
    assert largest_difference(openvino.run(draw(portable, 0)), portable.run(draw(portable, 0))) == 0


def test_says_what_runs(models):
    assert [model.backend_name for model in models] == ["onnxruntime", "openvino"]
    assert models[1].backend_reason == "it was asked for"
    assert models[1].backend.compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert models[1].backend.compiled.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.fixture
def prepared(tiny):
    prepare(tiny)
    return tiny


def test_bfloat16_is_what_was_asked_for_or_an_error(prepared, x):
    from adaptrt.runtime.backends.openvino import import_openvino

    if "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        model = load(prepared, backend="openvino", precision="bf16")
        assert model.backend.compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "bf16"
        expected = load(prepared).run({"x": x}).outputs["logits"]
        np.testing.assert_allclose(model.run({"x": x}).outputs["logits"], expected, atol=0.2)
    else:
        with pytest.raises(BackendError, match="would compute in"):
            load(prepared, backend="openvino", precision="bf16")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"precision": "int4"}, "precision='int4', expected one of 'fp32', 'bf16', 'fp16', 'int8'"),
        ({"threads": 0}, "threads=0, expected 1 to 1024"),
        ({"providers": ["CPUExecutionProvider"]}, "they are ONNX Runtime's"),
    ],
)
def test_wrong_settings(prepared, settings, match):
    with pytest.raises(BackendError, match=match):
        load(prepared, backend="openvino", **settings)


def test_not_prepared(tiny):
    with pytest.raises(BundleError, match=r"run `adaptrt build .* --target openvino`"):
        load(tiny, backend="openvino")


def test_prepared_from_another_export(prepared, replace_model):
    model = (prepared / "model.onnx").read_bytes()
    replace_model(prepared, model + b"\x0a\x00")  # an empty field more: another file
    with pytest.raises(BundleError, match=r"exported again since; run `adaptrt build .* --target openvino`"):
        load(prepared, backend="openvino")


def test_altered(prepared):
    file = prepared / "engines" / "openvino-fp32" / "stage0.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="sha256 is .*adaptrt build"):
        load(prepared, backend="openvino")


def test_refused_by_openvino(tiny):
    prepare(tiny, convert=lambda model: model)  # local functions, which it does not know
    with pytest.raises(BackendError, match=r"openvino [\d.]+ refuses it .*adaptrt build") as caught:
        load(tiny, backend="openvino")
    assert "\n" not in str(caught.value)


def test_a_failure_while_running_leaves_it_usable(prepared, x):
    model = load(prepared, backend="openvino")
    expected = model.run({"x": x}).outputs["logits"]
    with pytest.raises(BackendError, match=r"openvino [\d.]+ failed on x \[2, 9\]"):
        model.backend.run({"x": np.zeros((2, 9), np.float32), "price": np.zeros(1, np.float32)})
    np.testing.assert_array_equal(model.run({"x": x}).outputs["logits"], expected)


def test_weights_beside_the_prepared_graph(tmp_path):
    import onnx
    import onnx.numpy_helper
    from onnx import helper

    from adaptrt.runtime.backends.openvino import OpenVinoBackend

    weight = onnx.numpy_helper.from_array(np.arange(600, dtype=np.float32).reshape(2, 300), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["batch", 2])],
        [helper.make_tensor_value_info("y", 1, ["batch", 300])],
        [weight],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    file = tmp_path / "stage0.onnx"
    onnx.save_model(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    backend = OpenVinoBackend(StageProgram(file.read_bytes(), file, tmp_path, ("y",)), BackendSettings(threads=1))
    assert backend.outputs["y"] == TensorSpec("y", "float32", ["?", 300])
    x = np.ones((3, 2), np.float32)
    np.testing.assert_allclose(backend.run({"x": x})["y"], x @ np.arange(600).reshape(2, 300))


def test_one_sample_over_bound_buffers(tmp_path):
    folder = Path(shutil.copytree(FIXTURES / "exits", tmp_path / "exits"))
    prepare(folder)
    model = load(folder, backend="openvino", threads=1)
    single = model._engines.stages._single
    if single is None:
        pytest.fail("the fixture's sizes are no longer fixed")
    arrays = draw(model, 1)
    feeds = {**arrays, **{k.name: np.full(k.shape, k.default, k.dtype) for k in model.bundle.knobs}}
    thresholds = [float("inf")] * (len(model.bundle.stages) - 1)
    outputs, exits = single.run(feeds, thresholds)
    gc.collect()
    again, _ = single.run(feeds, thresholds)
    expected = load(folder).run(arrays)
    assert exits.tolist() == [len(thresholds)]
    for name in expected.outputs:
        np.testing.assert_allclose(outputs[name], expected.outputs[name], atol=TOLERANCE)
        np.testing.assert_array_equal(again[name], outputs[name])


def test_budgets_are_obeyed_alike(prepared, x):
    portable, openvino = load(prepared), load(prepared, backend="openvino")
    for fraction in (0.3, 0.6, 1.0):
        budget = Budget.fraction(fraction)
        difference = largest_difference(openvino.run({"x": x}, budget=budget), portable.run({"x": x}, budget=budget))
        assert difference <= TOLERANCE
