"""Encodes records as packets of a CTF 1.8 trace, in bulk.

A trace has one stream for each target (a tracer's records come in the order of their time). Most
logs are only words: those are copied into the event as they are, and all that is done for a record
is one look-up of its class and one ``Struct.pack``. A block is the content of one packet; its
header is made when it is written, because only then the number of lost events is known.

Not by babeltrace's bindings (bt2, sink.ctf.fs): making and writing an event of six integers takes
90 µs there, and encoding a record of one word takes 1.2 µs here. barectf generates C from event
types that are known at build time; ours are known when a program is inserted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Final, Protocol
from uuid import UUID, uuid4

import msgspec

from dprobed.trace import metadata, shape
from dprobed.wire.protocol import RawRecord

#: Bytes of events after which a packet ends, if nothing else is said.
_PACKET_BYTES: Final = 128 << 10
#: By how much the clock of a processor may be ahead of ours, in ns.
_AHEAD: Final = 1_000_000_000
#: Shapes that a probe may have at one place before its further logs are written undivided.
_SHAPES: Final = 64

MAGIC: Final = 0xC1FC1FC1
#: magic, uuid, stream id, instance; begin, end, content and packet size in bits, discarded events,
#: number of the packet, pid of the target.
PACKET: Final = Struct("<I16sIQQQQQQQI")
#: id, time; pid, tid, uid, cpu, hit, exit, major, minor, comm.
EVENT: Final = Struct("<IQIIIIQiQQ16s")

_astuple = msgspec.structs.astuple


class RecordNames(Protocol):
    """Resolves the numbers in a target's records to names."""

    pid: int

    def label(self, program: int) -> str:
        """The program's name."""
        ...

    def place(self, place: int) -> tuple[str, str]:
        """Module and place."""
        ...


class RecordBlock(msgspec.Struct):
    """A block of encoded records, which is written or lost as a whole."""

    stream: Stream | None
    data: bytes
    count: int
    begin: int = 0
    end: int = 0
    #: How many of them were not taken although the rest was.
    lost: int = 0


class Trace:
    """One trace: its classes of events, numbered as they come, and its streams.

    ``exits`` names what a record's ``exit`` can be, as far as it is known now. ``packet_bytes``:
    after how many bytes of events a packet ends.
    """

    def __init__(
        self, exits: Callable[[], dict[int, str]], packet_bytes: int = _PACKET_BYTES
    ) -> None:
        self.exits = exits
        self.packet_bytes = packet_bytes
        self.offset_ns = time.time_ns() - time.monotonic_ns()
        self.classes: list[str] = []
        self._numbers: dict[metadata.EventClass, int] = {}
        self._instances = 0

    def head(self, uuid: UUID, exits: Mapping[int, str]) -> str:
        """The beginning of the metadata; the texts of ``classes`` follow it."""
        return metadata.head(uuid, os.uname().nodename, self.offset_ns, exits)

    def number(self, described: metadata.EventClass) -> int:
        """The number of a class of events, a new one if it is new."""
        number = self._numbers.get(described)
        if number is None:
            number = self._numbers[described] = len(self.classes)
            self.classes.append(metadata.event(number, described))
        return number

    def stream(self, source: RecordNames) -> Stream:
        """A stream for a target."""
        self._instances += 1
        return Stream(self, source, self._instances)


