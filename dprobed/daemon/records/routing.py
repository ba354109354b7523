"""Where records go: to the client whose program it is, to all who follow the log, and into the log.

A reader without room loses the batch, which is counted with the probes. Records of programs that
ended with ``exit FACILITY`` go through the facility's handlers besides (dispatcher.py), and trace
sessions see them all. A record finds its program by the number of its place, which its tracer gave
out for one of its own targets: what pid it carries makes no difference.
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
    """Keeps records (recent.py)."""

    followers: set[Client]

    def add(self, line: bytes, uid: int) -> None:
        """Keep a record of a program of user ``uid``."""
        ...


#: Called with each record before it goes through its facility's handlers.
Watch = Callable[[InsertedProgram, RawRecord, bytes], None]


class Routing:
    """``log``: None where nobody can ask for it (a private daemon). ``watch``: None as well."""

    def __init__(
        self, gate: Gate, dispatcher: Dispatcher, log: Log | None, watch: Watch | None
    ) -> None:
        self._gate: Final = gate
        self._dispatcher: Final = dispatcher
        self._log: Final = log
        self._watch: Final = watch

    def take(self, tracer: TargetsTracer, records: list[RawRecord]) -> None:
        """Hand a batch on; a reader without room for all that is for it gets none of the batch."""
        lines: dict[Client, list[bytes]] = {}
        entries: dict[Client, list[tuple[InsertedProgram, int]]] = {}
        unclaimed = 0
        followers = self._log.followers if self._log is not None else ()
        backend = tracer.backend.name
        for raw in records:
            target = tracer.by_place.get(raw.place)
            entry = target.entries.get(raw.program) if target is not None else None
            if entry is None or raw.probe not in entry.probes:
                unclaimed += 1
                continue
            line = record_line(entry, raw, self._dispatcher.name_of(raw.exit), backend)
            readers = {each for each in followers if self._gate.sees(each, entry.uid)}
            if entry.owner is not None:
                readers.add(entry.owner)
            for client in readers:
                lines.setdefault(client, []).append(line)
                entries.setdefault(client, []).append((entry, raw.probe))
            if self._log is not None:
                self._log.add(line, entry.uid)
            if self._watch is not None:
                self._watch(entry, raw, line)
            self._dispatcher.dispatch(entry, raw, line)
        for client, its_lines in lines.items():
            if not client.offer(b"".join(its_lines)):
                for entry, probe in entries[client]:
                    entry.dropped[probe] += 1
        if unclaimed:
            # A tracer tells of a place before its records, and of a removal after them.
            _log.error("%d records were dropped: their programs are not inserted", unclaimed)
