"""A private daemon: started where none runs, for the lifetime of one command.

It has a session of its own, /dev/null instead of the terminal, and no file. Its one connection is a
socket pair with this process: when this process ends, however it ends, the daemon takes all probes
out and ends too.

It is started before this process imports what it is to do itself, so that both get ready at the
same time: what is imported here at the top is what both wait for.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dprobe.lib.errors import (
    DaemonGoneError,
    DaemonSilentError,
    ForeignDaemonError,
    NoDaemonError,
    UserError,
)
from dprobed.wire.socket_path import default_socket

if TYPE_CHECKING:
    from types import TracebackType

    from dprobe.lib.connection import Connection

_FD = 3


class PrivateDaemon:
    """A private daemon that was started; ``connect`` waits until it is ready."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair()
        # For what it has to say before the socket works.
        self._stderr = os.memfd_create("dprobed-stderr")
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, self._stderr, 2),
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), _FD),
        ]
        # -P: the current folder is not a place to import from.
        argv = [sys.executable, "-P", "-m", "dprobed", "--private", str(_FD)]
        with theirs:
            self.pid = os.posix_spawn(
                sys.executable,
                argv,
                os.environ,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP),
            )

    def connect(self) -> Connection:
        """The connection to it; raises DaemonGoneError or UserError when it did not start."""
        from dprobe.lib.connection import Connection

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
        size = os.fstat(self._stderr).st_size
        lines = os.pread(self._stderr, size, 0).decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def __enter__(self) -> PrivateDaemon:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the socket, and wait until the daemon has ended: then every probe is out."""
        self._sock.close()
        os.close(self._stderr)
        if not self._has_ended(0.2) and not isinstance(error, DaemonSilentError):
            from dprobe.lib.connection import GREETING, refuse_stopped

            while not self._has_ended(GREETING):
                refuse_stopped(
                    "the private dprobed, which still has to take its probes out,", self.pid
                )

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


@contextlib.contextmanager
def running_or_private(
    path: Path | None, say: Callable[[str], None]
) -> Iterator[Callable[[], Connection]]:
    """The running daemon, or a private one that starts now; call for the connection when needed.

    ``path``: a socket at which there must be a daemon. ``say`` is told where one runs that cannot
    be used.
    """
    connection = _running(path, say)
    if connection is not None:
        with connection:
            yield lambda: connection
        return
    with PrivateDaemon() as private:
        try:
            yield private.connect
        except DaemonGoneError as error:
            said = private.complaint()
            more = f": {said}" if said and said not in str(error) else ""
            raise DaemonGoneError(f"{error}{more}") from None


def _running(path: Path | None, say: Callable[[str], None]) -> Connection | None:
    """The connection to the daemon that runs, if one does."""
    socket_path = path or default_socket(os.getuid())
    if path is None and not os.path.lexists(socket_path):
        return None
    from dprobe.lib.connection import Connection

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
