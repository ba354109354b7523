"""Trace: records a second into CTF on disk, from one source, everything on one core."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from struct import pack

from dprobed.daemon.insertion import Insertion
from dprobed.daemon.records.dispatcher import Dispatcher
from dprobed.daemon.records.trace_sessions import TraceSessions
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.program.rpn.parser import assemble
from dprobed.trace.reader import CtfRecording
from dprobed.wire.messages import TraceStart, Upload
from dprobed.wire.protocol import RawRecord
from tests.benchmarks.driver import by_load
from tests.benchmarks.figures import Figure
from tests.trace_support import Root

PROMISED = 300_000
ROUNDS = 5

#: What is logged: one word; a word, a string and a word.
_LOGS = {
    "one word": (pack("<Q", 4096), (0, 1)),
    "two words and a string": (
        pack("<Q", 4096) + b"\x01\x0f\x00/etc/ld.so.conf" + pack("<Q", 7),
        (0, 1, 26, 1),
    ),
}


def _entry() -> InsertedProgram:
    """A program in a process."""
    target = Target(os.getpid())
    target.places[1] = ("/lib/libc.so.6", "write+0x0")
    program = assemble("name = libc.so.6\noffset = write\nexit trace\n", "bench.rpn")
    upload = Upload(label="writes", bytecode=b"")
    return InsertedProgram(Insertion(1, upload, program), target, None, Root())


def _records(count: int, log: bytes, raw: tuple[int, ...]) -> list[RawRecord]:
    start = time.monotonic_ns()
    return [
        RawRecord(1, 0, 1, 4242, 4243, b"sort", 1000, 1, start + hit, hit, 4, 7, 3, log, raw, None)
        for hit in range(1, count + 1)
    ]


async def _round(records: list[RawRecord]) -> float:
    """Seconds of processor time until all records are on disk; none may be missing.

    Not of the clock: others may be at work on the machine.
    """
    dispatcher = Dispatcher()
    dispatcher.declare("trace")
    traces = TraceSessions(dispatcher, lambda: {4: "trace"})
    entry = _entry()
    with tempfile.TemporaryDirectory(prefix="dprobed-bench-") as folder:
        traces.start(TraceStart(id=1, name="bench", folder=f"{folder}/t"))
        begin = time.process_time()
        for record in records:
            dispatcher.dispatch(entry, record, b"")
        session = traces.stop("bench")
        session.writer.join(60)
        seconds = time.process_time() - begin
        info = session.info()
        chunk = CtfRecording(Path(folder) / "t" / "000001")
        there = [record.hit for record in chunk.records()]
        if there != [record.hit for record in records] or info.dropped or chunk.discarded:
            raise RuntimeError(f"{len(there)} of {len(records)} records are in the trace: {info}")
    return seconds


def measure(smoke: bool) -> tuple[list[Figure], list[str]]:
    """Feed a session from memory."""
    count = 2_000 if smoke else 300_000
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {by_load()[0]})
    figures = []
    try:
        for name, (log, raw) in _LOGS.items():
            records = _records(count, log, raw)
            rates = [count / asyncio.run(_round(records)) for _ in range(1 if smoke else ROUNDS)]
            bound = PROMISED if log in _LOGS["one word"] else None
            figures.append(Figure(name, median(rates), "records/s", at_least=bound))
    finally:
        os.sched_setaffinity(0, before)
    notes = [
        "a second of one core for all of it: dispatcher, encoding, writing, the kernel's part;",
        "each round is read back: every record is there, none is counted as dropped",
    ]
    return figures, notes
