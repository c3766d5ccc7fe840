"""What a bundle of several stages may say, and stages that were mixed up."""

from __future__ import annotations

import hashlib
import json
import shutil

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptrt.runtime import BundleError, load
from adaptrt.runtime.bundle.bundle_file import CurvePoint, encode_bundle, read_bundle
from adaptrt.runtime.bundle.model_metadata import metadata_props
from tests.runtime.bundle.test_bundle import leaves, refused
from tests.runtime.bundle.test_external_data import message
from tests.runtime.conftest import FIXTURES


def carry(content, number=0):
    return content["stages"][1]["carry"][number]


def tell(content, stage, *decisions):
    content.setdefault("tokens", {}).setdefault("tokens", {})
    content["stages"][stage]["decisions"] = list(decisions)


def runs(number, **rest):
    return {"kind": "learners", "number": number, "outputs": {"runs": f"learners_{number}"}, **rest}


def select(number, **rest):
    outputs = {"index": f"kept_{number}", "count": f"count_{number}"}
    return {"kind": "selection", "number": number, "outputs": outputs, **rest}


def knob(content, name):
    return next(knob for knob in content["knobs"] if knob["name"] == name)


WRONG = {
    "no criterion": (lambda b: b.update(exit_criterion=None), "exit_criterion: None with 3 stages, expected one of"),
    "an unknown criterion": (lambda b: b.update(exit_criterion="mood"), "exit_criterion: 'mood' with 3 stages"),
    "no thresholds": (lambda b: b["knobs"].pop(), r"'exit_thresholds': none with 3 stages, expected float32 \[2\]"),
    "thresholds for other stages": (lambda b: knob(b, "exit_thresholds").update(shape=[3]), r"float32 \[3\] with 3"),
    "thresholds as whole numbers": (lambda b: knob(b, "exit_thresholds").update(dtype="int32"), r"int32 \[2\]"),
    "thresholds that let samples leave": (
        lambda b: knob(b, "exit_thresholds").update(default=0.5),
        "default 0.5, maximum inf, expected infinity .null in JSON., at which no sample leaves",
    ),
    "an unnamed head": (lambda b: b["stages"][1].update(exit=None), r"stages\[1\] exit: no name"),
    "two heads of a name": (lambda b: b["stages"][1].update(exit="final"), "exits: 'final' twice"),
    "a head's name that prints oddly": (lambda b: b["stages"][1].update(exit="\x1b[2J"), "printable"),
    "nothing carried": (lambda b: b["stages"][1].update(carry=[]), r"stages\[1\]: 0 carried, expected 1 to 1000"),
    "something carried into the first stage": (
        lambda b: b["stages"][0].update(carry=b["stages"][1]["carry"]),
        r"stages\[0\]: 2 carried tensors, expected none in the first",
    ),
    "two carried of a name": (lambda b: carry(b).update(name="macs_before"), "'macs_before' twice"),
    "carried under an input's name": (lambda b: carry(b).update(name="x"), "'x' twice"),
    "carried under a knob's name": (lambda b: carry(b).update(name="price"), "'price' twice"),
    "carried without a name": (lambda b: carry(b).update(name=""), "1 to 1000 printable"),
    "carried from nowhere": (lambda b: carry(b).update(source="a\nb"), "source: 'a.nb', expected"),
    "carried as an unknown dtype": (lambda b: carry(b).update(dtype="float31"), "dtype 'float31'"),
    "carried without a batch": (lambda b: carry(b).update(shape=[8, 5]), r"shape \[8, 5\], expected 'batch' as its"),
    "carried with two batches": (lambda b: carry(b).update(shape=["batch", "batch"]), "as its first axis and no other"),
    "carried of no axes": (lambda b: carry(b).update(shape=[]), r"shape \[\], expected 'batch'"),
    "carried of negative size": (lambda b: carry(b).update(shape=["batch", -5]), "size -5"),
    "a mask that is none": (
        lambda b: (b.update(tokens={"tokens": {"valid": "valid"}}), carry(b).update(name="valid")),
        r"carry 'valid': float32 .*expected bool \['batch', 'tokens'\]",
    ),
    "a fixed number of samples": (
        lambda b: b["outputs"][1].update(shape=[8]), "'macs_fraction': a fixed number of samples, expected a named",
    ),
    "samples that no input counts": (
        lambda b: [spec.update(shape=["n", *spec["shape"][1:]]) for spec in b["inputs"]],
        "inputs: none has the axis 'batch'",
    ),
    "samples along the second axis": (
        lambda b: b["inputs"][1].update(shape=[2, "batch"]), r"inputs 'hint': shape \[2, 'batch'\]",
    ),
    "an output that stages need not agree on": (
        lambda b: b["outputs"][0].update(shape=["batch", "kept"]), "then sizes that are the same in each stage",
    ),
    "an output without samples": (lambda b: b["outputs"][0].update(shape=[3]), r"'logits': shape \[3\] with 3 stages"),
    "a confidence that is none": (
        lambda b: b["outputs"].append({"name": "confidence", "dtype": "int32", "shape": ["batch"]}),
        r"'confidence': int32 .*expected float32",
    ),
    "a decision of unknown kind": (
        lambda b: tell(b, 0, runs(0, kind="skipped")), "'skipped' 0: kind 'skipped', expected one of learners, selec",
    ),
    "a decision that is a name": (lambda b: tell(b, 0, "learners_0"), "Expected `object`, got `str`"),
    "decisions that start late": (lambda b: tell(b, 0, runs(1)), "'learners' 1, expected number 0"),
    "a decision numbered below nothing": (lambda b: tell(b, 0, runs(-1)), "'learners' -1, expected number 0"),
    "a decision twice": (lambda b: tell(b, 0, runs(0), runs(0)), "'learners' 0, expected number 1"),
    "decisions of one output": (
        lambda b: tell(b, 0, runs(0), runs(1, outputs={"runs": "learners_0"})), "'learners_0' twice",
    ),
    "a decision that is an output": (lambda b: tell(b, 0, runs(0, outputs={"runs": "logits"})), "'logits' twice"),
    "a decision that is the confidence": (
        lambda b: tell(b, 0, runs(0, outputs={"runs": "confidence"})), "'confidence' twice",
    ),
    "an output that prints oddly": (lambda b: tell(b, 0, runs(0, outputs={"runs": "a\nb"})), "printable characters"),
    "a selection without a count": (
        lambda b: tell(b, 0, select(0, outputs={"index": "kept_0"})), "outputs 'index', expected exactly 'index', 'co",
    ),
    "learners with a count": (
        lambda b: tell(b, 0, runs(0, outputs={"runs": "a", "count": "b"})), "outputs 'count', 'runs', expected exact",
    ),
    "a selection that is not flat": (lambda b: tell(b, 0, select(0, flat=False)), "flat is false, expected true"),
    "learners that are not nested": (lambda b: tell(b, 0, runs(0, nested=False)), "nested is false, expected true"),
    "a decision about unknown tokens": (
        lambda b: tell(b, 0, runs(0, of="words")), "of 'words', expected a set of tokens .'tokens'.",
    ),
    "a selection from an unknown number": (
        lambda b: tell(b, 0, select(0)), "'selection' 0: the first about the tokens 'tokens' of no size",
    ),
    "a gate after who knows what": (
        lambda b: tell(b, 1, runs(0)), r"stages\[1\] decisions: 'learners' 0: the first about the tokens",
    ),
    "no tokens": (lambda b: b.update(tokens={"tokens": {"size": 0}}), "'tokens': size 0, expected 1 to"),
    "tokens along no axis": (
        lambda b: b.update(tokens={"tokens": {"size": "words"}}), r"'tokens': axis 'words', expected .*\(batch\)",
    ),
    "tokens that print oddly": (lambda b: b.update(tokens={"a\nb": {}}), "tokens: 'a.nb', expected 1 to"),
    "tokens that are a number": (lambda b: b.update(tokens=6), "Expected `object`, got `int`"),
    "tokens whose mask nobody carries": (
        lambda b: b.update(tokens={"tokens": {"valid": "mask"}}), "valid 'mask', expected the name of a tensor that",
    ),
    "two sets of one mask": (
        lambda b: b.update(tokens={"a": {"valid": "hidden"}, "b": {"valid": "hidden"}}), "'hidden': float32 .*a mask",
    ),
    "a task that prints oddly": (lambda b: b.update(task="a\nb"), "task: 'a.nb', expected 1 to"),
    "an input carried as something else": (
        lambda b: carry(b).update(source="x"), r"float32 \['batch', 5\] of the input 'x', expected .*\['batch', 6\]",
    ),
    "too few thresholds in the curve": (
        lambda b: b["curve"][0]["knobs"].update(exit_thresholds=[0.5]),
        r"curve\[0\]: exit_thresholds of 1 values, expected 2, or one number for all",
    ),
    "a threshold that a finite number stands for": (
        lambda b: knob(b, "exit_thresholds").update(maximum=1.0, default=1.0),
        "default 1.0, maximum 1.0, expected infinity",
    ),
    "a threshold below the minimum": (
        lambda b: (
            knob(b, "exit_thresholds").update(minimum=0),
            b["curve"][0]["knobs"].update(exit_thresholds=[0, -1]),
        ),
        r"exit_thresholds -1\.0, expected 0",
    ),
    "a threshold beyond float32": (
        lambda b: b["curve"][0]["knobs"].update(exit_thresholds=[1e39, 0]), r"exit_thresholds 1e\+39, expected",
    ),
    "a minimum beyond float32": (
        lambda b: knob(b, "exit_thresholds").update(minimum=-1e39), "-1e\\+39, expected a number that float32 can hold",
    ),
    "infinity where there is none": (lambda b: knob(b, "price").update(maximum=None), "Expected `float`, got `null`"),
    "infinity of another knob": (lambda b: b["curve"][0]["knobs"].update(price=None), "Expected `float"),
    "infinity in the middle of nowhere": (lambda b: b["dense"].update(macs=None), "Expected `int`"),
    "a price for each of several": (lambda b: b["curve"][0]["knobs"].update(price=[0.5, 0.5]), "price of 2 values"),
    "prices that are several": (lambda b: knob(b, "price").update(shape=[2]), r"'price': float32 \[2\], expected"),
    "a setting that prints oddly": (lambda b: b["curve"][0].update(setting="a\nb"), r"curve\[0\] setting: 'a.nb'"),
}  # fmt: skip


