"""Packets of the GDB remote protocol on one socket that does not block: acknowledged, buffered."""

from __future__ import annotations

import socket
from typing import Final, Literal

from dprobed.tracer.debug import rsp

#: Bytes of answers that wait for a debugger; one that leaves more unread is disconnected.
_BACKLOG: Final = 4 << 20
#: Bytes that are read at once.
_PART: Final = 1 << 18


class PacketSocket:
    """The connection to one debugger."""

    def __init__(self, sock: socket.socket) -> None:
        #: Whether packets are acknowledged (until QStartNoAckMode).
        self.acknowledges = True
        #: The debugger has closed the connection, or does not read it.
        self.is_closed = False
        self._sock: Final = sock
        self._reader: Final = rsp.Reader()
        self._out = bytearray()
        self._last = b""

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._sock.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Whether answers wait for the debugger to take them."""
        return bool(self._out)

    def receive(self) -> bool:
        """Read what has come; false: nothing has, or the connection is closed."""
        try:
            data = self._sock.recv(_PART)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.is_closed = True
            return False
        self._reader.feed(data)
        return True

    def next(self) -> bytes | Literal[rsp.Signal.INTERRUPT] | None:
        """The next packet's payload, or an interrupt; None: more bytes are needed."""
        while (item := self._reader.next()) is not None:
            if isinstance(item, bytes):
                if self.acknowledges:
                    self._out += b"+"
                return item
            if item is rsp.Signal.INTERRUPT:
                return rsp.Signal.INTERRUPT
            if item is rsp.Signal.CORRUPT and self.acknowledges:
                self._out += b"-"
            elif item is rsp.Signal.NACK and self.acknowledges:
                self._out += self._last
        return None

    def send(self, payload: bytes) -> None:
        """Append one packet to what ``push`` sends."""
        self._last = rsp.frame(payload)
        self._out += self._last

    def push(self) -> None:
        """Send as much as the socket takes."""
        while self._out:
            try:
                sent = self._sock.send(self._out, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            except BlockingIOError:
                if len(self._out) > _BACKLOG:
                    self.is_closed = True
                return
            except OSError:
                self.is_closed = True
                return
            del self._out[:sent]

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
