"""Sockets of clients that cannot block the daemon by sending file descriptors.

A client can send open files (SCM_RIGHTS, unix(7)). The daemon takes none; the kernel closes them
when the message is read, or the socket is closed with it unread. That may block as long as the
sender likes: closing a TCP socket with SO_LINGER waits until its data has arrived. A daemon with
one event loop would stand still meanwhile, so a timer signal interrupts such a close.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Final

#: Seconds that reading or closing may take; without such files it takes microseconds.
_BRIEFLY: Final = 0.005


class PeerSocket(socket.socket):
    """A connection whose ``recv`` and ``close`` do not block."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Received data; raises ConnectionAbortedError if descriptors were sent with it."""
        with _briefly():
            data, _, flags, _ = self.recvmsg(size, 0, flags)
        if flags & socket.MSG_CTRUNC:
            raise ConnectionAbortedError("descriptors were sent")
        return data

    def close(self) -> None:
        """Close the socket, with what is unread."""
        with _briefly():
            super().close()


def accept(listener: socket.socket) -> PeerSocket:
    """The next connection; raises OSError."""
    connection, _ = listener.accept()
    return PeerSocket(fileno=connection.detach())


def never_wait() -> None:
    """Install the timer's signal handler; once, before the first connection."""
    signal.signal(signal.SIGALRM, lambda number, frame: None)


@contextlib.contextmanager
def _briefly() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, _BRIEFLY, _BRIEFLY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
