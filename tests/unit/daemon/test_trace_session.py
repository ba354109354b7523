"""Sessions fed from memory: bursts, limits, and what is lost."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dprobed.daemon.insertion import Insertion
from dprobed.daemon.records.dispatcher import Dispatcher
from dprobed.daemon.records.trace_sessions import TraceSessionError, TraceSessions
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.program.rpn.parser import assemble
from dprobed.trace import writer
from dprobed.trace.reader import merged, open_all
from dprobed.wire.messages import TraceInfo, TraceStart, Upload
from dprobed.wire.protocol import RawRecord
from tests.trace_support import EXITS, Root, line, raw, write


def entry() -> InsertedProgram:
    target = Target(os.getpid())
    target.places[1] = ("/lib/libc.so.6", "write+0x0")
    program = assemble("name = libc.so.6\noffset = write\nexit trace\n", "x.rpn")
    upload = Upload(label="writes", bytecode=b"")
    return InsertedProgram(Insertion(1, upload, program), target, None, Root())


def records(count: int, **changes: Any) -> Iterator[RawRecord]:
    for hit in range(count):
        log = pack("<Q", hit) + pack("<bH", 1, 100) + b"x" * 100
        yield raw(log, (0, 1), hit=hit, time=hit, **changes)


class Fed:
    """A session, and what it was given."""

    def __init__(self, what: TraceStart) -> None:
        self.exits = dict(EXITS)
        self.dispatcher = Dispatcher()
        self.dispatcher.declare("trace")
        self.traces = TraceSessions(self.dispatcher, lambda: dict(self.exits))
        self.traces.start(what)
        self.entry = entry()
        self.name = what.name

    def feed(self, given: Iterator[RawRecord]) -> None:
        for record in given:
            text = line(record)
            self.traces.see(self.entry, record, text)
            self.dispatcher.dispatch(self.entry, record, text)

    def stop(self) -> TraceInfo:
        session = self.traces.stop(self.name)
        assert session.writer.join(20)
        return session.info()


def run(work: Callable[[], None]) -> None:
    async def inside() -> None:
        work()

    asyncio.run(inside())


def hits(folder: Path) -> list[int]:
    return [record.hit for record in merged(open_all(folder))]


@pytest.mark.parametrize("form", ["ctf", "json"])
def test_a_burst_into_a_small_flight_recorder(tmp_path: Path, form: Any) -> None:
    """It keeps the last records, and as many as there is room for."""

    def work() -> None:
        what = TraceStart(
            id=1, name="t", folder=str(tmp_path / "t"), format=form, flight_bytes=64 << 10
        )
        fed = Fed(what)
        fed.feed(records(5000))
        assert fed.traces.save("t") > 100
        fed.stop()

    run(work)
    found = hits(tmp_path / "t")
    assert found == list(range(found[0], 5000))
    size = sum(path.stat().st_size for path in (tmp_path / "t").rglob("*") if path.is_file())
    assert 48 << 10 < size < 72 << 10


def test_a_burst_into_a_session_of_limited_size(tmp_path: Path) -> None:
    def work() -> None:
        fed = Fed(TraceStart(id=1, name="t", folder=str(tmp_path / "t"), max_bytes=256 << 10))
        fed.feed(records(5000))
        info = fed.stop()
        size = sum(path.stat().st_size for path in (tmp_path / "t").rglob("*") if path.is_file())
        assert info.bytes == size
        assert 128 << 10 < size <= 256 << 10
        assert (info.written, info.dropped) == (5000, 0)

    run(work)
    found = hits(tmp_path / "t")
    assert found == list(range(found[0], 5000))


def test_a_disk_that_is_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for is counted: by the handler, the session and in the trace."""
    monkeypatch.setattr(writer, "QUEUE_BYTES", -1)

    def work() -> None:
        fed = Fed(TraceStart(id=1, name="t", folder=str(tmp_path / "t")))
        fed.feed(records(7))
        (handler,) = fed.dispatcher.handlers()
        assert (handler.reports, handler.drops) == (0, 7)
        assert fed.entry.handler_drops == {0: {"trace.t": 7}}
        monkeypatch.setattr(writer, "QUEUE_BYTES", 1 << 20)
        fed.feed(records(2))
        info = fed.stop()
        assert (info.records, info.written, info.dropped) == (9, 2, 7)

    run(work)
    (chunk,) = open_all(tmp_path / "t")
    assert len(list(chunk.records())) == 2
    assert chunk.discarded == 7


def test_a_facility_that_comes_later(tmp_path: Path) -> None:
    """Its name is in the trace, too, although that was begun before."""

    def work() -> None:
        what = TraceStart(id=1, name="t", folder=str(tmp_path / "t"), everything=True)
        fed = Fed(what)
        fed.feed(records(1, exit=16))
        fed.exits[16] = "mail"
        fed.stop()

    run(work)
    assert [record.exit for record in merged(open_all(tmp_path))] == ["mail"]


def test_sizes_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    def work() -> None:
        base = TraceStart(id=1, name="t", folder=str(tmp_path / "t"))
        for limit in ("flight_bytes", "max_bytes", "rotate_bytes"):
            what = msgspec.structs.replace(base, **{limit: 1000})
            with pytest.raises(TraceSessionError, match="too small"):
                Fed(what)

    run(work)
    assert not (tmp_path / "t").exists()


def test_more_chunks_than_files_can_be_open(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path / f"{number:06}", [raw(hit=number, time=number * 10)])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, hard)
    )
    try:
        assert hits(tmp_path) == list(range(100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


_WORDS = st.integers(0, (1 << 64) - 1)
_HALVES = st.integers(0, (1 << 32) - 1)
ANYTHING = st.builds(
    raw,
    st.binary(max_size=64),
    st.lists(st.integers(0, 9) | _WORDS, max_size=5).map(tuple),
    pid=_HALVES,
    tid=_HALVES,
    uid=_HALVES,
    cpu=_HALVES,
    comm=st.binary(max_size=40),
    time=_WORDS,
    hit=_WORDS,
    exit=st.integers(-(1 << 31), (1 << 31) - 1),
    major=_WORDS,
    minor=_WORDS,
    exception=st.none() | st.tuples(_WORDS, _WORDS, _WORDS),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(ANYTHING, max_size=20))
@pytest.mark.parametrize("form", ["ctf", "json", "text", "chrome"])
def test_whatever_a_tracer_may_say_is_written(
    tmp_path_factory: pytest.TempPathFactory, form: Any, said: list[RawRecord]
) -> None:
    """Of a session of root's no record of another user makes an end."""
    folder = str(tmp_path_factory.mktemp("said") / "t")

    def work() -> None:
        fed = Fed(TraceStart(id=1, name="t", folder=folder, format=form, everything=True))
        fed.feed(iter(said))
        info = fed.stop()
        assert (info.records, info.written, info.dropped, info.problem) == (
            len(said),
            len(said),
            0,
            "",
        )

    run(work)


def test_a_time_that_is_yet_to_come_does_not_stop_the_clock(tmp_path: Path) -> None:
    """That of a record which a tracer made up: no reader has it overflow, and later ones keep
    theirs."""

    def work() -> None:
        fed = Fed(TraceStart(id=1, name="t", folder=str(tmp_path / "t")))
        for when in (5, (1 << 64) - 1, time.monotonic_ns() + 2_000_000_000):
            fed.feed(records(1))
            fed.feed(iter([raw(b"", (), time=when)]))
        fed.stop()

    run(work)
    (chunk,) = open_all(tmp_path / "t")
    assert max(each.time for each in chunk.records()) < time.monotonic_ns() + 2_000_000_000
