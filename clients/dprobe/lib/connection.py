"""One connection to a daemon: requests with their replies, records and reports.

    with running() as daemon:
        status = daemon.request(lambda number: Query(id=number), Status)

A request waits for its reply; what else comes in the meantime goes to whoever listens.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from dprobe.lib.errors import DaemonGoneError, NoDaemonError, UserError, os_error_text
from dprobed.printable import readable
from dprobed.proc.peer import credentials
from dprobed.wire import messages
from dprobed.wire.messages.codec import daemon_decoder
from dprobed.wire.socket_path import default_socket

#: How every record line begins: the tag comes first.
_RECORD = b'{"type":"record",'

R = TypeVar("R", bound=messages.Reply)


def _ignore(_: object) -> None:
    pass


class Connection:
    """A connection on which both sides have said hello.

    ``pid``: the daemon's process id as this process sees it; ``private``: the daemon serves nobody
    else.
    """

    def __init__(self, sock: socket.socket, daemon_pid: int, *, private: bool = False) -> None:
        self.pid = daemon_pid
        self.private = private
        self._on_record: Callable[[bytes], None] = _ignore
        self._on_report: Callable[[messages.Report], None] = _ignore
        self._sock = sock
        self._buffer = bytearray()
        self._replies: deque[messages.Reply] = deque()
        self._last_id = 0
        daemon_decoder()  # A daemon that is starting gets ready meanwhile.
        self.welcome = self.request(
            lambda number: messages.Hello(id=number, protocol=messages.PROTOCOL),
            messages.Welcome,
        )

    @classmethod
    def open(cls, path: Path) -> Connection:
        """Connect to the daemon that listens at ``path``; raises NoDaemonError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
            peer = credentials(sock)
            if peer.uid not in (0, os.getuid()) and os.getuid() != 0:
                raise NoDaemonError(f"{path} belongs to user {peer.uid}: not a dprobed to trust")
            return cls(sock, peer.pid)
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            raise NoDaemonError(f"no dprobed listens at {path}; start one: dprobed &") from None
        except OSError as error:
            sock.close()
            raise NoDaemonError(f"{path}: {os_error_text(error)}") from None
        except BaseException:
            sock.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def listen(
        self,
        on_record: Callable[[bytes], None],
        on_report: Callable[[messages.Report], None] = _ignore,
    ) -> None:
        """Call these from now on with each record (the line as it came) and each report."""
        self._on_record = on_record
        self._on_report = on_report

    def fileno(self) -> int:
        """The socket's descriptor, to wait on."""
        return self._sock.fileno()

    def close(self) -> None:
        """End the connection: what was not asked to be kept is taken out."""
        self._sock.close()

    def request(self, make: Callable[[int], messages.Request], kind: type[R]) -> R:
        """Send a request and wait for its answer, which must be a ``kind``.

        Raises UserError (the daemon's refusal), DaemonGoneError.
        """
        self._last_id += 1
        try:
            line = messages.encode(make(self._last_id))
        except UnicodeEncodeError as error:
            word = readable(error.object)
            raise UserError(f"{word}: not UTF-8, and only such text can be asked for") from None
        try:
            self._sock.sendall(line)
        except OSError:
            # The daemon may have said why before it hung up.
            while not self._replies:
                self.receive()
        while not self._replies:
            self.receive()
        reply = self._replies.popleft()
        if isinstance(reply, messages.Error):
            raise UserError(reply.error)
        if not isinstance(reply, kind) or reply.id != self._last_id:
            raise DaemonGoneError("protocol error: the daemon answered another request")
        return reply

    def receive(self) -> None:
        """Take in what the daemon sent, waiting for it if need be; raises DaemonGoneError."""
        try:
            data = self._sock.recv(1 << 18)
        except OSError as error:
            raise DaemonGoneError(f"the daemon is gone: {os_error_text(error)}") from None
        if not data:
            raise DaemonGoneError("the daemon is gone")
        if b"\n" not in data:
            self._buffer += data
            return
        *lines, rest = (bytes(self._buffer) + data).split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        if line.startswith(_RECORD):
            self._on_record(line)
            return
        try:
            message = messages.decode_from_daemon(line)
        except messages.MessageError as error:
            raise DaemonGoneError(f"protocol error from the daemon: {error}") from None
        if isinstance(message, messages.Reply):
            self._replies.append(message)
        elif not isinstance(message, messages.Record):
            self._on_report(message)


def running(path: Path | None = None) -> Connection:
    """Connect to the running daemon: at ``path``, else the user's own, else root's.

    Raises NoDaemonError.
    """
    if path is not None:
        return Connection.open(path)
    own = default_socket(os.getuid())
    try:
        return Connection.open(own)
    except NoDaemonError:
        roots = default_socket(0)
        if own == roots or not roots.exists():
            raise
        return Connection.open(roots)