@pytest.mark.parametrize("change,match", WRONG.values(), ids=WRONG)
def test_wrong_content(exits, edit, change, match):
    edit(exits, change)
    refused(exits, match)


CHAINS = {
    "a fraction of a learner": (
        lambda b: b["curve"][-1]["knobs"].update(capacity=[0.5, 1]), r"capacity 0\.5, expected a whole number",
    ),
    "a capacity that goes off": (
        lambda b: b["curve"][-1]["knobs"].update(capacity=[-1, 2]),
        r"curve\[9\]: capacity is on where it was off, .* in curve\[5\] of the same setting 'capacity'",
    ),
    "a capacity that is left out": (lambda b: b["curve"][-1]["knobs"].pop("capacity"), "capacity is on where"),
    "an own price that follows": (
        lambda b: b["curve"][0]["knobs"].update(token_price=-1), "token_price is on where it was off",
    ),
    "a default between two learners": (lambda b: knob(b, "capacity").update(default=0.5), "default 0.5, expected"),
}  # fmt: skip


@pytest.mark.parametrize("change,match", CHAINS.values(), ids=CHAINS)
def test_wrong_chains(tokens, edit, change, match):
    edit(tokens, change)
    refused(tokens, match)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b["curve"][-1].update(setting="sample 1"),
        lambda b: b["curve"][-1].update(setting="another"),
        lambda b: b["curve"][-1].update(hard=False),
        lambda b: b["curve"][-1].update(setting=""),
    ],
)
def test_what_is_not_between_two_points_of_a_chain_may_be_off(tokens, edit, change):
    edit(tokens, lambda b: (b["curve"][-1]["knobs"].update(capacity=-1), change(b)))
    assert len(load(tokens).bundle.curve) == 10


