"""From what a tracer says of a hit to the record that readers get."""

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
    """What a record's ``exit`` can be, as far as it is known now."""
    return EXIT_NAMES | {number: name for name, number in dispatcher.numbers.items()}


def record_line(
    entry: InsertedProgram, raw: RawRecord, facility: str, backend: str = TRACER
) -> bytes:
    """The record as one line of JSON; ``facility``: the name of the one that it is for;
    ``backend``: who held the probe."""
    module, place = entry.target.places.get(raw.place, ("", ""))
    # Of more than 15 keywords Python 3.11 makes a dictionary first, which takes 1.2 µs.
    record = Record(
        program=entry.label,
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
