"""Records for the tests of traces, and the real babeltrace2 as their judge."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from struct import pack
from typing import Any

from dprobed.record.log import decode_log
from dprobed.record.record import Record, raised
from dprobed.trace.ctf import Stream, Trace
from dprobed.trace.store import CtfChunk
from dprobed.wire.messages import encode
from dprobed.wire.protocol import RawRecord

EXITS = {0: "exit", -2: "rem", -3: "exception", -4: "budget", -5: "no dump", -7: "no debugger",
         3: "dump", 4: "trace"}  # fmt: skip
PID = 4242
NONE = (1 << 64) - 1

#: Logs with every item that there is, and where bare words lie in them.
LOGS: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "nothing": (b"", ()),
    "word": (pack("<Q", 5), (0, 1)),
    "words": (pack("<3Q", 1, NONE, 1 << 63), (0, 2, 16, 1)),
    "many words": (pack("<40Q", *range(40)), (0, 40)),
    "string": (b"\x01\x03\x00abc", ()),
    "empty string": (b"\x01\x00\x00", ()),
    "string, no UTF-8": (b"\x01\x04\x00a\xff\xfeb", ()),
    "memory": (pack("<bHQ", 0, 4, 0x7FFF12345678) + b"\0\xff12", ()),
    "fault": (pack("<bHQ", -1, 8, 0xDEAD), ()),
    "prefixed words": (pack("<bH2Q", 7, 2, 8, 9), ()),
    "variables": (pack("<bH2QbHbHQ", 5, 2, 8, 9, 4, 0, 6, 1, 3), ()),
    "mixed": (
        pack("<2Q", 1, 2) + b"\x01\x02\x00hi" + pack("<Q", 7) + b"\x01\x01\x00!",
        (0, 2, 21, 1),
    ),
    "trace": (
        pack("<bHQQQQ", 2, 1, 1, NONE, 3, 4)
        + pack("<bH", 3, 1)
        + pack("<QQ", 16, NONE)
        + pack("<bHQ", 4, 1, 11)
        + pack("<bH", 5, 0)
        + pack("<bHQQ", 6, 2, 1, 2),
        (),
    ),
    "values": (
        pack("<bHBQ", 8, 6, 2, NONE)
        + b"result"
        + pack("<bHBQ", 8, 0, 7, NONE)
        + pack("<bHBd", 8, 3, 9, 0.5)
        + b"int"
        + pack("<bHBd", 8, 1, 9, float("inf"))
        + b"x"
        + pack("<bHBf4x", 8, 1, 8, 0.25)
        + b"x"
        + pack("<bHBQ", 8, 2, 11, 0x7FFF00001000)
        + b"at",
        (),
    ),
    "no item": (b"\x55junk", ()),
    "cut off": (b"\x01\x03\x00ab", ()),
}


class Names:
    """Where the records come from."""

    def __init__(self, pid: int = PID) -> None:
        self.pid = pid

    def label(self, program: int) -> str:
        return f"program{program}"

    def place(self, place: int) -> tuple[str, str]:
        return (f"/lib/lib{place}.so", f"function{place}+0x4")


def raw(log: bytes = b"", bare: tuple[int, ...] = (), **changes: Any) -> RawRecord:
    """A record as the tracer sends it."""
    fields: dict[str, Any] = {
        "program": 1,
        "probe": 0,
        "place": 1,
        "pid": PID,
        "tid": PID + 1,
        "comm": b"sort",
        "uid": 1000,
        "cpu": 1,
        "time": 1_000_000,
        "hit": 1,
        "exit": 4,
        "major": 7,
        "minor": 3,
        "log": log,
        "raw": bare,
        "exception": None,
    }
    return RawRecord(**(fields | changes))


def all_kinds() -> list[RawRecord]:
    """A record of each kind, also with an exception."""
    records = [
        raw(log, bare, time=1_000_000 + number, hit=number + 1, exit=exit_)
        for number, ((log, bare), exit_) in enumerate(
            zip(LOGS.values(), cycle([4, 0, 3, -2, -4, -5, -7]), strict=False)
        )
    ]
    log, bare = LOGS["mixed"]
    return [*records, raw(log, bare, time=2_000_000, hit=99, exit=-3, exception=(3, 4, NONE))]


def decoded(record: RawRecord, names: Names | None = None) -> Record:
    """The record as clients get it."""
    names = names or Names(record.pid)
    module, place = names.place(record.place)
    return Record(
        program=names.label(record.program),
        major=record.major,
        minor=record.minor,
        module=module,
        place=place,
        pid=record.pid,
        tid=record.tid,
        comm=record.comm.decode(errors="replace"),
        uid=record.uid,
        cpu=record.cpu,
        time=record.time,
        hit=record.hit,
        exit=EXITS.get(record.exit) or str(record.exit),
        log=decode_log(record.log, record.raw),
        exception=raised(record.exception) if record.exception else None,
    )


def line(record: RawRecord) -> bytes:
    """The record as a line of JSON."""
    return encode(decoded(record))


def write(folder: Path, *streams: Sequence[RawRecord], lost: int = 0) -> Trace:
    """A CTF trace of these records, a stream for each sequence."""
    trace = Trace(lambda: EXITS)
    chunk = CtfChunk(folder, trace)
    for records in streams:
        stream = trace.stream(Names(records[0].pid if records else PID))
        put(chunk, stream, records)
        if lost:
            stream.lost = lost
            put(chunk, stream, [])
    chunk.close()
    return trace


def put(chunk: CtfChunk, stream: Stream, records: Sequence[RawRecord]) -> None:
    """Write records of one stream."""
    stream.add(records)
    for block in stream.take(all_=True):
        chunk.write(block)


#: Run by the Python that babeltrace2's bindings were made for.
_DUMP = """
import bt2, json, sys

