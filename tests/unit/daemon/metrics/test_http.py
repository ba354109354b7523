"""Who connects is answered, or sent away; nobody stays, and nobody keeps others out."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from dprobed.daemon.metrics.http import MOST_BYTES, MetricsServer

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
PAGE = b"x" * (1 << 22)  # more than a socket takes at once


async def page(open_metrics: bool) -> tuple[bytes, str]:
    return (b"open\n", "open") if open_metrics else (b"plain\n", "plain")


def serve(
    path: Path,
    script: Callable[[Connect], Awaitable[None]],
    make: Callable[[bool], Awaitable[tuple[bytes, str]]] = page,
    patience: float = 60.0,
    most: int = 4,
) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path / "m"))
            sock.listen(100)
            server = MetricsServer(make, patience=patience, most=most)
            await server.listen(sock)
            try:
                await script(lambda: asyncio.open_unix_connection(str(path / "m")))
            finally:
                server.stop()

    asyncio.run(asyncio.wait_for(main(), 60))


async def ask(connect: Connect, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the response, at whose end the connection is closed."""
    reader, writer = await connect()
    try:
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return head, body


def get(path: str = "/metrics", *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def test_a_page_in_the_format_that_is_asked_for(tmp_path: Path) -> None:
    async def script(connect: Connect) -> None:
        head, body = await ask(connect, get())
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: plain\r\nContent-Length: 6\r\n")
        assert body == b"plain\n"
        accept = "ACCEPT: application/openmetrics-text;version=nonsense,*/*;q=0.1"
        assert (await ask(connect, get("/metrics?x", accept)))[1] == b"open\n"

    serve(tmp_path, script)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), b"404"),
        (get("/metrics/../../etc/passwd"), b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\x16\x03\x01\x00\xff\r\n\r\n", b"400"),
        (b"GET  HTTP/1.1 x\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * MOST_BYTES + b"\r\n\r\n", b"431"),
    ],
)
def test_what_is_no_scrape_is_refused(tmp_path: Path, request_: bytes, status: bytes) -> None:
    async def script(connect: Connect) -> None:
        head, _ = await ask(connect, request_)
        assert head.split(b" ")[:2] == [b"HTTP/1.1", status]

    serve(tmp_path, script)


def test_who_says_nothing_keeps_nobody_out(tmp_path: Path) -> None:
    async def script(connect: Connect) -> None:
        with ExitStack() as stack:
            silent = []
            for _ in range(40):  # All of them before the loop sees the first.
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.connect(str(tmp_path / "m"))
                silent.append(sock)
            assert (await ask(connect, get()))[1] == b"plain\n"
            # The oldest had to go; what is left is within the limit.
            while (gone := [is_over(sock) for sock in silent]).count(False) > 4:
                await asyncio.sleep(0)
            assert gone == sorted(gone, reverse=True)

    serve(tmp_path, script, most=4)


def is_over(sock: socket.socket) -> bool:
    """Whether the other end is closed."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


def test_who_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async def large(open_metrics: bool) -> tuple[bytes, str]:
        return PAGE, "plain"

    async def slow(connect: Connect) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "m"))
            sock.sendall(get())
            while not is_over(sock):
                await asyncio.sleep(0.01)
            # What was sent before can be read, then comes the end.
            seen = 0
            while data := sock.recv(1 << 16):
                seen += len(data)
        assert 0 < seen < len(PAGE)

    async def quick(connect: Connect) -> None:
        assert len((await ask(connect, get()))[1]) == len(PAGE)

    serve(tmp_path, slow, large, patience=1.0)
    (tmp_path / "m").unlink()
    serve(tmp_path, quick, large)


def test_an_error_of_ours_is_told_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(open_metrics: bool) -> tuple[bytes, str]:
        raise ZeroDivisionError

    async def script(connect: Connect) -> None:
        assert (await ask(connect, get()))[0].startswith(b"HTTP/1.1 500 ")

    caplog.set_level(logging.ERROR)
    serve(tmp_path, script, broken)
    assert caplog.records[0].getMessage() == "metrics could not be made"
