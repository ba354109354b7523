"""One connection to a daemon: requests with their replies, records and reports.

    with running() as daemon:
        status = daemon.request(lambda number: Query(id=number), Status)

A request waits for its reply; what else comes in the meantime goes to whoever listens. While none
comes, a daemon at a socket is asked for a greeting from time to time: one that is stopped, or has
no descriptor left, would never answer.
"""

from __future__ import annotations

import contextlib
import grp
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dprobe.lib import quiet
from dprobe.lib.errors import (
    DaemonGoneError,
    DaemonSilentError,
    ForeignDaemonError,
    NoDaemonError,
    UserError,
    os_error_text,
)
from dprobed import __version__
from dprobed.printable import readable
from dprobed.proc import far, files, helper, procfs
from dprobed.proc.peer import credentials, has_our_pids
from dprobed.wire import messages
from dprobed.wire.messages.codec import daemon_decoder
from dprobed.wire.socket_path import default_socket

#: How every record line begins: the tag comes first.
_RECORD = b'{"type":"record",'
#: Seconds that a daemon at a socket has for its greeting.
GREETING = 5.0
#: Seconds that a private daemon has for it: it is starting.
_START = 60.0

R = TypeVar("R", bound=messages.Reply)


def _ignore(_: object) -> None:
    pass


