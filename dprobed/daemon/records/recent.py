"""Makes the record that readers get from a tracer's raw record."""

from __future__ import annotations

import msgspec

from dprobed.daemon.records.dispatcher import Dispatcher
from dprobed.daemon.target import InsertedProgram
from dprobed.program.exits import EXIT_NAMES
from dprobed.record.log import decode_log
from dprobed.record.record import TRACER, Record, raised
from dprobed.wire.messages import encode
from dprobed.wire.protocol import RawRecord


def exit_names(dispatcher: Dispatcher) -> dict[int, str]:
    """The names of exits (a record's ``exit``) known now, by number."""
    return EXIT_NAMES | {number: name for name, number in dispatcher.numbers.items()}


def record_line(
    inserted: InsertedProgram, raw: RawRecord, facility: str, backend: str = TRACER
) -> bytes:
    """The record as one line of JSON; ``facility``: the name of the one that it exits to;
    ``backend``: the one that held the probe."""
    module, place = inserted.target.places.get(raw.place, ("", ""))
    # Of more than 15 keywords Python 3.11 makes a dictionary first, which takes 1.2 µs.
    record = Record(
        program=inserted.label,
        major=raw.major,
        minor=raw.minor,
        module=module,
        place=place,
        pid=raw.pid,
        tid=raw.tid,
        comm=raw.comm.decode(errors="replace"),
        uid=raw.uid,
        cpu=raw.cpu,
        time=raw.time,
        hit=raw.hit,
        exit=EXIT_NAMES.get(raw.exit) or facility or str(raw.exit),
        log=decode_log(raw.log, raw.raw),
        exception=raised(raw.exception) if raw.exception else None,
    )
    if backend != TRACER:
        record = msgspec.structs.replace(record, backend=backend)
    return encode(record)
