"""The sockets of clients, and what must not come over them.

Whoever can connect can send open files along (SCM_RIGHTS, unix(7)). Nobody here wants any, and the
kernel closes them as we read, or close the socket unread. That may take as long as their sender
likes: to close a TCP socket with SO_LINGER waits until what it has sent has arrived. A daemon with
one loop for all would stand still meanwhile, so that a signal ends such a wait at once.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Final

#: Seconds that reading or closing may take: what does not wait for others takes microseconds.
_BRIEFLY: Final = 0.005


class PeerSocket(socket.socket):
    """A connection whose reading and closing wait for nobody."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """What has come; raises ConnectionAbortedError where descriptors came along."""
        with _briefly():
            data, _, flags, _ = self.recvmsg(size, 0, flags)
        if flags & socket.MSG_CTRUNC:
            raise ConnectionAbortedError("descriptors were sent")
        return data

    def close(self) -> None:
        """The end of it; what was not read goes with it."""
        with _briefly():
            super().close()


def accept(listener: socket.socket) -> PeerSocket:
    """The next connection; raises OSError."""
    connection, _ = listener.accept()
    return PeerSocket(fileno=connection.detach())


def never_wait() -> None:
    """To be called once, before the first connection."""
    signal.signal(signal.SIGALRM, lambda number, frame: None)


@contextlib.contextmanager
def _briefly() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, _BRIEFLY, _BRIEFLY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
