"""Answers ``GET /metrics`` in the daemon's loop, for whoever connects, and lets nobody stay.

prometheus_client's own server is not used: it makes a thread for each connection, with no limit of
their number nor of the time that one takes, and knows no Unix sockets. Here a connection has
``PATIENCE`` seconds in all and ``MOST_BYTES`` for its request, is answered once and closed; of too
many the oldest has to go, so that who connects and says nothing keeps nobody out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

#: Seconds that a connection has, from its first byte to our last.
PATIENCE: Final = 10.0
#: Bytes of a request.
MOST_BYTES: Final = 8192
#: Connections at a time.
MOST: Final = 32
_TEXT: Final = "text/plain; charset=utf-8"

_log = logging.getLogger("dprobed")

#: Whether OpenMetrics is wanted → the page and its type.
MakePage = Callable[[bool], Awaitable[tuple[bytes, str]]]


class MetricsServer:
    """Serves what ``page`` makes at a listening socket."""

    def __init__(self, page: MakePage, *, patience: float = PATIENCE, most: int = MOST) -> None:
        self._page: Final = page
        self._patience: Final = patience
        self._most: Final = most
        self._server: asyncio.Server | None = None
        #: The oldest first.
        self._open: dict[asyncio.StreamWriter, None] = {}

    async def listen(self, sock: socket.socket) -> None:
        """Serve from now on."""
        start = asyncio.start_unix_server if sock.family == socket.AF_UNIX else asyncio.start_server
        self._server = await start(self._serve, sock=sock, limit=MOST_BYTES)

    def stop(self) -> None:
        """Serve no longer."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        if len(self._open) > self._most:
            # Out of the list at once: many may come before it has noticed.
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        # So that `drain` waits until all of it is with the kernel.
        writer.transport.set_write_buffer_limits(high=0)
        try:
            async with asyncio.timeout(self._patience):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # It went, or it was slow.
        finally:
            writer.transport.abort()
            self._open.pop(writer, None)

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"too long\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, b"this is no HTTP\n")
        if words[0] != "GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"GET only\n", allow="GET")
        if words[1].partition("?")[0] != "/metrics":
            return _response(HTTPStatus.NOT_FOUND, b"metrics are at /metrics\n")
        accepted = [line for line in fields if line.lower().startswith("accept:")]
        try:
            page, kind = await self._page("application/openmetrics-text" in "".join(accepted))
        except Exception:
            _log.exception("metrics could not be made")
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log of dprobed\n")
        return _response(HTTPStatus.OK, page, kind)


def _response(status: HTTPStatus, body: bytes, kind: str = _TEXT, *, allow: str = "") -> bytes:
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if allow:
        lines.append(f"Allow: {allow}")
    return "\r\n".join([*lines, "", ""]).encode() + body
