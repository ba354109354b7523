"""Routes records: to the program's client, to clients that follow the log, and into the log.

A reader without room loses the batch, which is counted with the probes. Records of programs that
ended with ``exit FACILITY`` also go to the facility's handlers (dispatcher.py), and trace sessions
see all of them. A record's program is found by its place number, which its tracer assigned to one
of its own targets; the pid in the record is not trusted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from dprobed.daemon.client import Client
from dprobed.daemon.gate import Gate
from dprobed.daemon.records.dispatcher import Dispatcher
from dprobed.daemon.records.recent import record_line
from dprobed.daemon.target import InsertedProgram, TargetsTracer
from dprobed.wire.protocol import RawRecord

_log = logging.getLogger("dprobed")


class Log(Protocol):
    """Keeps recent records (log.py)."""

    followers: set[Client]

    def add(self, line: bytes, uid: int, program: str, time: int) -> None:
        """Keep a record, of this ``time``, of a program of user ``uid``."""
        ...


#: Called with each record before it goes through its facility's handlers.
Watch = Callable[[InsertedProgram, RawRecord, bytes], None]


class Routing:
    """Routes batches of records; ``log`` and ``watch``: None in a private daemon."""

    def __init__(
        self, gate: Gate, dispatcher: Dispatcher, log: Log | None, watch: Watch | None
    ) -> None:
        self._gate: Final = gate
        self._dispatcher: Final = dispatcher
        self._log: Final = log
        self._watch: Final = watch

    def take(self, tracer: TargetsTracer, records: list[RawRecord]) -> None:
        """Route a batch; a reader without room for its whole part gets none of it."""
        lines: dict[Client, list[bytes]] = {}
        programs: dict[Client, list[tuple[InsertedProgram, int]]] = {}
        unclaimed = 0
        followers = self._log.followers if self._log is not None else ()
        backend = tracer.backend.name
        for raw in records:
            target = tracer.by_place.get(raw.place)
            inserted = target.programs.get(raw.program) if target is not None else None
            if inserted is None or raw.probe not in inserted.probes:
                unclaimed += 1
                continue
            line = record_line(inserted, raw, self._dispatcher.name_of(raw.exit), backend)
            readers = {each for each in followers if self._gate.sees(each, inserted.uid)}
            if inserted.owner is not None:
                readers.add(inserted.owner)
            for client in readers:
                lines.setdefault(client, []).append(line)
                programs.setdefault(client, []).append((inserted, raw.probe))
            if self._log is not None:
                self._log.add(line, inserted.uid, inserted.label, raw.time)
            if self._watch is not None:
                self._watch(inserted, raw, line)
            self._dispatcher.dispatch(inserted, raw, line)
        for client, its_lines in lines.items():
            if not client.offer(b"".join(its_lines)):
                for inserted, probe in programs[client]:
                    inserted.dropped[probe] += 1
        if unclaimed:
            # A tracer reports a place before its records, and a removal after them.
            _log.error("%d records were dropped: their programs are not inserted", unclaimed)
