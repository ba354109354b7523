"""Where records go: to the client whose program it is, to all who follow the log, and into the log.

A reader without room loses the batch, which is counted with the probes. Records of programs that
ended with ``exit FACILITY`` go through the facility's handlers besides (handler/dispatcher.py), and
trace sessions see them all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from dprobed.daemon.gate import Gate
from dprobed.daemon.records.dispatcher import AtHit, Dispatcher
from dprobed.daemon.records.external import External
from dprobed.daemon.records.recent import RecordLog, exit_names, record_line
from dprobed.daemon.records.trace_sessions import Traces
from dprobed.daemon.target import Client, Entry
from dprobed.daemon.tracer_pool import Host
from dprobed.wire.protocol import RawRecord

_log = logging.getLogger("dprobed")


class Delivery:
    """All readers of this daemon's records.

    ``keep_log``: keep records for ``log`` (a private daemon need not). ``changed`` is called when
    there are other facilities, or other handlers for them.
    """

    def __init__(self, gate: Gate, *, keep_log: bool, changed: Callable[[], None]) -> None:
        self._gate: Final = gate
        self.followers: set[Client] = set()
        self.log = RecordLog() if keep_log else None
        self.dispatcher = Dispatcher(changed)
        self.dispatcher.declare("trace")
        self.dispatcher.register(AtHit("dump"))
        self.dispatcher.register(AtHit("debugger"))
        self.dispatcher.arm(["dump", "debugger"])
        self.external = External(self.dispatcher)
        self.traces = Traces(self.dispatcher, lambda: exit_names(self.dispatcher))

    def take(self, host: Host, records: list[RawRecord]) -> None:
        """Hand a batch on; a reader without room for all that is for it gets none of the batch."""
        lines: dict[Client, list[bytes]] = {}
        entries: dict[Client, list[tuple[Entry, int]]] = {}
        unclaimed = 0
        for raw in records:
            target = host.by_place.get(raw.place)
            entry = target.entries.get(raw.program) if target is not None else None
            if entry is None:
                unclaimed += 1
                continue
            line = record_line(entry, raw, self.dispatcher.name_of(raw.exit))
            readers = {each for each in self.followers if self._gate.sees(each, entry.uid)}
            if entry.owner is not None:
                readers.add(entry.owner)
            for client in readers:
                lines.setdefault(client, []).append(line)
                entries.setdefault(client, []).append((entry, raw.probe))
            if self.log is not None:
                self.log.add(line, entry.uid)
            self.traces.see(entry, raw, line)
            self.dispatcher.dispatch(entry, raw, line)
        for client, its_lines in lines.items():
            if not client.offer(b"".join(its_lines)):
                for entry, probe in entries[client]:
                    entry.dropped[probe] += 1
        if unclaimed:
            # A tracer tells of a place before its records, and of a removal after them.
            _log.error("%d records were dropped: their programs are not in", unclaimed)

    def release(self, client: Client) -> None:
        """The connection has ended."""
        self.followers.discard(client)
        self.external.release(client)

    def close(self) -> None:
        """Nothing more comes."""
        self.traces.close()
