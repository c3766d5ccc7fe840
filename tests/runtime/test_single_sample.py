"""One sample over bound buffers: the same answers as in a batch, each the caller's own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from adaptrt.runtime import BackendError, load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.stage_validation import batch_axis
from adaptrt.runtime.single_sample import SingleSample
from tests.runtime.conftest import FIXTURES
from tests.runtime.test_stages import exits_inputs, rows

KNOBS = {"price": 0.5, "exit_thresholds": [0.7, 0.45]}


def fits(folder):
    bundle = read_bundle(folder)
    return SingleSample.fits(bundle, batch_axis(bundle))


def test_it_fits_where_all_sizes_but_the_batch_are_fixed():
    assert fits(FIXTURES / "exits")
    assert not fits(FIXTURES / "tokens")  # what is carried is as long as the tokens kept
    assert not fits(FIXTURES / "tiny")  # one stage


def test_it_is_what_runs_one_sample(exits_model, monkeypatch):
    def refuse(*_):
        raise AssertionError("the single sample ran")

    monkeypatch.setattr(SingleSample, "run", refuse)
    with pytest.raises(AssertionError, match="single sample"):
        exits_model.run(exits_inputs(1))
    exits_model.run(exits_inputs(2))


@pytest.mark.parametrize("knobs", [KNOBS, {}, {"price": 0.0, "exit_thresholds": 0.0}])
def test_alone_or_in_a_batch(exits_model, knobs):
    inputs = exits_inputs(40)
    together = exits_model.run(inputs, knobs=knobs)
    for number in range(40):
        alone = exits_model.run(rows(inputs, [number]), knobs=knobs)
        assert alone.exit.dtype == np.int64 and alone.exit.tolist() == [together.exit[number]]
        np.testing.assert_allclose(alone.outputs["logits"][0], together.outputs["logits"][number], atol=1e-6)
        assert alone.macs_fraction[0] == together.macs_fraction[number]
        assert list(alone.outputs) == ["logits"]


def test_results_are_the_callers_own(exits_model):
    inputs = exits_inputs(3)
    first = exits_model.run(rows(inputs, [0]), knobs=KNOBS)
    logits, work = first.outputs["logits"].copy(), first.macs_fraction.copy()
    exits_model.run(rows(inputs, [1]), knobs=KNOBS)
    exits_model.run(rows(inputs, [2]))
    np.testing.assert_array_equal(first.outputs["logits"], logits)
    np.testing.assert_array_equal(first.macs_fraction, work)


def test_inputs_need_not_be_contiguous(exits_model):
    inputs = exits_inputs(2)
    strided = {**inputs, "x": np.repeat(inputs["x"], 2, axis=1)[:, ::2]}
    assert not strided["x"].flags.c_contiguous
    for number in range(2):
        alone = exits_model.run(rows(strided, slice(number, number + 1)), knobs=KNOBS)
        plain = exits_model.run(rows(inputs, [number]), knobs=KNOBS)
        np.testing.assert_array_equal(alone.outputs["logits"], plain.outputs["logits"])


def test_many_threads_at_once(exits_model):
    inputs = exits_inputs(40)
    together = exits_model.run(inputs, knobs=KNOBS)

    def alone(number):
        for _ in range(20):
            found = exits_model.run(rows(inputs, [number]), knobs=KNOBS)
            assert found.exit[0] == together.exit[number]
            np.testing.assert_allclose(found.outputs["logits"][0], together.outputs["logits"][number], atol=1e-6)
        return number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(alone, range(40))) == list(range(40))


def test_an_engine_that_fails_says_which_stage(monkeypatch):
    model = load(FIXTURES / "exits", threads=1)
    backend = model.backends[1]
    monkeypatch.setattr(backend, "session", _Failing(backend.session))
    with pytest.raises(BackendError, match=r"stage1.onnx: onnxruntime .* failed on .*out of luck"):
        model.run(exits_inputs(1))


def test_an_engine_that_works_elsewhere_is_given_arrays(monkeypatch):
    model, inputs = load(FIXTURES / "exits", threads=1), exits_inputs(1)
    wanted = model.run(inputs, knobs=KNOBS)
    asked = []
    for backend in model.backends:
        monkeypatch.setattr(backend, "bind", lambda *_: asked.append(1))
    model._engines.stages._single._idle.clear()
    model.run(inputs)
    found = model.run(inputs, knobs=KNOBS)
    assert asked == [1]  # once, not at every call
    np.testing.assert_array_equal(found.outputs["logits"], wanted.outputs["logits"])
    np.testing.assert_array_equal(found.exit, wanted.exit)


class _Failing:
    """A session whose bound runs fail."""

    def __init__(self, session):
        self._session = session

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run_with_iobinding(self, _binding):
        raise RuntimeError("out of luck")


def test_stages_share_an_arena_where_the_engine_has_them():
    from adaptrt.runtime.backends.onnxruntime import _shares_memory

    def refuse(*_):
        raise RuntimeError("no arenas here")

    kinds = SimpleNamespace(ORT_ARENA_ALLOCATOR=0)
    parts = {"OrtAllocatorType": kinds, "OrtMemType": SimpleNamespace(DEFAULT=0), "OrtMemoryInfo": lambda *_: None}
    made = []
    able = _Engine(create_and_register_allocator=lambda *_: made.append(1), **parts)
    assert _shares_memory(able) and _shares_memory(able)
    assert made == [1]  # once per process
    assert not _shares_memory(_Engine(create_and_register_allocator=refuse, **parts))


class _Engine:
    """As much of the onnxruntime module as arenas need."""

    def __init__(self, **parts):
        self.__dict__.update(parts)
