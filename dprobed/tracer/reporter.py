"""The tracer's messages to the daemon: batches of records, and everything else in order.

The target never waits for the daemon. Records are collected and sent at the next tick (``FLUSH``
seconds), or, where their instruction may still fault, at the one after. What the socket does not
take at once waits in a buffer. Once there are ``_BACKLOG`` bytes in it, records are dropped, and
counted at their probes; anything else is held back, of which ``held`` says how it stays little.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Final

import msgspec

from dprobed.engine.probe import Probe
from dprobed.tracer.held import Held
from dprobed.wire.protocol import Event, Place, Places, RawRecord, Records, Reply, pack

#: Seconds between ticks: until a record is on its way, or half of that.
FLUSH: Final = 0.025
_BATCH: Final = 1024
_BACKLOG: Final = 8 << 20
_PATIENCE: Final = 5.0


class Reporter:
    """The sending half of the socket to the daemon."""

    def __init__(self, sock: socket.socket, arm: Callable[[], None]) -> None:
        """``arm`` is called when something begins to wait for ``tick``."""
        self._sock: Final = sock
        #: Has the main loop call ``flush`` soon.
        self.arm: Final = arm
        #: The batch; None for withdrawn ones.
        self.records: list[RawRecord | None] = []
        self._probes: list[Probe] = []
        #: The number of its first record.
        self._first = 0
        #: How many of it were there at the latest tick, and whether one that came since may have to
        #: be withdrawn.
        self._settled = 0
        self._may_withdraw = False
        self._backlog = bytearray()
        self._held = Held()
        self._places = 0
        self._new_places: dict[int, Place] = {}
        self.gone = False

    def place(self, place: Place) -> int:
        """A number by which records name a place."""
        number = self._places
        self._places += 1
        self._new_places[number] = place
        return number

    def add(self, probe: Probe, record: RawRecord) -> None:
        """One record."""
        records = self.records
        if not records:
            self.arm()
        records.append(record)
        self._probes.append(probe)
        if len(records) >= _BATCH:
            self.flush()

    def latest(self) -> tuple[int, ...]:
        """A handle by which ``withdraw`` finds the latest record; empty when that has been sent."""
        self._may_withdraw = True
        count = len(self.records)
        return (self._first + count - 1,) if count else ()

    @property
    def is_behind(self) -> bool:
        """Whether the daemon has not taken what it was sent for so long that nothing more is."""
        return bool(self._held) or len(self._backlog) > _BACKLOG

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to send at the next tick."""
        return bool(self.records or self._backlog)

    def tick(self) -> None:
        """Send the batch; but where a record that came since the tick before may have to be
        withdrawn, only what was there then: the thread has had that long to fault."""
        self._send_first(self._settled if self._may_withdraw else len(self.records))
        self._settled, self._may_withdraw = len(self.records), False

    def flush(self) -> None:
        """Send the batch, or drop it when the daemon has fallen too far behind."""
        self._send_first(len(self.records))

    def _send_first(self, count: int) -> None:
        records, probes = self.records[:count], self._probes[:count]
        batch = [record for record in records if record is not None]
        if self.gone or self.is_behind:
            for record, probe in zip(records, probes, strict=True):
                probe.dropped += record is not None
        elif batch:
            self._send_places()
            self._backlog += pack(Records(batch))
        self._first += count
        self._settled = 0
        self.records = self.records[count:]
        self._probes = self._probes[count:]
        self._push()

    def withdraw(self, handle: int) -> Probe | None:
        """Take a record back whose instruction faulted; None when it has been sent."""
        index = handle - self._first
        if index < 0 or self.records[index] is None:
            return None
        self.records[index] = None
        return self._probes[index]

    def amend(self, probe: Probe, hit: int, exit_: int) -> bool:
        """Say of a hit that it ended otherwise; False where its record has been sent already."""
        for index, record in enumerate(self.records):
            if record is not None and self._probes[index] is probe and record.hit == hit:
                self.records[index] = msgspec.structs.replace(record, exit=exit_)
                return True
        return False

    def send(self, message: Event | Reply) -> None:
        """Send any message but records, in order with these."""
        if self.records:
            self.flush()
        if self.is_behind:
            self._held.add(message)
        else:
            self._send_places()
            self._backlog += pack(message)
        self._push()

    def _send_places(self) -> None:
        if self._new_places:
            self._backlog += pack(Places(self._new_places))
            self._new_places = {}

    def _push(self) -> None:
        while self._backlog and not self.gone:
            try:
                sent = self._sock.send(self._backlog, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self.arm()
                return
            except OSError:
                self.gone = True
                break
            del self._backlog[:sent]
            if self._held and len(self._backlog) <= _BACKLOG:
                self._send_places()
                for message in self._held.messages():
                    self._backlog += pack(message)
                self._held = Held()
        if self.gone:
            self._backlog.clear()
            self._held = Held()

    def finish(self) -> None:
        """Wait a limited time until the daemon has taken everything."""
        self.flush()
        deadline = time.monotonic() + _PATIENCE
        while self._backlog and not self.gone and time.monotonic() < deadline:
            select.select([], [self._sock], [], 0.1)
            self._push()