class Connection:
    """A connection on which both sides have said hello.

    ``pid``: the daemon's process id as this process sees it; ``path``: where it listens; None: it
    is a private one, which serves nobody else.
    """

    def __init__(self, sock: socket.socket, daemon_pid: int, path: Path | None = None) -> None:
        self.pid = daemon_pid
        self.private = path is None
        self.path = path
        self._on_record: Callable[[bytes], None] = _ignore
        self._on_report: Callable[[messages.Report], None] = _ignore
        self._sock = sock
        self._buffer = bytearray()
        self._replies: deque[messages.Reply] = deque()
        self._last_id = 0
        daemon_decoder()  # A daemon that is starting gets ready meanwhile.
        #: How long it may be silent before we look whether it is well.
        self._patience = GREETING if path is not None else _START
        #: Whether it has answered on this connection.
        self._greeted = False
        self.welcome = self.request(
            lambda number: messages.Hello(id=number, protocol=messages.PROTOCOL),
            messages.Welcome,
        )
        self._greeted = True
        # Not that of who made the socket: a daemon may have got it from systemd.
        self.pid = self.welcome.pid
        self._patience = GREETING
        quiet.detail(f"through {self.through}, process {self.pid}, version {self.welcome.version}")

    @classmethod
    def open(cls, path: Path) -> Connection:
        """Connect to the daemon that listens at ``path``.

        Raises NoDaemonError, ForeignDaemonError and DaemonSilentError.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Of no effect but on ``connect``, which waits for room among those that are to be taken in.
        limit = struct.pack("@ll", int(GREETING), 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            _connect(sock, path)
            peer = credentials(sock)
            if peer.uid not in (0, os.getuid()) and os.getuid() != 0:
                raise NoDaemonError(f"{path} belongs to user {peer.uid}: not a dprobed to trust")
            if not has_our_pids(peer.pid):
                raise ForeignDaemonError(
                    f"the dprobed at {path} is in another pid namespace, where process ids mean "
                    "other processes; use dprobe there"
                )
            return cls(sock, peer.pid, path)
        except BlockingIOError:
            # As many as may wait do so already.
            sock.close()
            raise DaemonSilentError(f"the dprobed at {path} does not answer") from None
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            raise NoDaemonError(f"no dprobed listens at {path}; start one: dprobed &") from None
        except PermissionError as error:
            sock.close()
            raise NoDaemonError(f"{path}: {os_error_text(error)}{_for_members(path)}") from None
        except OSError as error:
            sock.close()
            raise NoDaemonError(f"{path}: {os_error_text(error)}") from None
        except BaseException:
            sock.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listen(
        self,
        on_record: Callable[[bytes], None],
        on_report: Callable[[messages.Report], None] = _ignore,
    ) -> None:
        """Call these from now on with each record (the line as it came) and each report."""
        self._on_record = on_record
        self._on_report = on_report

    @property
    def through(self) -> str:
        """Which daemon this is, in words; with its version where that is not ours."""
        if self.private:
            return "a private dprobed"
        owner = "root" if self.welcome.uid == 0 else f"user {self.welcome.uid}"
        version = self.welcome.version
        other = "" if version == __version__ else f" (version {version}; this is {__version__})"
        return f"the dprobed of {owner} at {self._sock.getpeername()}{other}"

    @property
    def answered(self) -> bool:
        """Whether the reply to a request has come: what came with it is behind it."""
        return bool(self._replies)

    def fileno(self) -> int:
        """The socket's descriptor, to wait on."""
        return self._sock.fileno()

    def close(self) -> None:
        """End the connection: what was not asked to be kept is taken out."""
        self._sock.close()

    def request(self, make: Callable[[int], messages.Request], kind: type[R]) -> R:
        """Send a request and wait for its answer, which must be a ``kind``.

        Raises UserError (the daemon's refusal), DaemonGoneError, DaemonSilentError.
        """
        self._last_id += 1
        began = time.monotonic()
        request = make(self._last_id)
        try:
            line = messages.encode(request)
        except UnicodeEncodeError as error:
            word = readable(error.object)
            raise UserError(f"{word}: not UTF-8, and only such text can be asked for") from None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # Else the daemon may have said why before it hung up.
            self._send(memoryview(line))
        while not self._replies:
            if self._is_ready(select.POLLIN):
                self.receive()
        reply = self._replies.popleft()
        took = 1000 * (time.monotonic() - began)
        quiet.detail(f"{type(request).__name__.lower()}: answered in {took:.1f} ms")
        if isinstance(reply, messages.Error):
            raise UserError(reply.error)
        if not isinstance(reply, kind) or reply.id != self._last_id:
            raise DaemonGoneError("protocol error: the daemon answered another request")
        return reply

    def _send(self, rest: memoryview) -> None:
        while rest:
            if self._is_ready(select.POLLOUT):
                with contextlib.suppress(BlockingIOError):
                    rest = rest[self._sock.send(rest, socket.MSG_DONTWAIT) :]

    def _is_ready(self, event: int) -> bool:
        """Wait for the socket; false: not yet, and the daemon is well. Raises DaemonSilentError."""
        poll = select.poll()
        poll.register(self._sock, event)
        if poll.poll(1000 * self._patience):
            return True
        what = "the private dprobed" if self.path is None else f"the dprobed at {self.path}"
        refuse_stopped(what, self.pid)
        if not self._greeted:
            # Of a daemon that systemd starts at the first connection only systemd is known yet.
            which = "" if self.pid == 1 else f" (process {self.pid})"
            raise DaemonSilentError(f"{what}{which} does not answer; its log may say why")
        if self.path is not None:
            # Does it greet another? Then it just takes long over what it was asked; and so it may
            # where it takes in nobody more.
            with contextlib.suppress(NoDaemonError, UserError):
                Connection.open(self.path).close()
        return False

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


def _connect(sock: socket.socket, path: Path) -> None:
    """Connect to a socket; raises OSError, also where its file system does not answer."""
    if path in (default_socket(os.getuid()), default_socket(0)):
        sock.connect(str(path))  # in memory
        return
    try:
        descriptor = files.locate(str(path))
    except helper.SilentError:
        raise far.silent(path) from None
    except ValueError as error:
        raise OSError(str(error)) from None
    try:
        # What is found is not looked for again.
        sock.connect(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _for_members(path: Path) -> str:
    """What to do about a socket that only members of its group may use."""
    try:
        status = path.stat()
        group = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        return ""
    if not status.st_gid or status.st_mode & 0o066 != 0o060:
        return ""
    return f": it is for members of group {group}; as root: usermod -a -G {group} USER"


def refuse_stopped(what: str, pid: int) -> None:
    """Raise DaemonSilentError where the daemon ``pid`` is stopped (SIGSTOP, a debugger)."""
    found = procfs.status(pid)
    if found is not None and found.state in "Tt":
        raise DaemonSilentError(
            f"{what} (process {pid}) does not answer: it is stopped; `kill -CONT {pid}` lets it "
            "go on"
        )


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