def test_one_stage_has_no_exits(tiny, edit):
    original = (tiny / "bundle.json").read_bytes()
    threshold = {"name": "exit_thresholds", "dtype": "float32", "shape": [1], "minimum": 0, "maximum": 1, "default": 1}
    for change, match in (
        (lambda b: b.update(exit_criterion="entropy"), "exit_criterion: 'entropy' with one stage, expected None"),
        (lambda b: b["knobs"].append(threshold), "'exit_thresholds' with one stage, expected none of that name"),
        (lambda b: b["stages"][0].update(carry=[{"name": "a", "source": "b", "dtype": "bool", "shape": ["batch"]}]),
         "1 carried tensors, expected none in the first stage"),
    ):  # fmt: skip
        edit(tiny, change)
        refused(tiny, match)
        (tiny / "bundle.json").write_bytes(original)


def test_a_bundle_from_before_there_were_stages(tiny, edit):
    """Its keys are fewer; it is the same bundle."""
    before = read_bundle(tiny)

    def forget(content):
        for key in ("exit_criterion", "tokens"):
            del content[key]
        for entry in content["stages"]:
            del entry["carry"], entry["decisions"]
        for entry in content["curve"]:
            del entry["setting"], entry["hard"]

    edit(tiny, forget)
    before = msgspec.structs.replace(before, budget_table=None)
    assert read_bundle(tiny) == load(tiny).bundle == before
    old = json.loads((FIXTURES / "format_1" / "exported" / "bundle.json").read_text())
    assert old["format_version"] == 1 and load(FIXTURES / "format_1" / "exported").bundle.exit_criterion is None


