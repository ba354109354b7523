"""How messages are told apart on a stream: by their length, or by the end of their line.

Between daemon and tracer each message is a 4-byte little-endian length and a body::

    +--------+--------+--------+--------+----------------- - -
    | length of the body, little-endian |  body (msgpack)
    +--------+--------+--------+--------+----------------- - -

On the control socket each is a line. Bytes in, messages out: nothing here opens a socket.
"""

from __future__ import annotations

from typing import Final

HEADER_SIZE: Final = 4
MAX_MESSAGE: Final = 64 << 20


class ProtocolError(Exception):
    """The peer sent something that is not a message."""


def frame(body: bytes) -> bytes:
    """A body as it goes over the socket, its length first."""
    return len(body).to_bytes(HEADER_SIZE, "little") + body


class Unpacker:
    """Bytes in, bodies out. Feed what came; take bodies until ``None``, which says "more"."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes as they came from the socket."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole body; raises ProtocolError on a length that cannot be."""
        if len(self._buffer) < HEADER_SIZE:
            return None
        length = int.from_bytes(self._buffer[:HEADER_SIZE], "little")
        if length > MAX_MESSAGE:
            raise ProtocolError(f"a message of {length} bytes; at most {MAX_MESSAGE} are allowed")
        if len(self._buffer) < HEADER_SIZE + length:
            return None
        body = bytes(self._buffer[HEADER_SIZE : HEADER_SIZE + length])
        del self._buffer[: HEADER_SIZE + length]
        return body


class LineBuffer:
    """Bytes in, lines out, without their line feeds; ``next`` returns ``None`` for "more"."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: Bytes of whole lines that wait to be taken.
        self.whole = 0

    def __len__(self) -> int:
        """Bytes that are held, those of an unfinished line included."""
        return len(self._buffer)

    @property
    def unfinished(self) -> int:
        """Bytes of the line that has not come to its end."""
        return len(self._buffer) - self.whole

    def feed(self, data: bytes) -> None:
        """Add bytes as they came from the socket."""
        if (end := data.rfind(b"\n")) >= 0:
            self.whole = len(self._buffer) + end + 1
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole line."""
        if not self.whole:
            return None
        end = self._buffer.index(b"\n")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self.whole -= end + 1
        return line

    def clear(self) -> None:
        """Forget what came."""
        self._buffer.clear()
        self.whole = 0
