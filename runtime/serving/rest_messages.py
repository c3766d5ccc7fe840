"""Requests and answers over HTTP: JSON, behind which tensors may follow as bytes (Triton's binary extension)."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from adaptrt.runtime.errors import shown
from adaptrt.runtime.serving.errors import RequestError
from adaptrt.runtime.serving.requests import Answer, Asked, asked
from adaptrt.runtime.serving.tensors import datatype, from_bytes, from_list

Array = np.ndarray[Any, Any]

HEADER_LENGTH = "inference-header-content-length"
_ALL_BINARY = "binary_data_output"
_BINARY = "binary_data"
_BINARY_SIZE = "binary_data_size"


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


class RestRequest(msgspec.Struct):
    """A request, and how its answer is to be written.

    Attributes:
        asked: what it asks for.
        id: the client's; None without one.
        outputs: names of those wanted, with whether as bytes; None: all.
        binary: whether those not named are wanted as bytes.
    """

    asked: Asked
    id: str | None
    outputs: dict[str, bool] | None
    binary: bool


_DECODER = msgspec.json.Decoder(_Request)


def decode(body: bytes, header_length: str | None) -> RestRequest:
    """A request from its body.

    Args:
        body: JSON, and then bytes.
        header_length: how many of them are JSON, as the header says it; None: all.

    Raises:
        RequestError: it is none.
        BudgetError: it has a budget that is none.
    """
    length = len(body)
    if header_length is not None:
        length = int(header_length) if header_length.isascii() and header_length.isdigit() else -1
        if not 0 <= length <= len(body):
            raise RequestError(
                f"got {HEADER_LENGTH} {shown(header_length)}, expected 0 to {len(body)}, the length of the body"
            )
    view = memoryview(body)
    try:
        request = _DECODER.decode(view[:length])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"got a body that is no request: {_cut(str(error))}; expected JSON with inputs") from None
    inputs, rest = _inputs(request.inputs, view[length:])
    if len(rest):
        raise RequestError(f"got {len(rest)} bytes behind the inputs, expected none; give each its {_BINARY_SIZE}")
    parameters = request.parameters or {}
    binary = _flag(parameters, _ALL_BINARY)
    outputs = None
    if request.outputs is not None:
        outputs = {
            output.name: _flag(output.parameters or {}, _BINARY) if _BINARY in (output.parameters or {}) else binary
            for output in request.outputs
        }
    return RestRequest(asked(inputs, parameters, (_ALL_BINARY,)), request.id, outputs, binary)


def encode(request: RestRequest, model: str, answer: Answer) -> tuple[bytes, int | None]:
    """An answer's body, and how many of its bytes are JSON; None where all are.

    Raises:
        RequestError: an output is wanted that the model does not have.
    """
    wanted = request.outputs
    if wanted is None:
        wanted = dict.fromkeys(answer.outputs, request.binary)
    check_outputs(list(wanted), list(answer.outputs))
    outputs, chunks = [], []
    for name, binary in wanted.items():
        array = answer.outputs[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype(array.dtype), "shape": list(array.shape)}
        if binary:
            chunks.append(little_endian(array))
            output["parameters"] = {_BINARY_SIZE: len(chunks[-1])}
        else:
            output["data"] = array.ravel().tolist()
        outputs.append(output)
    message: dict[str, Any] = {"model_name": model, "parameters": answer.parameters, "outputs": outputs}
    if request.id is not None:
        message["id"] = request.id
    head = msgspec.json.encode(message)
    return (b"".join([head, *chunks]), len(head)) if chunks else (head, None)


def check_outputs(wanted: list[str], known: list[str]) -> None:
    """Refuse outputs that the model does not have.

    Raises:
        RequestError: there is one.
    """
    for name in wanted:
        if name not in known:
            raise RequestError(f"got output {shown(name)}, expected some of {', '.join(known)}; ask for these")


def little_endian(array: Array) -> bytes:
    """Its bytes in row-major order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _inputs(tensors: list[_Tensor], rest: memoryview) -> tuple[dict[str, Array], memoryview]:
    inputs: dict[str, Array] = {}
    for tensor in tensors:
        if tensor.name in inputs:
            raise RequestError(f"got input {shown(tensor.name)} twice, expected it once; leave one out")
        if tensor.data is not None:
            inputs[tensor.name] = from_list(tensor.name, tensor.datatype, tensor.shape, tensor.data)
            continue
        size = (tensor.parameters or {}).get(_BINARY_SIZE)
        if type(size) is not int or not 0 <= size <= len(rest):
            raise RequestError(
                f"input {shown(tensor.name)}: got no data and {_BINARY_SIZE} {shown(size)}, expected data, or a size "
                f"of 0 to {len(rest)} bytes behind the JSON"
            )
        inputs[tensor.name] = from_bytes(tensor.name, tensor.datatype, tensor.shape, rest[:size])
        rest = rest[size:]
    return inputs, rest


def _flag(parameters: dict[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"got {name} {shown(value)}, expected true or false")
    return value


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
