"""HTTP connections: how many there may be, and how long a request's head may take and be."""

from __future__ import annotations

import asyncio
import json
from typing import Any

_LONGEST_HEAD = 32 << 10


def protocol(most: int, receive_s: float) -> Any:
    """Uvicorn's protocol with limits.

    Args:
        most: connections at once; others are answered 503 and closed.
        receive_s: seconds from the first byte of a request, or from the connection, until its head is there.
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class LimitedProtocol(HttpToolsProtocol):
        """One connection."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.head_timer: asyncio.TimerHandle | None = None
            self.head_bytes = 0

        def connection_made(self, transport: Any) -> None:
            if len(self.connections) >= most:
                self.transport = transport
                transport.write(_busy(most))
                transport.close()
                return
            super().connection_made(transport)
            self.expect_head()

        def connection_lost(self, error: Exception | None) -> None:
            self.head_there()
            super().connection_lost(error)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.head_bytes = 0
            self.expect_head()

        def on_url(self, url: bytes) -> None:
            self.count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self.count(len(name) + len(value))
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self.head_there()
            super().on_headers_complete()

        def count(self, size: int) -> None:
            self.head_bytes += size
            if self.head_bytes > _LONGEST_HEAD:
                raise ValueError(f"got a head of more than {_LONGEST_HEAD} bytes")

        def expect_head(self) -> None:
            if self.head_timer is None:
                self.head_timer = self.loop.call_later(receive_s, self.too_slow)

        def head_there(self) -> None:
            if self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

        def too_slow(self) -> None:
            self.head_timer = None
            if not self.transport.is_closing():
                self.transport.close()

    return LimitedProtocol


def _busy(most: int) -> bytes:
    content = json.dumps({"error": f"got more than {most} connections, expected fewer; connect again later"}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
        f"connection: close\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
