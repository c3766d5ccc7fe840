from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptrt.runtime import BundleError, load
from adaptrt.runtime.bundle.bundle_file import CurvePoint, ImagePreprocessing, encode_bundle, read_bundle

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"


def refused(folder, match, *, by=(read_bundle, load)):
    """Every way in refuses the folder with one line."""
    for entry in by:
        with pytest.raises(BundleError, match=match) as caught:
            entry(folder)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000


def test_reads_what_was_written(tiny):
    bundle = read_bundle(tiny)
    assert bundle.format_version == 2
    assert bundle.inputs[0].shape == ["batch", 4]
    assert bundle.knobs[0].default == 0.0
    assert len(bundle.curve) == 12
    assert encode_bundle(bundle) == (tiny / "bundle.json").read_bytes()


def test_encoding_does_not_depend_on_the_order_of_keys(tiny):
    bundle = read_bundle(tiny)
    forth = msgspec.structs.replace(bundle, data={"a": 1, "b": 2}, ops={"X": 1, "Y": 1})
    back = msgspec.structs.replace(bundle, data={"b": 2, "a": 1}, ops={"Y": 1, "X": 1})
    assert encode_bundle(forth) == encode_bundle(back)


def test_path_may_be_text_or_relative(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    assert read_bundle("bundle") == read_bundle(str(tiny)) == read_bundle(tiny)


def test_keys_from_a_later_version_of_the_format_are_ignored(tiny, edit):
    edit(tiny, lambda b: (b.update(novelty={"x": 1}), b["stages"][0].update(precision="f32")))
    assert load(tiny).bundle.name == "tiny"


def test_missing(tiny, tmp_path):
    refused(tmp_path / "nowhere", "no folder .*adaptrt export")
    refused(tiny / "model.onnx", "not a folder")
    refused("nul\0byte", "no folder")
    (tiny / "bundle.json").unlink()
    refused(tiny, r"no bundle\.json in")


def test_truncated_at_every_length(tiny):
    text = (tiny / "bundle.json").read_bytes()
    for length in [*range(0, 200), len(text) // 2, len(text.rstrip()) - 1]:
        (tiny / "bundle.json").write_bytes(text[:length])
        refused(tiny, "not readable as JSON|format_version|Expected", by=[read_bundle])


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b'"x"', b"\xff\xfe\x00", b'{"format_version": NaN}', b"[" * 200_000,
     b'{"format_version":1,"data":' + b'{"a":' * 200_000],
    ids=["empty", "null", "list", "text", "not utf-8", "nan", "deep", "deep data"],
)  # fmt: skip
def test_not_a_bundle(tiny, text):
    (tiny / "bundle.json").write_bytes(text)
    refused(tiny, "bundle.json")


@pytest.mark.parametrize("version", [0, 3, 99, -1, None, "1", 1.5])
def test_unknown_format_version(tiny, edit, version):
    edit(tiny, lambda b: b.update(format_version=version))
    refused(tiny, "format_version")


def test_missing_format_version(tiny, edit):
    edit(tiny, lambda b: b.pop("format_version"))
    refused(tiny, "format_version is missing, expected 2")


def test_a_future_format_is_named_as_such_whatever_else_it_changed(tiny):
    (tiny / "bundle.json").write_text('{"format_version": 3, "stages": {"a": 1}}')
    refused(tiny, "format_version is 3, expected 2.*install")


def preprocess(content, **recipe):
    content["inputs"][0]["preprocessing"] = recipe