def test_lists_and_settings_are_written(exits):
    bundle = read_bundle(exits)
    assert bundle.curve[1].knobs["exit_thresholds"] == [0.5, 0.0]
    assert encode_bundle(bundle) == (exits / "bundle.json").read_bytes()
    curve = [CurvePoint({"exit_thresholds": [0.5, float("nan")]}, 1.0, None, True)]
    with pytest.raises(BundleError, match="not written: curve.*exit_thresholds nan"):
        encode_bundle(msgspec.structs.replace(bundle, curve=curve))


def rehash(folder, edit):
    """As if the stages had been exported as they now lie there."""
    digest = [hashlib.sha256((folder / f"stage{n}.onnx").read_bytes()).hexdigest() for n in range(3)]
    edit(folder, lambda b: [stage.update(sha256=digest[n]) for n, stage in enumerate(b["stages"])])


def swap(folder, one, other):
    a, b = (folder / f"stage{number}.onnx" for number in (one, other))
    content = a.read_bytes()
    shutil.copy(b, a)
    b.write_bytes(content)


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (0, 2)])
def test_swapped_stages(exits, edit, pair):
    swap(exits, *pair)
    refused(exits, r"'stage.\.onnx' was changed or damaged")
    rehash(exits, edit)
    refused(exits, rf"'stage{pair[0]}.onnx' says that it is stage '{pair[1]}/3' .*expected '{pair[0]}/3'; .*mixed up")


@pytest.mark.parametrize(
    "pair,match",
    [
        (
            (0, 1),
            r"stage0.onnx: the graph's inputs are \['hidden', 'macs_before', 'scale'\], expected \[\], and any of",
        ),
        ((1, 2), r"stage1.onnx: the graph's outputs are .*expected 'next_hidden' among them .*mixed up"),
        ((0, 2), r"stage0.onnx: the graph's inputs are .*expected \[\], and any of \['hint', 'price', 'scale', 'x'\]"),
    ],
)
def test_swapped_stages_that_lie_about_their_place(exits, edit, pair, match):
    swap(exits, *pair)
    for number in pair:
        other = pair[0] + pair[1] - number
        file = exits / f"stage{number}.onnx"
        file.write_bytes(file.read_bytes().replace(f"{other}/3".encode(), f"{number}/3".encode()))
    rehash(exits, edit)
    refused(exits, match, by=[load])


@pytest.mark.parametrize(
    "alter,match",
    [
        (lambda model: model.replace(b"adaptrt.stage", b"adaptrt.stagE"), "says that it is stage of no number"),
        (lambda model: model.replace(b"1/3", b"1/4"), "says that it is stage '1/4'"),
        (lambda model: model + message(14, message(1, "adaptrt.stage") + message(2, "1/3")), "'1/3' and '1/3'"),
        (lambda model: model + message(14, message(1, "adaptrt.stage") + message(2, b"\xff")), "not an ONNX file"),
    ],
)
def test_a_stage_of_unclear_place(exits, edit, alter, match):
    file = exits / "stage1.onnx"
    file.write_bytes(alter(file.read_bytes()))
    rehash(exits, edit)
    refused(exits, match)


