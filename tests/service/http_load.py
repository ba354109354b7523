"""A load on an HTTP server that knows exactly what it asked for and what it got.

    python -m tests.service.http_load PORT CONNECTIONS PATH...

Half of the connections are kept for many requests, the other half are for one each. A line with a
number on standard input is answered when so many more requests are done, by a line of JSON with all
counts up to then; times are those since the last line. At the end of its input it finishes what it
has begun and says the last counts.

A kept connection that the server closes before it has said anything in answer to a request was idle
for the server, which has not seen the request: it is asked again on a new one (RFC 9112, 9.3.1),
and counted in ``again``. Whatever else is not the expected answer is a failure.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time
from collections import Counter, deque
from itertools import cycle

#: Failures that are described; all are counted.
_DESCRIBED = 10
_REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n"
    "Connection: {connection}\r\n\r\n"
)


class Visitor:
    """One client of the server: one request after the other."""

    def __init__(self, load: Load, paths: list[str], kept: bool) -> None:
        self._load = load
        self._paths = cycle(paths)
        self._kept = kept
        self._socket: socket.socket | None = None
        self._path = ""
        self._data = bytearray()
        self._asked_before = False
        self._begun = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether it waits for an answer."""
        return bool(self._path)

    def ask(self) -> None:
        """Begin the next request."""
        self._path = next(self._paths)
        self._begun = time.perf_counter()
        self._send()

    def _send(self) -> None:
        try:
            if self._socket is None:
                self._asked_before = False
                self._socket = socket.create_connection(("127.0.0.1", self._load.port), 10)
                self._load.selector.register(self._socket, selectors.EVENT_READ, self)
            connection = "keep-alive" if self._kept else "close"
            request = _REQUEST.format(path=self._path, connection=connection)
            self._socket.sendall(request.encode())
        except OSError as error:
            self._broken(error.strerror or str(error))

    def read(self) -> None:
        """Something came."""
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            self._broken(error.strerror or str(error))
            return
        if not self._path:
            # The server is done with a connection that nobody uses.
            self._close()
        elif not data:
            self._broken("the connection was closed")
        else:
            self._data += data
            if (answer := self._answer()) is not None:
                self._done(*answer)

    def _answer(self) -> tuple[bytes, bytes] | None:
        """Head and body, when they are whole."""
        head, blank, body = bytes(self._data).partition(b"\r\n\r\n")
        if not blank:
            return None
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            return (head, body) if body.endswith(b"0\r\n\r\n") else None
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return (head, body) if len(body) == length else None

    def _done(self, head: bytes, body: bytes) -> None:
        path, self._path = self._path, ""
        self._data.clear()
        self._asked_before = True
        if not self._kept or b"connection: close" in head.lower():
            self._close()
        self._load.answered(path, head, body, time.perf_counter() - self._begun)

    def _broken(self, why: str) -> None:
        unseen = self._asked_before and not self._data
        self._close()
        if not self._path:
            return
        if unseen:
            self._load.counts["again"] += 1
            self._send()
            return
        path, self._path = self._path, ""
        self._load.failed(f"{path}: {why}; had {bytes(self._data)!r}")
        self._data.clear()

    def _close(self) -> None:
        if self._socket is not None:
            self._load.selector.unregister(self._socket)
            self._socket.close()
            self._socket = None


class Load:
    """All visitors, and the counts."""

    def __init__(self, port: int, connections: int, paths: list[str]) -> None:
        self.port = port
        self.selector = selectors.DefaultSelector()
        self.counts: Counter[str] = Counter()
        self._paths: Counter[str] = Counter()
        self._failures: list[str] = []
        self._latencies: list[float] = []
        self._expected: dict[str, bytes] = {}
        self._said = time.perf_counter()
        self._done = 0
        self._orders: deque[int] = deque()
        self._due = 0
        self._input = b""
        self._ending = False
        self._visitors = [
            Visitor(self, paths[turn % len(paths) :] + paths[: turn % len(paths)], turn % 2 == 0)
            for turn in range(connections)
        ]

    def answered(self, path: str, head: bytes, body: bytes, seconds: float) -> None:
        """A whole answer came; it must be the same as the first one."""
        self._done += 1
        if not head.startswith(b"HTTP/1.1 200 ") or body != self._expected.setdefault(path, body):
            self._note(f"{path}: another answer: {head!r} {body[:100]!r}")
            return
        self._paths[path] += 1
        self._latencies.append(seconds)

    def failed(self, why: str) -> None:
        """A request got no whole answer."""
        self._done += 1
        self._note(why)

    def _note(self, why: str) -> None:
        self.counts["failed"] += 1
        if len(self._failures) < _DESCRIBED:
            self._failures.append(why)

    def run(self) -> None:
        """Until the end of the input."""
        os.set_blocking(0, False)
        self.selector.register(0, selectors.EVENT_READ)
        while True:
            for visitor in self._visitors:
                if not visitor.is_busy and not self._ending:
                    visitor.ask()
            if self._ending and not any(visitor.is_busy for visitor in self._visitors):
                break
            for key, _ in self.selector.select():
                if key.data is None:
                    self._hear()
                elif key.data._socket is key.fileobj:
                    key.data.read()
            self._report_due()
        self._say()

    def _hear(self) -> None:
        data = os.read(0, 4096)
        if not data:
            self.selector.unregister(0)
            self._ending = True
        *lines, self._input = (self._input + data).split(b"\n")
        self._orders.extend(map(int, lines))

    def _report_due(self) -> None:
        while self._orders:
            self._due = self._due or self._done + self._orders[0]
            if self._done < self._due:
                return
            self._due = 0
            self._orders.popleft()
            self._say()

    def _say(self) -> None:
        ordered = sorted(self._latencies)
        now = time.perf_counter()
        result = {
            "answered": self._paths.total(),
            "paths": self._paths,
            "failed": self.counts["failed"],
            "again": self.counts["again"],
            "failures": self._failures,
            "rate": len(ordered) / (now - self._said),
            "median": ordered[len(ordered) // 2] if ordered else 0.0,
            "p99": ordered[len(ordered) * 99 // 100] if ordered else 0.0,
            "longest": ordered[-1] if ordered else 0.0,
        }
        self._latencies.clear()
        self._said = now
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    Load(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]).run()
