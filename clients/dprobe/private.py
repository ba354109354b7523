"""A private daemon: started where none runs, for the lifetime of one command.

It has a session of its own, /dev/null instead of the terminal, and no file. Its one connection is a
socket pair with this process: when this process ends, however it ends, the daemon takes all probes
out and ends too.

It is forked from this process: what both need is imported before, once, and what only one of them
needs after, while the other does the same. Where a command line plainly asks for one (``ahead``),
that is before it is read: click and the command are imported beside the daemon.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, Protocol

from dprobe.lib.connection import GREETING, Connection, refuse_stopped
from dprobe.lib.errors import (
    DaemonGoneError,
    DaemonSilentError,
    ForeignDaemonError,
    NoDaemonError,
    UserError,
)
from dprobe.lib.launch import occupy_standard_descriptors, take_signals
from dprobed.wire.socket_path import default_socket

#: How Python tells of what nobody expected.
_DEFECT = "Traceback (most recent call last):"
#: Signals that end a daemon, whatever this process does at them.
_ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)

#: The daemon that was forked and is not taken yet, if there is one.
_begun: Final[list[_Forked]] = []


class _Forked(NamedTuple):
    """A daemon's process: its pid, our end of its socket, and what it writes to standard error."""

    pid: int
    sock: socket.socket
    stderr: int


def _fork() -> _Forked:
    """Fork a daemon; raises OSError."""
    # Imported before, for it and for the tracer that it forks in turn.
    from dprobed.daemon.private import run

    ours, theirs = socket.socketpair()
    # For what it has to say before the socket works.
    stderr = os.memfd_create("dprobed-stderr")
    # No handler of ours may run in the child.
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _run(run, theirs, stderr)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return _Forked(pid, ours, stderr)


class PrivateDaemon:
    """A private daemon: one that was started already, or starts now; ``connect`` waits until it is
    ready.

    ``say`` is told its log at the end, where that has a defect: messages about one say that the log
    has more, and this daemon's is no file.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say: Final = say
        forked = _begun.pop() if _begun else _fork()
        self.pid: Final = forked.pid
        self._sock: Final = forked.sock
        self._stderr: Final = forked.stderr

    def connect(self) -> Connection:
        """The connection to it; raises DaemonGoneError or UserError when it did not start."""
        try:
            return Connection(self._sock, self.pid)
        except DaemonGoneError as error:
            said = self.complaint()
            # 2: by its configuration or its policies, which the user can change.
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            if ended is not None and (ended.si_code, ended.si_status) == (os.CLD_EXITED, 2):
                raise UserError(said.removeprefix("dprobed: ")) from None
            raise DaemonGoneError(f"the private daemon did not start: {said or error}") from None

    def complaint(self) -> str:
        """The last line that it wrote to its standard error."""
        lines = self.log().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def log(self) -> str:
        """All that it wrote to its standard error."""
        size = os.fstat(self._stderr).st_size
        return os.pread(self._stderr, size, 0).decode(errors="replace").strip()

    def __enter__(self) -> PrivateDaemon:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Close the socket, and wait until the daemon has ended: then every probe is out."""
        self._sock.close()
        try:
            if not self._has_ended(0.2) and not isinstance(error, DaemonSilentError):
                while not self._has_ended(GREETING):
                    refuse_stopped(
                        "the private dprobed, which still has to take its probes out,", self.pid
                    )
        finally:
            # A defect's answer may come before what is written about it; now all of it is.
            said = self.log()
            os.close(self._stderr)
            if _DEFECT in said and not isinstance(error, DaemonGoneError):
                self._say(f"the log of the private dprobed:\n{said}")

    def _has_ended(self, seconds: float) -> bool:
        """Wait so long for its end."""
        descriptor = os.pidfd_open(self.pid)
        try:
            ended = bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)
        if ended:
            os.waitpid(self.pid, 0)
        return ended


def _run(run: Callable[[socket.socket], int], sock: socket.socket, stderr: int) -> NoReturn:
    """Be the daemon, in the forked child; never returns into the client."""
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number, descriptor in enumerate((null, null, stderr)):
            os.dup2(descriptor, number)
        for each in _ENDING:
            signal.signal(each, signal.SIG_DFL)
        status = run(sock)
    except BaseException:
        traceback.print_exc()
    finally:
        # The client waits for our end, and taking down the interpreter would only make it later.
        os._exit(status)


@contextlib.contextmanager
def begun(*, reads_files: bool) -> Iterator[None]:
    """Fork a daemon that will most probably be needed; at the end it ends if nobody has taken it.

    ``reads_files``: this process reads files of its targets, as resolvers do. What is wrong is said
    by who needs the daemon.
    """
    # What is opened here must not become a standard stream, and children must be waitable.
    occupy_standard_descriptors()
    take_signals()
    if reads_files:
        import dprobe.lib.places  # noqa: F401
    with contextlib.suppress(OSError):
        _begun.append(_fork())
    try:
        yield
    finally:
        if _begun:
            with contextlib.suppress(DaemonSilentError), PrivateDaemon(lambda _: None):
                pass


class Daemon(Protocol):
    """A daemon that can be connected to."""

    @property
    def pid(self) -> int:
        """Its process id as this process sees it (0: another process namespace's)."""

    def connect(self) -> Connection:
        """The connection to it, made when it is ready."""


class _Running(NamedTuple):
    """The daemon that runs, connected."""

    connection: Connection

    @property
    def pid(self) -> int:
        return self.connection.pid

    def connect(self) -> Connection:
        return self.connection


@contextlib.contextmanager
def running_or_private(
    path: Path | None, say: Callable[[str], None], *, alone: bool = False
) -> Iterator[Daemon]:
    """The running daemon, or a private one that starts now.

    ``path``: a socket at which there must be a daemon. ``say`` is told where one runs that cannot
    be used. ``alone``: none that runs is used.
    """
    connection = None if alone else _running(path, say)
    if connection is not None:
        with connection:
            yield _Running(connection)
        return
    with PrivateDaemon(say) as private:
        try:
            yield private
        except DaemonGoneError as error:
            said = private.complaint()
            more = f": {said}" if said and said not in str(error) else ""
            raise DaemonGoneError(f"{error}{more}") from None


def _running(path: Path | None, say: Callable[[str], None]) -> Connection | None:
    """The connection to the daemon that runs, if one does."""
    socket_path = path or default_socket(os.getuid())
    if path is None and not os.path.lexists(socket_path):
        return None
    try:
        return Connection.open(socket_path)
    except ForeignDaemonError as error:
        if path is not None:
            raise
        say(f"{error}. A private one is used")
        return None
    except NoDaemonError:
        if path is not None:
            raise
        return None