def test_metadata_of_a_file():
    model = (FIXTURES / "exits" / "stage1.onnx").read_bytes()
    assert metadata_props(model, "adaptrt.stage") == ["1/3"]
    assert metadata_props(model, "stage") == []
    assert metadata_props(b"", "adaptrt.stage") == []
    assert metadata_props(message(14, message(1, "a")), "a") == [""]
    with pytest.raises(ValueError):
        metadata_props(model[:-1], "adaptrt.stage")


@pytest.mark.parametrize(
    "change,match",
    [
        (lambda b: carry(b).update(source="next"), "stage0.onnx: the graph's outputs are .*expected 'next' among"),
        (lambda b: carry(b).update(name="state"), r"stage1.onnx: .* inputs are .* \['macs_before', 'state'\], and"),
        (lambda b: carry(b).update(dtype="float64"), "'next_hidden' is float32 .*expected float64"),
        (lambda b: carry(b).update(shape=["batch", 4]), r"'next_hidden' .* \['batch', 5\] .* \['batch', 4\]"),
        (lambda b: carry(b).update(shape=["batch", "width"]), "stage1.onnx: 'hidden' is float32"),
        (lambda b: carry(b, 1).update(source="confidence", shape=["batch", 1]), "'confidence' is float32"),
        (lambda b: tell(b, 0, runs(0)), "expected 'learners_0' among them"),
        (
            lambda b: b["inputs"].append({"name": "mask", "dtype": "bool", "shape": ["batch"]}),
            "no stage's graph has the input 'mask'",
        ),
        (lambda b: b["knobs"].append({**b["knobs"][0], "name": "heat"}), "no stage's graph has the input 'heat'"),
        (lambda b: b["inputs"].pop(), r"stage1.onnx: the graph's inputs are .*'scale'\], expected"),
        (lambda b: b["inputs"][2].update(shape=[2]), "'scale' is float32"),
        (
            lambda b: b["outputs"].append({"name": "heat", "dtype": "float32", "shape": ["batch"]}),
            "expected 'heat' among",
        ),
    ],
)  # fmt: skip
def test_graphs_that_are_not_as_declared(exits, edit, change, match):
    edit(exits, change)
    refused(exits, match, by=[load])


def test_graphs_whose_decisions_are_none(tokens, edit):
    edit(tokens, lambda b: tell(b, 1, runs(1)))
    assert load(tokens)
    renamed = (
        (tokens / "stage1.onnx").read_bytes().replace(b"count_1", b"kounts1").replace(b"learners_1", b"count_1___")
    )
    (tokens / "stage1.onnx").write_bytes(renamed)
    edit(tokens, lambda b: b["stages"][1].update(sha256=hashlib.sha256(renamed).hexdigest()))
    refused(tokens, "stage1.onnx: the graph's outputs are .*expected 'learners_1' among them", by=[load])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), name=st.sampled_from(["exits", "tokens"]))
def test_any_value_replaced_by_any_other_is_read_or_refused(tmp_path, data, name):
    """Nothing but a BundleError ever comes out."""
    source = FIXTURES / name
    content = json.loads((source / "bundle.json").read_text())
    node, key = content, data.draw(st.sampled_from(["stages", "knobs", "curve", *sorted(content)]))
    while isinstance(node[key], (dict, list)) and node[key] and data.draw(st.booleans()):
        node = node[key]
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    other = data.draw(st.sampled_from(["batch", "next_hidden", "macs_fraction", "kept_0", ["batch"], [0.5, 0.5], 2, 3]))
    node[key] = data.draw(st.one_of(leaves, st.just(other)))
    for file in source.glob("*.onnx"):
        shutil.copy(file, tmp_path)
    (tmp_path / "bundle.json").write_text(json.dumps(content))
    try:
        load(tmp_path)
    except BundleError as error:
        assert "\n" not in str(error)
