"""Outputs of any rank and dtype with exits, and stages that take the bundle's inputs once more."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the onnx package makes the bundles")

from adaptrt.runtime import BackendError, Budget, load
from adaptrt.runtime.empty_batch import outputs_of_empty_batch
from adaptrt.runtime.single_sample import SingleSample
from tests import own_outputs_bundle
from tests.own_outputs_bundle import images, texts
from tests.prepared_engines import prepare, require_openvino


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def loaded(request, folder):
    """Every bundle on an engine."""
    if request.param == "openvino":
        require_openvino()
    bundles = {
        "maps": lambda path: own_outputs_bundle.write_maps(path),
        "fixed": lambda path: own_outputs_bundle.write_maps(path, size=4),
        "tags": own_outputs_bundle.write_tags,
        "pooled": own_outputs_bundle.write_pooled,
    }
    models = {}
    for name, write in bundles.items():
        path = folder / request.param / name
        write(path)
        if request.param == "openvino":
            prepare(path)
        models[name] = load(path, threads=1, backend=request.param)
    return models


CASES = {
    "maps": lambda count, seed: images(count, 3, 5, seed),
    "fixed": lambda count, seed: images(count, 4, 4, seed),
    "tags": lambda count, seed: texts(count, 7, seed),
    "pooled": lambda count, seed: texts(count, 7, seed),
}


def thresholds(model, inputs):
    """Those at which about half of the samples leave, at each exit; none is a confidence."""
    told = [np.sort(stage["confidence"]) for stage in model.run_stages(inputs)[:-1]]
    return [float(np.float32((one[len(one) // 2 - 1] + one[len(one) // 2]) / 2)) for one in told]


@pytest.mark.parametrize("name", CASES)
def test_samples_that_leave_have_the_outputs_of_the_stage_where_they_left(loaded, name):
    model, inputs = loaded[name], CASES[name](24, 3)
    cut = thresholds(model, inputs)
    stages = model.run_stages(inputs)
    result = model.run(inputs, knobs={"exit_thresholds": cut})
    assert len(set(result.exit)) == len(stages), "samples leave everywhere"
    names = [spec.name for spec in model.bundle.outputs if spec.name != "macs_fraction"]
    assert list(result.outputs) == names
    for spec in model.bundle.outputs[:-1]:
        assert result.outputs[spec.name].dtype == spec.dtype
        for sample, stage in enumerate(result.exit):
            np.testing.assert_allclose(
                result.outputs[spec.name][sample], stages[stage][spec.name][sample], rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bind", [True, False])
def test_a_sample_alone_has_the_outputs_it_has_beside_others(loaded, name, bind, monkeypatch):
    model, inputs = loaded[name], CASES[name](16, 5)
    if not bind:
        monkeypatch.setattr(model._engines.stages, "_single", None)
    cut = thresholds(model, inputs)
    together = model.run(inputs, knobs={"exit_thresholds": cut})
    for sample in range(16):
        one = {key: array[sample : sample + 1] for key, array in inputs.items()}
        alone = model.run(one, knobs={"exit_thresholds": cut})
        assert alone.exit.tolist() == [together.exit[sample]]
        for key, array in alone.outputs.items():
            np.testing.assert_allclose(array[0], together.outputs[key][sample], rtol=1e-6, atol=1e-6)


def test_one_sample_of_fixed_size_is_bound(loaded):
    assert SingleSample.fits(loaded["fixed"].bundle, "batch") and not SingleSample.fits(loaded["maps"].bundle, "batch")


@pytest.mark.parametrize("name", CASES)
def test_no_samples(loaded, name):
    model = loaded[name]
    inputs = {key: array[:0] for key, array in CASES[name](1, 0).items()}
    result = model.run(inputs)
    some = model.run(CASES[name](2, 0)).outputs
    assert {key: (a.dtype, a.shape) for key, a in result.outputs.items()} == {
        key: (a.dtype, (0, *a.shape[1:])) for key, a in some.items()
    }
    stages = model.run_stages(inputs)
    assert all(stage["macs_fraction"].shape == (0,) for stage in stages)
    _, sizes = model._contract.check(inputs)
    assert outputs_of_empty_batch(model.bundle, "batch", sizes) is not None


def test_a_budget_of_a_bundle_with_a_map(loaded):
    inputs = images(8, 6, 6, 1)
    for share in (0.2, 0.4, 0.6):
        assert loaded["maps"].run(inputs, budget=Budget.fraction(share)).outputs["map"].shape == (8, 2, 6, 6)


def test_tokens_are_cut_where_no_output_has_them(loaded):
    """The longest text leaves: what goes on is as short as the others, whose mask is of the inputs."""
    pooled, tags = loaded["pooled"], loaded["tags"]
    for model, expected in ((pooled, True), (tags, False)):
        steps = model._engines.stages._steps
        assert any(bool(axes) for axes in steps[0].compaction.token_axes.values()) is expected
    inputs, first = longest_is_surest(pooled)
    lengths = []
    backend = pooled.backends[2]
    run_values = backend.run_values

    def spy(feeds, outputs):
        lengths.append({name: backend.to_array(value).shape for name, value in feeds.items()})
        return run_values(feeds, outputs)

    backend.run_values = spy
    try:
        result = pooled.run(inputs, knobs={"exit_thresholds": [float((first[0] + first[1:].max()) / 2), 9.0]})
    finally:
        del backend.run_values
    assert result.exit.tolist() == [0, 2, 2, 2, 2, 2]
    assert lengths == [{"hidden": (5, 3, 4), "valid": (5, 3), "macs_before": (5,)}]


def longest_is_surest(model):
    """Texts of which all but the first have three words at most, and their confidences at the first head."""
    for seed in range(100):
        inputs = texts(6, own_outputs_bundle.LONGEST, seed)
        inputs["mask"][1:, 3:] = False
        inputs["mask"][1, :3] = True
        first = model.run_stages(inputs)[0]["confidence"]
        if first[0] > first[1:].max() + 0.01:
            return inputs, first
    raise AssertionError("no such texts")


def test_a_stage_whose_output_is_of_another_size_is_refused(loaded):
    model = loaded["maps"]
    backend = model.backends[1]
    run_values = backend.run_values

    def shrunk(feeds, outputs):
        values = list(run_values(feeds, outputs))
        place = list(outputs).index("map")
        values[place] = backend.to_value(np.ascontiguousarray(backend.to_array(values[place])[..., :1]))
        return values

    inputs = images(6, 3, 5, 2)
    cut = thresholds(model, inputs)
    backend.run_values = shrunk
    try:
        with pytest.raises(BackendError, match=r"'map' came out as float32 .*expected"):
            model.run(inputs, knobs={"exit_thresholds": cut})
    finally:
        del backend.run_values