WRONG = {
    "a missing key": (lambda b: b.pop("dense"), "missing required field `dense`"),
    "a wrong type": (lambda b: b["dense"].update(macs="60"), "Expected `int`, got `str`"),
    "true for a number": (lambda b: b["dense"].update(macs=True), "Expected `int`, got `bool`"),
    "a number too large": (lambda b: b["dense"].update(macs=10**30), "dense|Expected|range"),
    "negative macs": (lambda b: b["dense"].update(macs=-1), "macs -1, expected 1 to"),
    "no macs": (lambda b: b["dense"].update(macs=0), "macs 0"),
    "negative parameters": (lambda b: b["dense"].update(parameters=-5), "parameters -5"),
    "no inputs": (lambda b: b.update(inputs=[]), "inputs: 0 entries"),
    "a class without a name": (lambda b: b.update(class_names=["a", ""]), "class_names"),
    "no stages": (lambda b: b.update(stages=[]), "stages: 0 entries"),
    "two inputs of a name": (lambda b: b["inputs"].append(b["inputs"][0]), "'x' twice"),
    "an input named as a knob": (lambda b: b["inputs"][0].update(name="price"), "'price' twice"),
    "no macs_fraction": (lambda b: b["outputs"].pop(), "'macs_fraction' among them"),
    "macs_fraction of rank 2": (lambda b: b["outputs"][1].update(shape=["batch", 1]), "expected float32"),
    "an unknown dtype": (lambda b: b["inputs"][0].update(dtype="float31"), "dtype 'float31', expected"),
    "a negative size": (lambda b: b["inputs"][0].update(shape=["batch", -4]), "size -4"),
    "a size of 0": (lambda b: b["inputs"][0].update(shape=["batch", 0]), "size 0"),
    "a huge size": (lambda b: b["inputs"][0].update(shape=[2**40]), "size 1099511627776"),
    "40 axes": (lambda b: b["inputs"][0].update(shape=[1] * 40), "40 axes"),
    "an unnamed axis": (lambda b: b["inputs"][0].update(shape=["", 4]), "printable"),
    "limits inverted": (lambda b: b["knobs"][0].update(minimum=2.0), "minimum <= default <= maximum"),
    "default out of limits": (lambda b: b["knobs"][0].update(default=7.0), "minimum <= default <= maximum"),
    "a price of integers": (lambda b: b["knobs"][0].update(dtype="int32"), "expected float32"),
    "a limit beyond the dtype": (lambda b: b["knobs"][0].update(maximum=1e300), "float32 can hold"),
    "a knob of a gigabyte": (lambda b: b["knobs"][0].update(shape=[2**28]), "fixed sizes"),
    "an infinite limit": (lambda b: b["knobs"][0].update(maximum=float("inf")), "JSON"),
    "a price out of limits": (lambda b: b["curve"][3]["knobs"].update(price=1.5), r"curve\[3\]: price 1.5"),
    "a curve over an unknown knob": (lambda b: b["curve"][0]["knobs"].update(heat=1), "unknown knob 'heat'"),
    "a negative share": (lambda b: b["curve"][0].update(macs_fraction=-0.1), "share -0.1"),
    "an absurd share": (lambda b: b["curve"][0].update(calibration_macs_fraction=1e9), "share 1000000000.0"),
    "NaN in the curve": (lambda b: b["curve"][0].update(quality=float("nan")), "JSON"),
    "an error below 0": (lambda b: b["curve"][0].update(calibration_error=-0.1), "calibration_error -0.1, expected"),
    "too many points": (lambda b: b.update(curve=b["curve"][:1] * 10_001), "curve: 10001 entries"),
    "a default that the knob cannot hold": (
        lambda b: b["knobs"][0].update(dtype="int64", name="n", maximum=2.0**63, default=2.0**63),
        "that int64 can hold",
    ),
    "a hash that is none": (lambda b: b["stages"][0].update(sha256="abc"), "64 lowercase hexadecimal"),
    "a line break in a name": (lambda b: b.update(name="a\nb"), "printable"),
    "an escape code in a name": (lambda b: b.update(name="\x1b[2J"), "printable"),
    "an op without learners": (lambda b: b["ops"].update(X=0), "ops 'X': 0 learners, expected 1"),
    "two channels": (
        lambda b: preprocess(b, channels=2, height=8, width=8), "2 channels",
    ),
    "std of 0": (
        lambda b: preprocess(b, channels=1, height=8, width=8, std=[0]),
        "std 0",
    ),
    "means for other channels": (
        lambda b: preprocess(b, channels=3, height=8, width=8, mean=[0] * 2),
        "2 mean values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change,match", WRONG.values(), ids=WRONG)
def test_wrong_content(tiny, edit, change, match):
    edit(tiny, change)
    refused(tiny, match)


@pytest.mark.parametrize("key", ["minimum", "maximum", "default"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_cannot_hold_are_not_written(tiny, key, value):
    bundle = read_bundle(tiny)
    knob = msgspec.structs.replace(bundle.knobs[0], **{key: value})
    with pytest.raises(BundleError, match="not written"):
        encode_bundle(msgspec.structs.replace(bundle, knobs=[knob]))


def test_nan_quality_is_not_written_as_unknown(tiny):
    bundle = read_bundle(tiny)
    curve = [CurvePoint({"price": 0.0}, 1.0, math.nan, True)]
    with pytest.raises(BundleError, match="finite"):
        encode_bundle(msgspec.structs.replace(bundle, curve=curve))
    with pytest.raises(BundleError, match="not written"):
        encode_bundle(msgspec.structs.replace(bundle, data={"x": object()}))
    with pytest.raises(BundleError, match="not written"):
        encode_bundle(msgspec.structs.replace(bundle, curve=[CurvePoint({"price": np.float32(0)}, 1, None, True)]))


def test_ten_thousand_points_are_fine(tiny):
    bundle = read_bundle(tiny)
    curve = [CurvePoint({"price": n / 10_000}, 1 - n / 20_000, 0.9, False) for n in range(10_000)]
    (tiny / "bundle.json").write_bytes(encode_bundle(msgspec.structs.replace(bundle, curve=curve)))
    assert len(read_bundle(tiny).curve) == 10_000


def test_seventeen_megabytes_of_json(tiny):
    with (tiny / "bundle.json").open("ab") as file:
        file.write(b" " * (17 * 2**20))
    refused(tiny, "expected at most 16777216")


def test_preprocessing_defaults(tiny, edit):
    edit(tiny, lambda b: preprocess(b, channels=1, height=8, width=8))
    assert read_bundle(tiny).inputs[0].preprocessing == ImagePreprocessing(1, 8, 8, 1 / 255, [0.0], [1.0])


def test_changed_model(tiny):
    model = bytearray((tiny / "model.onnx").read_bytes())
    model[700] ^= 1
    (tiny / "model.onnx").write_bytes(model)
    refused(
        tiny,
        r"'model.onnx' was changed or damaged: sha256 is [0-9a-f]{12}…, expected c8d2967ca5fc….*copy .*again",
    )
    assert read_bundle(tiny, verify_hashes=False).name == "tiny"


def test_truncated_or_missing_model(tiny):
    model = (tiny / "model.onnx").read_bytes()
    (tiny / "model.onnx").write_bytes(model[:-1])
    refused(tiny, "was changed or damaged")
    (tiny / "model.onnx").unlink()
    refused(tiny, "'model.onnx' is missing")
    (tiny / "model.onnx").mkdir()
    refused(tiny, "not a regular file")


OUTSIDE = [
    "../model.onnx", "/etc/passwd", "a/../../model.onnx", "./model.onnx", "", ".", "..", "a//b", "a.onnx/",
    "C:\\model.onnx", "..\\model.onnx", "C:model.onnx", "model\0.onnx", "*/_ORT_MEM_ADDR_/*", "x" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("file", OUTSIDE, ids=lambda file: repr(file)[:30])
def test_paths_that_leave_the_folder(tiny, edit, file):
    shutil.copy(tiny / "model.onnx", tiny.parent / "model.onnx")
    for change in (
        lambda b: b["stages"][0].update(file=file),
        lambda b: b["stages"][0].update(external_data=[{"file": file, "sha256": "0" * 64}]),
        lambda b: b["dense"].update(file=file, sha256="0" * 64),
    ):
        original = (tiny / "bundle.json").read_bytes()
        edit(tiny, change)
        refused(tiny, "expected a relative path inside the bundle's folder")
        (tiny / "bundle.json").write_bytes(original)


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
@pytest.mark.parametrize("name", ["model.onnx", "bundle.json"])
def test_links(tiny, name):
    file, outside = tiny / name, tiny.parent / f"outside-{name}"
    inside = tiny / f"inside-{name}"
    file.rename(inside)
    file.symlink_to(inside.name)
    load(tiny)
    inside.rename(outside)
    file.unlink()
    file.symlink_to(outside)
    refused(tiny, f"'{name}' is a link that leaves the folder.*cp -rL")
    file.unlink()
    file.symlink_to(name)
    refused(tiny, "is missing|no bundle.json")


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_the_folder_itself_may_be_a_link(tiny):
    (tiny.parent / "latest").symlink_to(tiny)
    assert load(tiny.parent / "latest").bundle.name == "tiny"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_not_waited_for(tiny):
    (tiny / "model.onnx").unlink()
    os.mkfifo(tiny / "model.onnx")
    refused(tiny, "not a regular file")


def test_dense_file_is_verified_where_it_is(tiny, edit):
    shutil.copy(tiny / "model.onnx", tiny / "dense.onnx")
    edit(tiny, lambda b: b["dense"].update(file="dense.onnx", sha256=b["stages"][0]["sha256"]))
    read_bundle(tiny)
    (tiny / "dense.onnx").write_bytes(b"other")
    refused(tiny, "'dense.onnx' was changed", by=[read_bundle])
    assert load(tiny), "running the bundle does not need it"
    (tiny / "dense.onnx").unlink()
    read_bundle(tiny)


def test_dense_file_needs_a_hash(tiny, edit):
    edit(tiny, lambda b: b["dense"].update(file="dense.onnx"))
    refused(tiny, "dense: sha256 ''")


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([]), st.just({}))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_value_replaced_by_any_other_is_read_or_refused(tmp_path, data):
    """Nothing but a BundleError ever comes out."""
    content = json.loads((TINY / "bundle.json").read_text())
    node, key = content, data.draw(st.sampled_from(sorted(content)))
    while isinstance(node[key], (dict, list)) and node[key] and data.draw(st.booleans()):
        node = node[key]
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    node[key] = data.draw(leaves)
    (tmp_path / "model.onnx").write_bytes((TINY / "model.onnx").read_bytes())
    (tmp_path / "bundle.json").write_text(json.dumps(content))
    try:
        read_bundle(tmp_path)
    except BundleError as error:
        assert "\n" not in str(error)
