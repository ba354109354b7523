"""Where a debugger comes in: a socket in a folder that only its owner can open; one at a time.

Imported when a target is held for the first time: most tracers never need it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from dprobed.proc import peer
from dprobed.proc.peer import Credentials
from dprobed.tracer.debug.breakpoints import Breakpoints
from dprobed.tracer.debug.control import Control
from dprobed.tracer.debug.folders import PrivateFolder, socket_folder
from dprobed.tracer.debug.stub import Session
from dprobed.tracer.engines import Engines


class Entrance:
    """The socket of one target, listening; raises OSError when there can be none."""

    def __init__(self, engines: Engines, pid: int, control: Control, points: Breakpoints) -> None:
        self._engines: Final = engines
        self._pid: Final = pid
        self._control: Final = control
        self._points: Final = points
        with ExitStack() as undo:
            folder = PrivateFolder(socket_folder())
            undo.callback(folder.close)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            undo.callback(listener.close)
            self.path: Final = f"{folder.path}/{pid}"
            mask = os.umask(0o177)
            try:
                listener.bind(self.path)
            finally:
                os.umask(mask)
            listener.listen(4)
            listener.setblocking(False)
            _raise_sigio(listener)
            undo.pop_all()
        self._listener: Final = listener
        self._folder: Final = folder

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._listener.fileno()

    def accept(
        self, *, is_free: bool, denied: Callable[[Credentials], None]
    ) -> tuple[Session, Credentials] | None:
        """The session of a debugger that has come, and who it is; others are turned away.

        ``is_free``: no debugger is in. ``denied``: called with who may not come in at all.
        """
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return None
            who = peer.credentials(sock)
            if who.uid not in (0, os.geteuid()):
                denied(who)
            elif is_free:
                sock.setblocking(False)
                _raise_sigio(sock)
                session = Session(sock, self._pid, self._engines, self._control, self._points)
                return session, who
            sock.close()

    def close(self) -> None:
        """Remove the socket."""
        self._listener.close()
        self._folder.close()


def _raise_sigio(sock: socket.socket) -> None:
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    fcntl.fcntl(sock, fcntl.F_SETFL, flags | os.O_ASYNC)
