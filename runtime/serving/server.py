"""A server from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adaptrt.runtime.errors import one_line
from adaptrt.runtime.serving.errors import ServingError
from adaptrt.runtime.serving.frontend import Frontend
from adaptrt.runtime.serving.served_model import ServedModel

_LOGGER = logging.getLogger("adaptrt.serving")
_BACKLOG = 128
_TICK_S = 0.05
_KEEP_ALIVE_S = 65


@dataclass(frozen=True)
class ServerSettings:
    """What a server listens at, and what it takes.

    Attributes:
        host: address to listen at; this machine alone unless told otherwise: there is no password.
        http_port: 0 takes any that is free.
        grpc_port: likewise; None: no gRPC.
        max_queue: requests that may wait.
        max_batch: samples that requests together have in one call.
        batch_wait_ms: that a batch which is not full waits for more.
        max_request_bytes: of a request.
        max_connections: over HTTP; likewise calls at once over gRPC.
        receive_s: seconds that a client may take to send a request.
        grace_s: seconds that requests have to end when the server stops.
    """

    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int | None = 8081
    max_queue: int = 256
    max_batch: int = 16
    batch_wait_ms: float = 0.0
    max_request_bytes: int = 16 << 20
    max_connections: int = 512
    receive_s: float = 30.0
    grace_s: float = 30.0


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    http_port: int
    grpc_port: int | None


def serve(
    models: Sequence[ServedModel], settings: ServerSettings, started: Callable[[Address], None] = lambda _address: None
) -> None:
    """Serve until SIGINT or SIGTERM; what was taken by then is answered.

    Args:
        models: with a name each.
        settings: of the server.
        started: told where it listens, once it does.

    Raises:
        ServingError: a port cannot be had, or two models have one name.
        ModuleNotFoundError: KServe is not installed.
    """
    with _without_arguments():
        import kserve  # noqa: F401 - it reads the process's arguments when it is imported
    logging.getLogger("kserve").setLevel(logging.CRITICAL)  # it writes a traceback for every mistake of a client
    frontend = Frontend(
        models, max_queue=settings.max_queue, max_batch=settings.max_batch, batch_wait_ms=settings.batch_wait_ms
    )
    listener = listen(settings.host, settings.http_port)
    try:
        asyncio.run(_serve(frontend, settings, listener, started))
    finally:
        listener.close()
        frontend.stop()


async def _serve(
    frontend: Frontend, settings: ServerSettings, listener: socket.socket, started: Callable[[Address], None]
) -> None:
    from adaptrt.runtime.serving import grpc_service

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    rest = _rest_server(frontend, settings)
    grpc_server, grpc_port = None, None
    if settings.grpc_port is not None:
        grpc_server, grpc_port = await grpc_service.start(
            frontend,
            settings.host,
            settings.grpc_port,
            most_bytes=settings.max_request_bytes,
            most_calls=settings.max_connections,
            most_streams=settings.max_connections,
        )
    serving = asyncio.ensure_future(rest.serve([listener]))
    while not rest.started and not serving.done():
        await asyncio.sleep(_TICK_S)
    started(Address(settings.host, listener.getsockname()[1], grpc_port))
    ended = asyncio.ensure_future(stop.wait())
    await asyncio.wait((ended, serving), return_when=asyncio.FIRST_COMPLETED)
    frontend.ready = False  # who balances loads sends no more
    rest.should_exit = True
    if grpc_server is not None:
        await asyncio.gather(grpc_server.stop(settings.grace_s), serving)
    await serving
    frontend.stop()
    if not await loop.run_in_executor(None, frontend.executor.join, settings.grace_s):
        _LOGGER.warning("requests that nobody waits for were left when the server stopped")


def _rest_server(frontend: Frontend, settings: ServerSettings) -> Any:
    import uvicorn

    from adaptrt.runtime.serving.connections import protocol
    from adaptrt.runtime.serving.rest import application

    class Server(uvicorn.Server):
        """uvicorn's, whose signals are ours: gRPC stops with it."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(
        uvicorn.Config(
            application(frontend, settings.max_request_bytes, settings.receive_s),
            http=protocol(settings.max_connections, settings.receive_s),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(int(settings.grace_s), 1),
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ServingError: the port cannot be had, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio sends at once (TCP_NODELAY) only then. Without it the body of an answer waits for
    # the client to acknowledge its head, 40 ms later.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ServingError(
            f"got {host}:{port} for HTTP, which cannot be had ({one_line(error)}); choose another port, 0 for any"
        ) from error
    return listener


@contextlib.contextmanager
def _without_arguments() -> Iterator[None]:
    """KServe reads those of the process, ours among them, when it is imported."""
    arguments = sys.argv
    sys.argv = arguments[:1]
    try:
        yield
    finally:
        sys.argv = arguments
