"""References to files outside, in ONNX files written byte by byte (the onnx package is not needed).

Messages of one kind that are written one after the other are merged by protobuf, so a fixture's bytes
followed by a second, hand-made graph are the fixture with more in it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt.runtime import BackendError, BundleError, load
from adaptrt.runtime.backends import onnxruntime as onnxruntime_backend
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.external_data import external_locations
from tests.prepared_engines import prepare

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(number: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def tensor(location: str, name: str = "unused", length: int = 16) -> bytes:
    """A float32 [4] kept in another file."""
    entries = {"location": location, "offset": "0", "length": str(length)}
    return (
        number(1, 4)
        + number(2, 1)
        + message(8, name)
        + b"".join(message(13, message(1, key) + message(2, value)) for key, value in entries.items())
        + number(14, 1)
    )


def constant(attribute: bytes) -> bytes:
    """A node with one attribute."""
    return message(2, "c") + message(4, "Constant") + message(5, attribute)


def value_attribute(field: int, content: bytes) -> bytes:
    return message(1, "value") + message(field, content) + number(20, 4)


def graph(content: bytes) -> bytes:
    return message(7, content)


PLACES = {
    "initialiser": lambda t: graph(message(5, t)),
    "constant": lambda t: graph(message(1, constant(value_attribute(5, t)))),
    "list of tensors": lambda t: graph(message(1, constant(value_attribute(10, t)))),
    "subgraph": lambda t: graph(message(1, constant(value_attribute(6, message(5, t))))),
    "subgraph in a subgraph": lambda t: graph(
        message(1, constant(value_attribute(6, message(1, constant(value_attribute(11, message(5, t)))))))
    ),
    "sparse initialiser": lambda t: graph(message(15, message(1, t))),
    "sparse indices": lambda t: graph(message(15, message(2, t))),
    "sparse attribute": lambda t: graph(message(1, constant(value_attribute(22, message(1, t))))),
    "sparse attributes": lambda t: graph(message(1, constant(value_attribute(23, message(1, t))))),
    "function body": lambda t: message(25, message(1, "F") + message(7, constant(value_attribute(5, t)))),
    "function's default": lambda t: message(25, message(1, "F") + message(11, value_attribute(5, t))),
    "training graph": lambda t: message(20, message(2, message(5, t))),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_found_wherever_a_tensor_can_be(place):
    tiny = (TINY / "model.onnx").read_bytes()
    assert external_locations(tiny) == set()
    assert external_locations(tiny + place(tensor("a.bin")) + place(tensor("../b.bin"))) == {
        "a.bin",
        "../b.bin",
    }


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "*/_ORT_MEM_ADDR_/*", "unlisted.bin"])
def test_a_prepared_graph_that_refers_to_other_files_is_refused(tiny, location):
    prepare(
        tiny,
        "onnxruntime",
        "int8",
        convert=lambda model: model + PLACES["initialiser"](tensor(location)),
        weight_bits=7,
    )
    with pytest.raises(BundleError, match="keeps weights in") as caught:
        load(tiny, precision="int8")
    assert "--target onnxruntime" in str(caught.value) or location != "unlisted.bin"


def test_a_prepared_graph_that_is_none_is_refused(tiny):
    prepare(tiny, "onnxruntime", "int8", convert=lambda _: b"\x3a\x05ab", weight_bits=7)
    with pytest.raises(BundleError, match=r"'stage0\.onnx' is not an ONNX file .*--target onnxruntime"):
        load(tiny, precision="int8")


def test_found_where_entries_are_odd():
    """Whatever protobuf or ONNX Runtime might take for a location counts."""
    repeated_key = message(13, message(1, "offset") + message(1, "location") + message(2, "a") + message(2, "b"))
    value_first = message(13, message(2, "c") + message(1, "location"))
    not_marked_external = repeated_key + value_first
    no_value = message(13, message(1, "location"))
    assert external_locations(graph(message(5, not_marked_external))) == {"a", "b", "c"}
    assert external_locations(graph(message(5, no_value))) == {""}
    assert external_locations(graph(message(5, message(13, message(1, "offset") + message(2, "d"))))) == set()


def test_unknown_fields_are_skipped():
    strange = number(900, 2**63) + varint(901 << 3 | 1) + b"8 bytes!" + varint(902 << 3 | 5) + b"four"
    assert external_locations(strange + graph(strange + message(5, strange + tensor("a")))) == {"a"}


@pytest.mark.parametrize(
    "broken",
    [
        b"\x3a\x05ab", b"\x3a", b"\x80", b"\xff" * 11 + b"\x01", b"\x00\x00", b"\x3b\x3c", b"\x3e",
        b"\x39\x01", b"\x3d", b"ORTM" * 4,
        graph(message(5, message(13, message(1, "location") + message(2, b"\xff")))),
        varint(7 << 3 | 2 | 1 << 40) + b"\x00",
    ],
    ids=["short", "no length", "half a number", "long number", "field 0", "group", "wire 6", "fixed 8",
         "fixed 4", "other format", "not utf-8", "tag over 32 bits"],
)  # fmt: skip
def test_what_is_not_plainly_protobuf_is_refused(broken):
    with pytest.raises(ValueError):
        external_locations(broken)


@given(st.binary(max_size=300))
def test_any_bytes_are_walked_or_refused(data):
    with contextlib.suppress(ValueError):
        external_locations(data)


@given(st.integers(0, 1448), st.integers(0, 255))
def test_any_byte_changed_is_walked_or_refused(position, value):
    data = bytearray((TINY / "model.onnx").read_bytes())
    data[position] = value
    with contextlib.suppress(ValueError):
        external_locations(bytes(data))


@pytest.fixture
def no_engine(monkeypatch):
    """Loading that gets as far as handing the model to an engine fails the test."""

    def never(*_args, **_keywords):
        raise AssertionError("the model reached the engine")

    monkeypatch.setattr(onnxruntime_backend, "OnnxRuntimeBackend", never)


@pytest.fixture
def opened(monkeypatch):
    """The files that the runtime opens, in order."""
    names: list[Path] = []
    real_open = Path.open

    def spy(self, *args, **keywords):
        names.append(self)
        return real_open(self, *args, **keywords)

    monkeypatch.setattr(Path, "open", spy)
    return names


OUTSIDE = [
    "../secret.bin",
    "{parent}/secret.bin",
    "a/../../secret.bin",
    "*/_ORT_MEM_ADDR_/*",
    "",
    "C:\\secret.bin",
]


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("place", ["initialiser", "constant", "subgraph", "function body"])
@pytest.mark.parametrize("location", OUTSIDE)
def test_a_reference_outside_is_refused_before_anything_of_it_is_read(tiny, replace_model, opened, place, location):
    secret = tiny.parent / "secret.bin"
    secret.write_bytes(b"\0" * 4096)
    location = location.format(parent=tiny.parent)
    replace_model(tiny, (tiny / "model.onnx").read_bytes() + PLACES[place](tensor(location)))
    opened.clear()
    for entry in (load, read_bundle):
        with pytest.raises(BundleError, match=r"keeps weights in another file: path .*inside the bundle's folder") as e:
            entry(tiny)
        assert "\n" not in str(e.value)
    assert secret not in opened
    assert {path.name for path in opened if path.is_relative_to(tiny.parent)} == {"bundle.json", "model.onnx"}


@pytest.mark.usefixtures("no_engine")
def test_listing_the_outside_file_does_not_help(tiny, replace_model, edit):
    (tiny.parent / "secret.bin").write_bytes(b"\0" * 16)
    replace_model(tiny, (tiny / "model.onnx").read_bytes() + PLACES["initialiser"](tensor("../secret.bin")))
    edit(tiny, lambda b: b["stages"][0].update(external_data=[{"file": "../secret.bin", "sha256": "0" * 64}]))
    with pytest.raises(BundleError, match="relative path inside"):
        load(tiny)


@pytest.mark.usefixtures("no_engine")
@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
@pytest.mark.parametrize("through_folder", [False, True])
def test_a_link_that_leaves_the_folder(tiny, replace_model, opened, through_folder):
    secret = tiny.parent / "secret.bin"
    location = "link/secret.bin" if through_folder else "link.bin"
    replace_model(
        tiny,
        (tiny / "model.onnx").read_bytes() + PLACES["initialiser"](tensor(location)),
        {location: b"\0" * 16},
    )
    load_works_without_link = read_bundle(tiny)
    assert load_works_without_link.stages[0].external_data[0].file == location
    (tiny / location).rename(secret)
    if through_folder:
        (tiny / "link").rmdir()
        (tiny / "link").symlink_to(tiny.parent)
    else:
        (tiny / location).symlink_to(secret)
    opened.clear()
    with pytest.raises(BundleError, match="link that leaves the folder"):
        load(tiny)
    assert [path.name for path in opened] == ["bundle.json"]


@pytest.mark.usefixtures("no_engine")
def test_a_reference_to_an_unlisted_file(tiny, replace_model):
    (tiny / "weights.bin").write_bytes(b"\0" * 16)
    replace_model(tiny, (tiny / "model.onnx").read_bytes() + PLACES["initialiser"](tensor("weights.bin")))
    with pytest.raises(BundleError, match=r"keeps weights in 'weights.bin', expected one of .*\(none\)"):
        load(tiny)


@pytest.mark.usefixtures("no_engine")
def test_a_changed_file_of_weights(tiny, replace_model):
    replace_model(
        tiny,
        (tiny / "model.onnx").read_bytes() + PLACES["initialiser"](tensor("w.bin")),
        {"w.bin": b"\0" * 16},
    )
    (tiny / "w.bin").write_bytes(b"\1" * 16)
    with pytest.raises(BundleError, match=r"'w.bin' was changed or damaged: sha256 is .*expected "):
        load(tiny)
    (tiny / "w.bin").unlink()
    with pytest.raises(BundleError, match=r"'w\.bin' is missing"):
        load(tiny)


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "data/w.bin"])
def test_listed_weights_are_used(tiny, replace_model, x, location):
    """The bias of the fixture, moved into a file, with another value."""
    plain = load(tiny).run({"x": x}).outputs["logits"]
    model = (tiny / "model.onnx").read_bytes()
    extra = graph(
        message(5, tensor(location, name="moved").replace(number(1, 4), number(1, 3), 1).replace(b"16", b"12"))
        + message(1, message(1, "logits") + message(1, "moved") + message(2, "shifted") + message(4, "Add"))
        + message(12, message(1, "shifted") + message(2, message(1, number(1, 1))))
    )
    values = np.array([10, 20, 30], np.float32)
    replace_model(tiny, model + extra, {location.removeprefix("./"): values.tobytes()})
    text = (tiny / "bundle.json").read_text().replace('"logits"', '"shifted"')
    (tiny / "bundle.json").write_text(text)
    np.testing.assert_allclose(load(tiny).run({"x": x}).outputs["shifted"], plain + values, atol=1e-5)


def test_a_file_that_is_no_model_is_refused(tiny, replace_model):
    replace_model(tiny, b"ORTM" * 100)
    with pytest.raises(BundleError, match="not an ONNX file"):
        load(tiny)
    replace_model(tiny, b"")
    with pytest.raises(BackendError, match="refuses it"):
        load(tiny)