def value(field):
    if isinstance(field, bt2._StructureFieldConst):
        return {name: value(each) for name, each in field.items()}
    if isinstance(field, bt2._ArrayFieldConst):
        return [value(each) for each in field]
    if isinstance(field, bt2._EnumerationFieldConst):
        return [int(field), list(field.labels)]
    if isinstance(field, bt2._IntegerFieldConst):
        return int(field)
    return str(field)

for message in bt2.TraceCollectionMessageIterator(sys.argv[1]):
    if isinstance(message, bt2._DiscardedEventsMessageConst):
        print(json.dumps({"discarded": message.count}))
    if isinstance(message, bt2._EventMessageConst):
        event = message.event
        clock = message.default_clock_snapshot
        print(json.dumps({
            "name": event.name,
            "time": clock.value,
            "epoch_ns": clock.ns_from_origin,
            "context": value(event.common_context_field),
            "fields": value(event.payload_field),
            "target": value(event.packet.context_field)["target"],
            "environment": {key: str(event.stream.trace.environment[key])
                            for key in event.stream.trace.environment},
        }))
"""


def babeltrace(folder: Path) -> list[dict[str, Any]]:
    """All that babeltrace2 reads in a folder, in its order; it must have no complaint."""
    command = ["babeltrace2", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    complaints = [each for each in done.stderr.splitlines() if "discarded" not in each]
    assert (done.returncode, complaints) == (0, []), done.stderr
    dumped = subprocess.run(
        ["/usr/bin/python3", "-c", _DUMP, str(folder)], capture_output=True, text=True, check=False
    )
    assert dumped.returncode == 0, dumped.stderr
    found = [json.loads(each) for each in dumped.stdout.splitlines()]
    # The command shows the same events as its library.
    events = [each for each in found if "name" in each]
    assert sum("{ target = " in each for each in done.stdout.splitlines()) == len(events)
    return found


class Root:
    """Whose the programs of these tests are."""

    uid = 0
    gid = 0
