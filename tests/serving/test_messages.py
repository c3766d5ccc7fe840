"""Reading and writing messages, without a server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptrt import AdaptrtError
from adaptrt.runtime import Budget
from adaptrt.runtime.serving.errors import FAILED, OUTCOMES, RequestError, outcome_of, text_of
from adaptrt.runtime.serving.requests import Answer, asked
from adaptrt.runtime.serving.rest_messages import decode, encode
from adaptrt.runtime.serving.tensors import DTYPES, datatype, from_bytes, from_list
from tests.serving.server_process import tensor


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


@pytest.mark.parametrize("name", DTYPES)
def test_every_datatype_comes_back(name: str) -> None:
    numbers = np.array([[0, 1], [1, 0]]).astype(DTYPES[name])
    assert datatype(numbers.dtype) == name
    for array in (
        from_bytes("x", name, [2, 2], numbers.tobytes()),
        from_list("x", name, [2, 2], numbers.tolist()),
        from_list("x", name, [2, 2], numbers.ravel().tolist()),
    ):
        assert array.dtype == numbers.dtype and np.array_equal(array, numbers)


@pytest.mark.parametrize(
    ("kind", "shape", "data", "what"),
    [
        ("FP32", [2], [1.0], "got 1 numbers, expected 2"),
        ("FP32", [2, 2], [[1.0, 2.0], [3.0]], "expected lists of equal lengths"),
        ("FP32", [1], ["1"], "not FP32"),
        ("FP32", [1], [None], "not FP32"),
        ("FP32", [1], [True], "not FP32"),
        ("FP32", [1], 1.0, "expected a list"),
        ("INT32", [1], [1.5], "not INT32"),
        ("INT32", [1], [2**31], "not INT32, expected numbers that it can hold"),
        ("UINT8", [1], [-1], "not UINT8, expected numbers that it can hold"),
        ("INT64", [1], [2**70], "not INT64"),
        ("BOOL", [1], [1], "not BOOL"),
        ("BYTES", [1], ["a"], "got datatype 'BYTES', expected BOOL"),
        ("FP32", [-1], [1.0], "got shape"),
        ("FP32", [2**80], [1.0], "got shape"),
        ("FP32", [1.5], [1.0], "got shape"),
        ("FP32", [True], [1.0], "got shape"),
        ("FP32", [1] * 40, [1.0], "got shape"),
        ("FP32", [2**40, 2**40], [1.0], "got 1 numbers"),
    ],
)
def test_lists_that_are_no_such_tensor(kind: str, shape: Any, data: Any, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        from_list("x", kind, shape, data)


def test_bytes_that_are_no_such_tensor() -> None:
    with pytest.raises(RequestError, match="got 3 bytes, expected 8"):
        from_bytes("x", "FP32", [2], b"abc")
    assert from_bytes("x", "FP32", [0, 4], b"").shape == (0, 4)


def test_bytes_that_lie_anywhere_are_aligned() -> None:
    content = b"x" + np.arange(4, dtype=np.float32).tobytes()
    array = from_bytes("x", "FP32", [4], memoryview(content)[1:])
    assert array.flags.aligned and array.tolist() == [0, 1, 2, 3]


def test_tensors_behind_the_json() -> None:
    x, y = np.arange(4, dtype=np.float32), np.array([7], np.int64)
    described = [
        {"name": "x", "datatype": "FP32", "shape": [4], "parameters": {"binary_data_size": 16}},
        tensor("z", [1], [3], "INT32"),
        {"name": "y", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}},
    ]
    head = body(*described, id="7", parameters={"budget": "45%", "binary_data_output": True})
    request = decode(head + x.tobytes() + y.tobytes(), str(len(head)))
    assert {name: array.tolist() for name, array in request.asked.inputs.items()} == {
        "x": [0, 1, 2, 3],
        "z": [3],
        "y": [7],
    }
    assert request.asked.budget == Budget.fraction(0.45) and request.id == "7" and request.binary
    for length, more in ((str(len(head)), b"!"), (str(len(head) + 99), b""), ("-1", b""), ("x", b""), ("٣", b"")):
        with pytest.raises(RequestError, match="got"):
            decode(head + x.tobytes() + y.tobytes() + more, length)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"inputs": {}}',
        b'{"inputs": [{"name": "x"}]}',
        b'{"inputs": [{"name": 3, "datatype": "FP32", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}',
        body(tensor("x", [1], [1.0]), tensor("x", [1], [1.0])),
        body({"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": -4}}),
        body({"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": "4"}}),
        body(tensor("x", [1], [1.0]), parameters={"binary_data_output": 1}),
        body(tensor("x", [1], [1.0]), parameters={"bugdet": "45%"}),
    ],
)
def test_what_is_no_request(content: bytes) -> None:
    with pytest.raises(RequestError, match="got .*expected"):
        decode(content, None)


@given(st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=4)))
def test_any_bytes_are_a_request_or_refused(content: bytes, length: str | None) -> None:
    with pytest.raises(AdaptrtError, match="expected"):
        decode(content, length)


@pytest.mark.parametrize(
    "parameters",
    [
        {"budget": value}
        for value in (
            "nan%",
            "nanms",
            "-1ms",
            "0ms",
            "infms",
            "80",
            "8s",
            "",
            "fast",
            45,
            0.45,
            True,
            None,
            ["8ms"],
            "9" * 99,
        )
    ]
    + [{"deadline_ms": value} for value in (0, -1, "nan", "inf", float("nan"), "x", None, True, [5], 10**400)]
    + [{"hard": True}, {"hard": "yes", "budget": "45%"}, {"hard": True, "budget": "8ms"}],
)
def test_budgets_and_deadlines_that_are_none(parameters: dict[str, Any]) -> None:
    with pytest.raises(AdaptrtError, match="got .*expected"):
        asked({}, parameters)


def test_budgets_and_deadlines() -> None:
    assert asked({}, {"budget": " 8ms "}).budget == Budget.latency(8)
    assert asked({}, {"budget": "45%", "hard": True}).budget == Budget.fraction(0.45, hard=True)
    assert [asked({}, {"deadline_ms": value}).deadline_ms for value in (5, 0.5, "2.5")] == [5, 0.5, 2.5]


def test_answers_as_lists_and_as_bytes() -> None:
    answer = Answer({"a": np.array([[1.5, np.nan]], np.float32), "b": np.array([3], np.int64)}, {"batch": 1})
    plain = body(tensor("x", [1], [1.0]), id="a")
    content, head = encode(decode(plain, None), "m", answer)
    assert head is None and json.loads(content) == {
        "model_name": "m",
        "id": "a",
        "parameters": {"batch": 1},
        "outputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1.5, None]},
            {"name": "b", "datatype": "INT64", "shape": [1], "data": [3]},
        ],
    }
    wanted = body(tensor("x", [1], [1.0]), outputs=[{"name": "a", "parameters": {"binary_data": True}}, {"name": "b"}])
    content, head = encode(decode(wanted, None), "m", answer)
    assert head is not None and content[head:] == answer.outputs["a"].tobytes()
    assert json.loads(content[:head])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    unknown = body(tensor("x", [1], [1.0]), outputs=[{"name": "c"}])
    with pytest.raises(RequestError, match="got output 'c', expected some of a, b"):
        encode(decode(unknown, None), "m", answer)


def test_every_error_has_an_outcome_and_tells_nothing_of_the_inside() -> None:
    assert text_of(RuntimeError("/a/path")) == FAILED and outcome_of(RuntimeError()).status == 500
    assert text_of(RequestError("got a\n b")) == "got a b"
    assert {outcome.code for outcome in OUTCOMES.values()} >= {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
