"""Records as they are found in memory that the target can write to as well."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import cast

import pytest

from dprobed.arch.x86_64.time_stamp import TimeStamps
from dprobed.engine.inline.counters import ProbeCounter
from dprobed.engine.inline.records import RecordPlaces, RecordReader, ThreadPointers
from dprobed.engine.inline.rings import RingRecord
from dprobed.engine.probe import Attachment, Probe
from dprobed.proc.names import NAMES
from dprobed.program.exits import ABORT, EXCEPTION, EXIT
from dprobed.trace.ctf import EVENT
from dprobed.tracee.ptrace import Registers
from dprobed.wire.protocol import RawRecord

GOOD = RingRecord(0, 0, 0, 1, EXIT, 0, 0, 0, 1, 1, (0, 0, 0), b"")


class Sink:
    def __init__(self) -> None:
        self.records: list[RawRecord] = []

    def add(self, probe: Probe, record: RawRecord) -> None:
        self.records.append(record)

    def latest(self) -> tuple[int, ...]:
        return ()

    def withdraw(self, handle: int) -> Probe | None:
        return None


def read(*records: RingRecord) -> tuple[bool, list[RawRecord]]:
    sink = Sink()
    pid = os.getpid()
    reader = RecordReader(pid, sink, ThreadPointers(pid, Registers()))
    places = RecordPlaces()
    probe = SimpleNamespace(program=1, index=0)
    places.number(cast(Attachment, SimpleNamespace(probe=probe, number=0)), frozenset((EXIT,)))
    try:
        return reader.take(records, places, TimeStamps()), sink.records
    finally:
        NAMES.forget(pid)


def test_a_record_is_as_its_trampoline_made_it() -> None:
    are_ours, (record, other) = read(GOOD, GOOD._replace(exit=EXCEPTION, exception=(1, 2, 3)))
    assert are_ours
    assert (record.hit, record.exit, record.exception) == (1, EXIT, None)
    assert (other.exit, other.exception) == (EXCEPTION, (1, 2, 3))


@pytest.mark.parametrize(
    "changed",
    [
        {"site": 1},
        {"site": (1 << 64) - 1},
        {"exit": 7},
        {"exit": ABORT},
        {"exit": 1 << 40},
        {"hit": 0},
        {"hit": (1 << 64) - 1},
        {"cpu": 1 << 40},
    ],
    ids=str,
)
def test_what_no_trampoline_writes_is_no_record(changed: dict[str, int]) -> None:
    """A facility that the program does not name gets none, and none breaks the trace's format."""
    are_ours, records = read(RingRecord(**(GOOD._asdict() | changed)), GOOD)
    assert not are_ours
    assert [each.exit for each in records] == [EXIT]


@pytest.mark.parametrize("tsc", [0, 1, (1 << 64) - 1])
def test_a_time_is_one_that_was(tsc: int) -> None:
    _, (record,) = read(GOOD._replace(tsc=tsc))
    assert 0 <= record.time <= time.monotonic_ns()
    assert EVENT.pack(1, record.time, 0, 0, 0, record.cpu, record.hit, record.exit, 0, 0, b"")


def test_counts_that_the_target_writes_neither_fall_nor_run_over() -> None:
    words = memoryview(bytearray(64)).cast("Q")
    counter = ProbeCounter(0, words)
    counter.begin(0, 0, 1 << 63)
    words[4] = 5
    assert counter.take_lost() == 5
    words[4] = 2
    assert counter.take_lost() == 0
    words[4] = (1 << 64) - 1
    assert counter.take_lost() == (1 << 48) - 5
    assert counter.take_lost() == 0
    words[0] = (1 << 64) - 1
    assert counter.hits == 1 << 48
