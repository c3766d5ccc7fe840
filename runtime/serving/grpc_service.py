"""Requests over gRPC: KServe's service and messages, with the call that infers led to the queue."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from adaptrt.runtime.errors import shown
from adaptrt.runtime.serving.errors import OUTCOMES, RequestError, ServingError, outcome_of, text_of
from adaptrt.runtime.serving.frontend import Frontend
from adaptrt.runtime.serving.requests import Answer, Asked, asked
from adaptrt.runtime.serving.rest_messages import check_outputs, little_endian
from adaptrt.runtime.serving.tensors import check_head, datatype, from_bytes

Array = np.ndarray[Any, Any]

_PROTOCOL = "grpc"
_OVERHEAD_BYTES = 1 << 16
"""Of a message beside its tensors."""


async def start(
    frontend: Frontend, host: str, port: int, *, most_bytes: int, most_calls: int, most_streams: int
) -> tuple[Any, int]:
    """Start to listen.

    Args:
        frontend: takes the requests.
        host: address to listen at.
        port: 0 takes any that is free.
        most_bytes: of a request's tensors.
        most_calls: that are worked on at once; others are refused at once.
        most_streams: calls of one connection at once; others wait on the client's side.

    Returns:
        The server, and its port.

    Raises:
        ServingError: the port cannot be had.
    """
    from grpc import aio
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

    server = aio.server(
        options=[
            ("grpc.max_receive_message_length", most_bytes + _OVERHEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", most_streams),
            ("grpc.max_metadata_size", 16 << 10),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=most_calls,
    )
    service.add_GRPCInferenceServiceServicer_to_server(_servicer(frontend), server)
    try:
        bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError:
        bound = 0
    if not bound:
        raise ServingError(f"got {host}:{port} for gRPC, which cannot be had; choose another port, 0 for any")
    await server.start()
    return server, int(bound)


def _servicer(frontend: Frontend) -> Any:
    import grpc
    from kserve.errors import ModelNotFound
    from kserve.protocol.grpc.servicer import InferenceServicer

    class Service(InferenceServicer):
        """KServe's, without what loads and unloads models."""

        async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            arrived, pending = frontend.clock(), None
            try:
                model = frontend.model(request.model_name)
                wanted = [output.name for output in request.outputs]
                check_outputs(wanted, [spec.name for spec in model.outputs])
                pending = frontend.submit(model, _decode(request), arrived)
                answer = await asyncio.wrap_future(pending.answer)
                message = _encode(request, wanted or list(answer.outputs), answer)
            except asyncio.CancelledError:
                if pending is not None:
                    frontend.leave(pending)
                frontend.ended(request.model_name, _PROTOCOL, OUTCOMES["left"], arrived)
                raise
            except Exception as error:
                outcome = outcome_of(error)
                frontend.ended(request.model_name, _PROTOCOL, outcome, arrived)
                return await context.abort(getattr(grpc.StatusCode, outcome.code), text_of(error))
            frontend.sent(pending)
            frontend.ended(request.model_name, _PROTOCOL, OUTCOMES["answered"], arrived)
            return message

        async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
            try:
                return await super().ModelReady(request, context)
            except ModelNotFound as error:
                return await context.abort(grpc.StatusCode.NOT_FOUND, str(error))

        async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            try:
                return await super().ModelMetadata(request, context)
            except ModelNotFound as error:
                return await context.abort(grpc.StatusCode.NOT_FOUND, str(error))

        async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
            del request
            return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "models are loaded when the server starts")

        async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
            del request
            return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "models are served until the server stops")

    return Service(frontend.data_plane, None)


def _decode(request: Any) -> Asked:
    """A request from its message.

    Raises:
        RequestError: it is none.
        BudgetError: it has a budget that is none.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"got {len(raw)} raw contents, expected {len(request.inputs)}, one for each input")
    inputs: dict[str, Array] = {}
    for place, tensor in enumerate(request.inputs):
        name, shape = tensor.name, list(tensor.shape)
        if name in inputs:
            raise RequestError(f"got input {shown(name)} twice, expected it once; leave one out")
        if raw:
            inputs[name] = from_bytes(name, tensor.datatype, shape, raw[place])
        else:
            inputs[name] = _from_contents(name, tensor.datatype, shape, tensor.contents)
    return asked(inputs, {name: _value(name, value) for name, value in request.parameters.items()})


def _field(dtype: np.dtype[Any]) -> str:
    """Where a message has numbers of a dtype; empty for float16, which comes as bytes alone."""
    wide = dtype.itemsize == 8
    if dtype.kind == "f":
        return {8: "fp64_contents", 4: "fp32_contents"}.get(dtype.itemsize, "")
    if dtype.kind == "b":
        return "bool_contents"
    return f"{'u' if dtype.kind == 'u' else ''}int{'64' if wide else ''}_contents"


def _from_contents(name: str, kind: str, shape: list[int], contents: Any) -> Array:
    dtype, sizes, count = check_head(name, kind, shape)
    field = _field(dtype)
    numbers = getattr(contents, field) if field else ()
    if len(numbers) != count:
        raise RequestError(
            f"input {shown(name)}: got {len(numbers)} {field or 'numbers'}, expected {count} for {kind} {sizes}"
        )
    array = np.array(numbers)
    if count and dtype.kind in "iu" and not np.array_equal(array.astype(dtype), array):
        raise RequestError(f"input {shown(name)}: got numbers that {kind} cannot hold, expected smaller ones")
    return array.astype(dtype).reshape(sizes)


def _value(name: str, parameter: Any) -> object:
    field = parameter.WhichOneof("parameter_choice")
    if field is None:
        raise RequestError(f"got parameter {shown(name)} as a fraction, expected a text over gRPC; write it as one")
    return getattr(parameter, field)


def _encode(request: Any, wanted: list[str], answer: Answer) -> Any:
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages

    response = messages.ModelInferResponse(model_name=request.model_name, id=request.id)
    raw = bool(request.raw_input_contents) or any(answer.outputs[name].dtype == np.float16 for name in wanted)
    for name in wanted:
        array = answer.outputs[name]
        tensor = response.outputs.add()
        tensor.name, tensor.datatype = name, datatype(array.dtype)
        tensor.shape.extend(array.shape)
        if raw:
            response.raw_output_contents.append(little_endian(array))
        else:
            field = _field(array.dtype)
            getattr(tensor.contents, field).extend(array.ravel().tolist())
    for name, value in answer.parameters.items():
        parameter = response.parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            parameter.int64_param = value
        else:
            parameter.string_param = value if isinstance(value, str) else repr(value)
    return response
