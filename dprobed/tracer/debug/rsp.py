"""The GDB remote serial protocol: framing and grammar, without socket or target.

By hand: none of the libraries that the project keeps speaks it.

    $payload#cc     cc: the payload's bytes added up, modulo 256, in hex
    + -             acknowledged, send again (until QStartNoAckMode)
    0x03            interrupt

In a payload ``}`` means that the next byte was xored with 0x20. ``Reader`` is fed bytes as they
come, in pieces of any size, and returns packets, or ``None`` for "more".
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple

#: Longest payload that is accepted; what a debugger is told as PacketSize.
MAX_PACKET: Final = 0x20000
_ESCAPE: Final = 0x7D
_SPECIAL: Final = frozenset(b"#$}*")


class Signal(Enum):
    """What is no packet: acknowledgements and the interrupt."""

    ACK = auto()
    NACK = auto()
    INTERRUPT = auto()
    #: A packet whose checksum is wrong, or that is too long.
    CORRUPT = auto()


Item = bytes | Signal
_MARKS: Final = {0x2B: Signal.ACK, 0x2D: Signal.NACK, 0x03: Signal.INTERRUPT}


class PacketError(Exception):
    """A malformed packet; answered by an error."""


def frame(payload: bytes) -> bytes:
    """The packet that carries a payload: escaped, with its checksum."""
    if not _SPECIAL.isdisjoint(payload):
        out = bytearray()
        for byte in payload:
            if byte in _SPECIAL:
                out += bytes((_ESCAPE, byte ^ 0x20))
            else:
                out.append(byte)
        payload = bytes(out)
    return b"$%s#%02x" % (payload, sum(payload) & 0xFF)


class Reader:
    """The packet parser: bytes in, packets out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes as they came."""
        self._buffer += data

    def next(self) -> Item | None:
        """The next packet's payload, or a mark; None: more bytes are needed."""
        buffer = self._buffer
        while buffer:
            mark = _MARKS.get(buffer[0])
            if mark is not None:
                del buffer[0]
                return mark
            if buffer[0] == 0x24:
                return self._packet()
            # Between packets anything else is noise.
            del buffer[0]
        return None

    def _packet(self) -> Item | None:
        buffer = self._buffer
        end = buffer.find(b"#")
        if end < 0 or len(buffer) < end + 3:
            if len(buffer) <= 2 * MAX_PACKET:
                return None
            buffer.clear()
            return Signal.CORRUPT
        body = bytes(buffer[1:end])
        digits = bytes(buffer[end + 1 : end + 3])
        del buffer[: end + 3]
        try:
            right = int(digits, 16) == sum(body) & 0xFF
        except ValueError:
            right = False
        if not right or len(body) > 2 * MAX_PACKET:
            return Signal.CORRUPT
        return _unescape(body)


def _unescape(body: bytes) -> bytes:
    if _ESCAPE not in body:
        return body
    parts = body.split(b"}")
    out = bytearray(parts[0])
    for part in parts[1:]:
        if part:
            out.append(part[0] ^ 0x20)
            out += part[1:]
    return bytes(out)


def number(text: bytes) -> int:
    """A hexadecimal number; raises PacketError."""
    try:
        return int(text, 16)
    except ValueError:
        raise PacketError(f"not a number: {text!r}") from None


def numbers(text: bytes, count: int) -> list[int]:
    """``count`` hexadecimal numbers with commas between them; raises PacketError."""
    parts = text.split(b",")
    if len(parts) != count:
        raise PacketError(f"{count} numbers were expected: {text!r}")
    return [number(part) for part in parts]


def unhex(text: bytes) -> bytes:
    """Bytes written in hex; raises PacketError."""
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise PacketError(f"not hex: {text[:40]!r}") from None


class ThreadId(NamedTuple):
    """``pPID.TID`` or ``TID``; -1 is all, 0 any. ``pid`` is 0 where none was said."""

    pid: int
    tid: int

    def covers(self, tid: int) -> bool:
        """Whether thread ``tid`` is included."""
        return self.tid in (-1, 0, tid)


ALL: Final = ThreadId(0, -1)


def thread_id(text: bytes) -> ThreadId:
    """The thread id in a packet; raises PacketError."""
    if not text.startswith(b"p"):
        return ThreadId(0, _signed(text))
    pid, dot, tid = text[1:].partition(b".")
    return ThreadId(_signed(pid), _signed(tid) if dot else -1)


def _signed(text: bytes) -> int:
    return -1 if text == b"-1" else number(text)


class Action(NamedTuple):
    """One action of ``vCont``: ``kind`` is c (continue), s (step) or t (stop).

    ``signal``: to be delivered, as gdb numbers it. ``start``, ``end``: step on while the pc is
    there (``r``); both 0: one instruction.
    """

    kind: str
    signal: int
    threads: ThreadId
    start: int = 0
    end: int = 0


def actions(text: bytes) -> list[Action]:
    """The actions of a ``vCont;``, of which the first that covers a thread counts.

    Raises PacketError.
    """
    found: list[Action] = []
    for part in text.split(b";"):
        what, colon, who = part.partition(b":")
        threads = thread_id(who) if colon else ALL
        kind = what[:1].decode("ascii", "replace")
        if kind in ("c", "s", "t") and len(what) == 1:
            found.append(Action(kind, 0, threads))
        elif kind in ("C", "S"):
            found.append(Action(kind.lower(), number(what[1:]), threads))
        elif kind == "r":
            start, end = numbers(what[1:], 2)
            found.append(Action("s", 0, threads, start, end))
        else:
            raise PacketError(f"no such action: {part!r}")
    return found


def window(data: bytes, text: bytes) -> bytes:
    """The answer to a ``qXfer`` read of ``offset,length``: ``m`` says that there is more."""
    offset, length = numbers(text, 2)
    # Escapes can double what is sent.
    piece = data[offset : offset + min(length, MAX_PACKET // 2 - 1)]
    return (b"m" if offset + len(piece) < len(data) else b"l") + piece


# --- signals: gdb has numbers of its own (include/gdb/signals.def) ---

_GDB_SIGNALS: Final = {
    1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 10, 8: 8, 9: 9, 10: 30, 11: 11, 12: 31, 13: 13, 14: 14,
    15: 15, 17: 20, 18: 19, 19: 17, 20: 18, 21: 21, 22: 22, 23: 16, 24: 24, 25: 25, 26: 26, 27: 27,
    28: 28, 29: 23, 30: 32, 31: 12, 32: 77, 64: 78,
    **{number: number - 33 + 45 for number in range(33, 64)},
}  # fmt: skip
_LINUX_SIGNALS: Final = {theirs: ours for ours, theirs in _GDB_SIGNALS.items()}
_UNKNOWN: Final = 143


def to_gdb(signal: int) -> int:
    """gdb's number of a Linux signal."""
    return _GDB_SIGNALS.get(signal, _UNKNOWN)


def from_gdb(signal: int) -> int:
    """The Linux number of a signal of gdb's; 0 if Linux has none such."""
    return _LINUX_SIGNALS.get(signal, 0)
