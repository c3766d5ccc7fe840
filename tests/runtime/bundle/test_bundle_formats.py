"""What a bundle says of its inputs' limits, how infinity is written, and bundles of the format before."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from adaptrt.runtime import Budget, BundleError, load
from adaptrt.runtime.bundle.bundle_file import encode_bundle, read_bundle

FIXTURES = Path(__file__).parents[1] / "fixtures"
OLD = FIXTURES / "format_1"


@pytest.fixture
def texts(tmp_path):
    return Path(shutil.copytree(FIXTURES / "texts", tmp_path / "texts"))


def refused(folder, match):
    with pytest.raises(BundleError, match=match) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)


WRONG = {
    "no limits": (lambda b: b["inputs"][0].update(minimum=None, maximum=None), "minimum None, maximum None of int64"),
    "one limit": (lambda b: b["inputs"][0].update(maximum=None), "minimum 0, maximum None of int64, expected both"),
    "limits the wrong way round": (lambda b: b["inputs"][0].update(minimum=5, maximum=4), "minimum 5, maximum 4"),
    "limits beyond the dtype": (lambda b: b["inputs"][0].update(maximum=2**63), "maximum 9223372036854775808"),
    "limits of booleans": (lambda b: b["inputs"][1].update(minimum=0, maximum=1), "of bool, expected limits of whole"),
    "limits of fractions": (lambda b: b["inputs"][2].update(minimum=0, maximum=1), "of float32, expected limits of"),
    "an axis left out": (lambda b: b["axes"].pop("length"), "axes: 'batch', expected exactly .*'batch', 'length'"),
    "an axis too many": (lambda b: b["axes"].update(width={"longest": 4}), "axes: 'batch', 'length', 'width'"),
    "an axis without an end": (lambda b: b["axes"]["length"].pop("longest"), "'length': no longest"),
    "an axis that ends before it begins": (lambda b: b["axes"]["length"].update(shortest=13), "'length': 13 to 12"),
    "an axis of nothing": (lambda b: b["axes"]["length"].update(shortest=0, longest=0), "'length': 0 to 0"),
    "an axis of less than nothing": (lambda b: b["axes"]["length"].update(shortest=-1), "'length': -1 to 12"),
    "an axis that is none": (lambda b: b["axes"].update(length=12), "axes"),
    "no axes": (lambda b: b.pop("axes"), "axes: none, expected exactly those of the inputs"),
}


@pytest.mark.parametrize("change,match", WRONG.values(), ids=WRONG)
def test_wrong_limits(texts, edit, change, match):
    edit(texts, change)
    refused(texts, match)


def test_a_longest_batch_is_obeyed(texts, edit):
    from adaptrt.runtime import InputError
    from tests.runtime.test_bad_inputs import good

    edit(texts, lambda b: b["axes"]["batch"].update(shortest=1, longest=2))
    model = load(texts, threads=1)
    with pytest.raises(InputError, match="where batch is 3, expected 1 to 2; cut it"):
        model.run(good())


def test_infinity_is_null_in_json_and_comes_back(exits):
    content = json.loads((exits / "bundle.json").read_text())
    knob = next(knob for knob in content["knobs"] if knob["name"] == "exit_thresholds")
    assert (knob["minimum"], knob["maximum"], knob["default"]) == (None, None, None)
    assert content["curve"][-1]["knobs"]["exit_thresholds"] == [None, None]
    bundle = read_bundle(exits)
    knob = next(knob for knob in bundle.knobs if knob.name == "exit_thresholds")
    assert (knob.minimum, knob.maximum, knob.default) == (-math.inf, math.inf, math.inf)
    assert bundle.curve[-1].knobs["exit_thresholds"] == [math.inf, math.inf]
    assert encode_bundle(bundle) == (exits / "bundle.json").read_bytes()


def test_one_null_for_all_thresholds(exits, edit):
    edit(exits, lambda b: b["curve"][-1]["knobs"].update(exit_thresholds=None))
    assert read_bundle(exits).curve[-1].knobs["exit_thresholds"] == math.inf
    load(exits, threads=1).run({"x": np.zeros((2, 6), np.float32), "hint": np.zeros((2, 2), np.float32),
                                "scale": np.ones(1, np.float32)}, budget=Budget.fraction(2.0))  # fmt: skip


@pytest.mark.parametrize("name", ["tiny", "exits", "tokens"])
@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.8, 2.0, None])
def test_a_bundle_of_format_1_does_what_it_did(name, share):
    """Graphs, points and work are those of the bundle as it is written now."""
    old, new = (load(folder / name, threads=1) for folder in (OLD, FIXTURES))
    assert json.loads((OLD / name / "bundle.json").read_text())["format_version"] == 1
    assert old.bundle.format_version == new.bundle.format_version == 2
    budget = Budget.full() if share is None else Budget.fraction(share)
    inputs = {
        spec.name: np.random.default_rng(3)
        .standard_normal([64 if isinstance(size, str) else size for size in spec.shape])
        .astype(spec.dtype)
        for spec in new.bundle.inputs
    }
    one, other = old.run(inputs, budget=budget), new.run(inputs, budget=budget)
    assert one.knobs == other.knobs and one.reachable == other.reachable
    np.testing.assert_array_equal(one.outputs["logits"], other.outputs["logits"])
    np.testing.assert_array_equal(one.macs_fraction, other.macs_fraction)


def test_an_export_of_format_1_runs():
    """One that an earlier version wrote; its golden runs are of that version, too."""
    model = load(OLD / "exported", threads=1)
    with np.load(OLD / "exported" / "golden.npz", allow_pickle=False) as golden:
        for price, logits, work in zip(golden["prices"], golden["logits"], golden["macs_fraction"], strict=True):
            result = model.run({"pixels": golden["inputs"]}, knobs={"price": float(price)})
            alike = np.abs(result.macs_fraction - work) <= 1e-6  # but for ties
            assert alike.mean() > 0.7
            np.testing.assert_allclose(result.outputs["logits"][alike], logits[alike], atol=1e-4)


def downgrade(content):
    """As an export of format 1 wrote it."""
    content["format_version"] = 1
    content.pop("axes"), content.pop("tokens")
    for spec in content["inputs"] + content["outputs"]:
        spec.pop("minimum"), spec.pop("maximum")


def test_a_bundle_of_format_1_whose_limits_nobody_knows(texts, edit):
    edit(texts, downgrade)
    refused(texts, "format 1 with an input 'words' of whole numbers, expected format 2.*export the model again")
    edit(texts, lambda b: b["inputs"].pop(0))
    refused(texts, "format 1 with a named axis 'length' of input 'mask', expected format 2")


@pytest.mark.parametrize("damage", [
    lambda b: b["knobs"].append(3), lambda b: b.update(curve={"a": 1}), lambda b: b.update(inputs=None),
    lambda b: b["inputs"][0].update(shape="batch"), lambda b: b["outputs"].clear(), lambda b: b.update(knobs=7),
    lambda b: b["curve"][0].update(knobs=None), lambda b: b["curve"][0].update(knobs=[1]),
    lambda b: b["knobs"][1].update(maximum=None), lambda b: b["curve"][0]["knobs"].update(exit_thresholds=[None, 1]),
])  # fmt: skip
@pytest.mark.parametrize("version", [1, 2])
def test_damage_is_found_in_either_format(tmp_path, edit, damage, version):
    folder = Path(shutil.copytree((OLD if version == 1 else FIXTURES) / "exits", tmp_path / "exits"))
    before = read_bundle(folder)
    edit(folder, damage)
    try:
        assert read_bundle(folder) != before or version == 2  # null is infinity in format 2
    except BundleError as error:
        assert "\n" not in str(error)


def test_decisions_of_format_1_become_records():
    bundle = read_bundle(OLD / "tokens")
    assert bundle.stages == read_bundle(FIXTURES / "tokens").stages
    assert bundle.tokens == read_bundle(FIXTURES / "tokens").tokens
    assert read_bundle(OLD / "exits").tokens == {}


@pytest.mark.parametrize(
    "change,match",
    [
        (lambda b: b["stages"][0].update(decisions=["skipped_0"]), "'skipped_0', expected learners_<number> or kept"),
        (lambda b: b["stages"][0].update(decisions=["learners_+0"]), r"'learners_\+0', expected learners_"),
        (lambda b: b["stages"][0].update(decisions=["learners_1"]), "'learners' 1, expected number 0"),
        (lambda b: b["stages"][0].update(decisions=["kept_0"]), "'nothing' after 'kept_0', expected 'count_0'"),
        (lambda b: b["stages"][0].update(decisions=["kept_0", "count_1"]), "'count_1' after 'kept_0', expected 'cou"),
        (lambda b: b["stages"][0].update(decisions=["kept_0", "count_0"]), "the first about the tokens 'tokens' of no"),
        (lambda b: b["stages"][0].update(decisions=[{"kind": "learners"}]), "Expected `str`, got `object`"),
        (lambda b: b.update(tokens=0), "'tokens': size 0, expected 1 to"),
        (lambda b: b.update(tokens="words"), "'tokens': axis 'words', expected an axis of the inputs"),
        (lambda b: b.update(stages=3), "Expected `array`, got `int`"),
        (lambda b: b.pop("stages"), "missing required field `stages`"),
    ],
)  # fmt: skip
def test_decisions_of_format_1_that_are_none(tmp_path, edit, change, match):
    folder = Path(shutil.copytree(OLD / "tokens", tmp_path / "tokens"))
    edit(folder, change)
    refused(folder, match)