class Stream:
    """One stream of the trace: the events of one target.

    Those that came and are not in the trace are counted in ``dropped`` by who gives blocks away,
    and in ``lost`` by who writes them: two threads, each with a number of its own.
    """

    def __init__(self, trace: Trace, source: RecordNames, instance: int) -> None:
        self.pid = source.pid
        self.instance = instance
        self.dropped = 0
        self.lost = 0
        #: What the last packet said of both.
        self.told = 0
        self._trace = trace
        self._source = source
        # Classes of logs that are only words, by what tells that they are; None: it tells not.
        self._plain: dict[tuple[int, int, int, tuple[int, ...], int], int | None] = {}
        self._shaped: dict[tuple[int, int, int, str], int] = {}
        self._shapes: dict[tuple[int, int, int], set[str]] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._begin = 0
        self._last = 0
        self._full: list[RecordBlock] = []

    def add(self, records: Sequence[RawRecord]) -> None:
        """Encode records; their time never goes back (a reader would refuse the stream), nor is it
        one that is yet to come, which a tracer can only have made up."""
        plain = self._plain
        pack = EVENT.pack
        packet_bytes = self._trace.packet_bytes
        last = self._last
        latest = time.monotonic_ns() + _AHEAD
        for record in records:
            (
                program, probe, place, pid, tid, comm, uid, cpu, when, hit, exit_, major, minor,
                log, raw, exception,
            ) = _astuple(record)  # fmt: skip
            if when > latest:
                when = latest
            if when < last:
                when = last
            last = when
            number = None
            if exception is None:
                number = plain.get((program, probe, place, raw, len(log)))
            if number is None:
                number, log = self._class(program, probe, place, log, raw, exception)
            parts = self._parts
            if not parts:
                self._begin = when
            parts.append(
                pack(number, when, pid, tid, uid, cpu, hit, exit_, major, minor, comm) + log
            )
            self._size += EVENT.size + len(log)
            if self._size >= packet_bytes:
                self._last = last
                self._end_packet()
        self._last = last

    def _class(
        self,
        program: int,
        probe: int,
        place: int,
        log: bytes,
        raw: tuple[int, ...],
        exception: tuple[int, int, int] | None,
    ) -> tuple[int, bytes]:
        """The number of the class of a log, and the event's payload."""
        found, payload = shape.split(log, raw)
        if exception is not None:
            found, payload = shape.with_exception(found, payload, exception)
        known = self._shaped.get((program, probe, place, found))
        if known is not None:
            return known, payload
        seen = self._shapes.setdefault((program, probe, place), set())
        if len(seen) >= _SHAPES and "*" not in found:
            found, payload = shape.undivided(log, raw)
            if exception is not None:
                found, payload = shape.with_exception(found, payload, exception)
        seen.add(found)
        module, where = self._source.place(place)
        label = self._source.label(program)
        number = self._trace.number(metadata.EventClass(label, probe, module, where, found))
        self._shaped[program, probe, place, found] = number
        if exception is None and 8 * sum(raw[1::2]) == len(log) and len(seen) <= _SHAPES:
            self._plain[program, probe, place, raw, len(log)] = number
        return number, payload

    def _end_packet(self) -> None:
        data = b"".join(self._parts)
        self._full.append(RecordBlock(self, data, len(self._parts), self._begin, self._last))
        self._parts.clear()
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes in the packet that is being filled."""
        return self._size

    def take(self, *, all_: bool) -> list[RecordBlock]:
        """The packets that are full, or whatever there is."""
        if all_ and self._parts:
            self._end_packet()
        elif all_ and self.dropped + self.lost != self.told:
            # A packet without events, so that a reader hears of the loss.
            self._full.append(RecordBlock(self, b"", 0, self._last, self._last))
        blocks = self._full
        self._full = []
        return blocks


def packet(block: RecordBlock, uuid: UUID, number: int) -> bytes:
    """Encode a block as a packet, the ``number``-th of its stream."""
    stream = block.stream
    assert stream is not None
    stream.told = stream.dropped + stream.lost
    bits = 8 * (PACKET.size + len(block.data))
    header = PACKET.pack(
        MAGIC,
        uuid.bytes,
        0,
        stream.instance,
        block.begin,
        block.end,
        bits,
        bits,
        stream.told,
        number,
        stream.pid,
    )
    return header + block.data


def new_uuid() -> UUID:
    """A unique identifier for a trace."""
    return uuid4()
