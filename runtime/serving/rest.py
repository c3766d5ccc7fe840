"""Requests over HTTP: KServe's endpoints for health and metadata, and the endpoint that infers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from adaptrt.runtime.serving.errors import OUTCOMES, RequestError, TooLarge, outcome_of, text_of
from adaptrt.runtime.serving.frontend import Frontend
from adaptrt.runtime.serving.rest_messages import HEADER_LENGTH, RestRequest, check_outputs, decode, encode

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PROTOCOL = "http"
_LARGE_BYTES = 1 << 18
_DRAINED_BYTES = 64 << 20
_DRAINED_S = 2.0
_LEFT = object()


class InferEndpoint:
    """``POST /v2/models/NAME/infer``, as an ASGI application.

    Args:
        frontend: takes the requests.
        most_bytes: of a body.
        receive_s: seconds that a client may take to send one.
    """

    def __init__(self, frontend: Frontend, most_bytes: int, receive_s: float) -> None:
        self._frontend, self._most_bytes, self._receive_s = frontend, most_bytes, receive_s

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        name = scope["path_params"]["model_name"]
        arrived = self._frontend.clock()
        try:
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            body = await self._body(headers, receive)
            if body is None:
                self._frontend.ended(name, _PROTOCOL, OUTCOMES["left"], arrived)
                return
            arrived = self._frontend.clock()  # a client that sends slowly has itself to blame
            model = self._frontend.model(name)
            request = await self._decoded(body, headers.get(HEADER_LENGTH))
            if request.outputs is not None:
                check_outputs(list(request.outputs), [spec.name for spec in model.outputs])
            pending = self._frontend.submit(model, request.asked, arrived)
            answer = await _or_left(asyncio.wrap_future(pending.answer), receive)
            if answer is _LEFT:
                self._frontend.leave(pending)
                self._frontend.ended(name, _PROTOCOL, OUTCOMES["left"], arrived)
                return
            content, head = encode(request, name, answer)
        except Exception as error:
            outcome = outcome_of(error)
            self._frontend.ended(name, _PROTOCOL, outcome, arrived)
            await _send_error(send, outcome.status, text_of(error), retry=outcome.retry, last=outcome.status != 413)
            if isinstance(error, TooLarge):
                await _drain(receive)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        extra = [] if head is None else [(HEADER_LENGTH.encode(), str(head).encode())]
        await _send(send, 200, content, "application/json" if head is None else "application/octet-stream", extra)
        self._frontend.sent(pending)
        self._frontend.ended(name, _PROTOCOL, OUTCOMES["answered"], arrived)

    @staticmethod
    async def _decoded(body: bytes, header_length: str | None) -> RestRequest:
        """The request; of a large one in a thread, so that nobody else waits for it."""
        if len(body) < _LARGE_BYTES:
            return decode(body, header_length)
        return await asyncio.get_running_loop().run_in_executor(None, decode, body, header_length)

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes | None:
        """The body; None where the client has gone.

        Raises:
            TooLarge: it has more bytes than may be, which are not read.
            RequestError: it does not come in time, or is compressed.
        """
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() not in ("", "identity"):
            raise RequestError(f"got Content-Encoding {encoding[:40]!r}, expected none; send it as it is")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length[:20]) > self._most_bytes:
            raise TooLarge(
                f"got a body of {length[:20]} bytes, expected at most {self._most_bytes}; send fewer samples"
            )
        chunks: list[bytes] = []
        size, loop = 0, asyncio.get_running_loop()
        until, more = loop.time() + self._receive_s, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), max(until - loop.time(), 0.0))
            except asyncio.TimeoutError:
                raise RequestError(
                    f"got {size} bytes in {self._receive_s:g} s, expected the whole body; send it faster"
                ) from None
            if message["type"] == "http.disconnect":
                return None
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size > self._most_bytes:
                raise TooLarge(f"got a body of more than {self._most_bytes} bytes, expected at most so many; send less")
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def application(frontend: Frontend, most_bytes: int, receive_s: float) -> Any:
    """The ASGI application: KServe's read-only endpoints, ours that infers, and the metrics.

    KServe's endpoints that load and unload models are left out: whoever reaches the server could stop it with them.
    """
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse, Response
    from kserve.errors import ModelNotFound, ModelNotReady, ServerNotLive, ServerNotReady
    from kserve.protocol.rest.v2_endpoints import V2Endpoints
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    endpoints = V2Endpoints(frontend.data_plane)
    infer = InferEndpoint(frontend, most_bytes, receive_s)
    app.router.routes.append(Route("/v2/models/{model_name}/infer", infer, methods=["POST"]))
    for path, endpoint in (
        ("/v2", endpoints.metadata),
        ("/v2/health/live", endpoints.live),
        ("/v2/health/ready", endpoints.ready),
        ("/v2/models", endpoints.models),
        ("/v2/models/{model_name}", endpoints.model_metadata),
        ("/v2/models/{model_name}/ready", endpoints.model_ready),
    ):
        app.add_api_route(path, endpoint, methods=["GET"], response_model=None)

    async def metrics() -> Response:
        content, kind = frontend.metrics.text()
        return Response(content, headers={"content-type": kind})

    app.add_api_route("/metrics", metrics, methods=["GET"], response_model=None)

    def failing(status: int) -> Callable[[Any, Exception], Awaitable[JSONResponse]]:
        async def handler(_request: Any, error: Exception) -> JSONResponse:
            return JSONResponse({"error": str(error)}, status)

        return handler

    async def not_there(_request: Any, error: Any) -> JSONResponse:
        return JSONResponse({"error": f"got {error.detail}, expected a path of the protocol"}, error.status_code)

    app.add_exception_handler(ModelNotFound, failing(404))
    for unavailable in (ModelNotReady, ServerNotReady, ServerNotLive):
        app.add_exception_handler(unavailable, failing(503))
    app.add_exception_handler(HTTPException, not_there)
    return app


async def _or_left(answer: asyncio.Future[Any], receive: Receive) -> Any:
    """The answer, or ``_LEFT`` where the client goes first.

    Raises:
        Exception: what the call raised.
    """
    watch = asyncio.ensure_future(receive())
    try:
        while not answer.done():
            await asyncio.wait((answer, watch), return_when=asyncio.FIRST_COMPLETED)
            if watch.done() and not answer.done():
                if watch.result()["type"] == "http.disconnect":
                    answer.cancel()
                    return _LEFT
                watch = asyncio.ensure_future(receive())
        return answer.result()
    finally:
        watch.cancel()


async def _send(send: Send, status: int, content: bytes, kind: str, extra: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(content)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})


async def _send_error(send: Send, status: int, text: str, *, retry: bool, last: bool) -> None:
    content = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if retry:
        headers.append((b"retry-after", b"1"))
    if not last:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": not last})


async def _drain(receive: Receive) -> None:
    """Read some of what still comes and throw it away, so that the client sees the answer and not a reset."""
    loop, drained = asyncio.get_running_loop(), 0
    until = loop.time() + _DRAINED_S
    while drained < _DRAINED_BYTES and (left := until - loop.time()) > 0:
        try:
            message = await asyncio.wait_for(receive(), left)
        except asyncio.TimeoutError:
            return
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        drained += len(message.get("body", b""))
