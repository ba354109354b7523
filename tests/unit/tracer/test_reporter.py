"""The reporter: order, a bounded backlog, drops counted where they happen, withdrawals."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from dprobed.engine.probe import Probe
from dprobed.program.exec.interface import Context, Outcome
from dprobed.program.exits import NO_DUMP
from dprobed.program.model import ProbeDefinition
from dprobed.program.rpn.parser import assemble
from dprobed.tracer import reporter
from dprobed.tracer.reporter import Reporter
from dprobed.wire import protocol
from dprobed.wire.framing import Unpacker
from dprobed.wire.protocol import RawRecord, Records


def definition() -> ProbeDefinition:
    return assemble('name = "x"\noffset = f\nexit\n', "test.rpn").probes[0]


def never(context: Context) -> Outcome:
    raise AssertionError


def make_probe(number: int = 1) -> Probe:
    return Probe(number, definition(), never, "x", alters=False)


def record(probe: Probe, hit: int, log: bytes = b"") -> RawRecord:
    return RawRecord(probe.program, 0, 0, 1, 1, b"", 0, 0, 0, hit, 0, 0, 0, log, (), None)


class Daemon:
    """The other end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unpacker = Unpacker()

    def messages(self) -> list[protocol.Event | protocol.Reply]:
        """All that has arrived."""
        while True:
            try:
                data = self.sock.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not data:
                break
            self._unpacker.feed(data)
        found = []
        while (body := self._unpacker.next()) is not None:
            found.append(protocol.decode_from_tracer(body))
        return found

    def records(self) -> list[RawRecord]:
        """The records among what has arrived."""
        return [
            each
            for message in self.messages()
            if isinstance(message, Records)
            for each in message.records
        ]


class Wire:
    """A reporter, its daemon, and how often it asked for a tick."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        self.ours = ours
        self.daemon = Daemon(theirs)
        self.armed = 0
        self.reporter = Reporter(ours, self._arm)

    def _arm(self) -> None:
        self.armed += 1

    def close(self) -> None:
        """Both ends."""
        self.ours.close()
        self.daemon.sock.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def test_records_wait_for_the_tick_and_keep_their_order(wire: Wire) -> None:
    one, two = make_probe(1), make_probe(2)
    for hit in range(1, 11):
        wire.reporter.add(one if hit % 2 else two, record(one if hit % 2 else two, hit))
    assert wire.armed == 1
    assert wire.daemon.messages() == []
    wire.reporter.flush()
    found = wire.daemon.records()
    assert [each.hit for each in found] == list(range(1, 11))
    assert [each.program for each in found] == [1, 2] * 5


def test_a_full_batch_does_not_wait(wire: Wire) -> None:
    probe = make_probe()
    for hit in range(reporter._BATCH):
        wire.reporter.add(probe, record(probe, hit))
    assert len(wire.daemon.records()) == reporter._BATCH
    wire.reporter.flush()
    assert wire.daemon.messages() == []


def test_other_messages_come_after_the_records_before_them(wire: Wire) -> None:
    probe = make_probe()
    assert wire.reporter.place(protocol.Place(1, "/bin/x", "f+0x0")) == 0
    wire.reporter.add(probe, record(probe, 1))
    wire.reporter.send(protocol.Ok(1))
    kinds = [type(message).__name__ for message in wire.daemon.messages()]
    assert kinds == ["Places", "Records", "Ok"]


def test_what_the_daemon_does_not_take_is_dropped_and_counted(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target never waits; what is lost is counted at the probe that lost it."""
    monkeypatch.setattr(reporter, "_BACKLOG", 1 << 16)
    noisy, quiet = make_probe(1), make_probe(2)
    for hit in range(1, 201):
        for _ in range(10):
            wire.reporter.add(noisy, record(noisy, hit, b"x" * 100))
        wire.reporter.add(quiet, record(quiet, hit))
        wire.reporter.flush()
    assert noisy.dropped > 0
    assert quiet.dropped * 10 == noisy.dropped
    assert len(wire.reporter._backlog) < (1 << 16) + 10_000
    arrived: list[RawRecord] = []
    while found := wire.daemon.records():
        arrived += found
        wire.reporter.flush()
    counts = [sum(each.program == number for each in arrived) for number in (1, 2)]
    assert counts == [2000 - noisy.dropped, 200 - quiet.dropped]


def _filled(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon takes nothing, and the buffer is full."""
    monkeypatch.setattr(reporter, "_BACKLOG", 1 << 12)
    wire.daemon.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
    seq = 0
    while not wire.reporter.is_behind:
        seq += 1
        wire.reporter.send(protocol.Ok(seq, words=[0] * 1000))


def _told(wire: Wire) -> list[protocol.Event | protocol.Reply]:
    """What comes when it takes everything again, but for what filled the buffer."""
    found: list[protocol.Event | protocol.Reply] = []
    while wire.reporter.is_waiting:
        found += wire.daemon.messages()
        wire.reporter.flush()
    found += wire.daemon.messages()
    return [each for each in found if not (isinstance(each, protocol.Ok) and each.words)]


def _status(probe: int, hits: int, program: int = 1) -> protocol.ProbeStatus:
    return protocol.ProbeStatus(
        program, probe, protocol.State.ACTIVE, "", "", "", hits, hits, 0, 0, 0, []
    )


def test_nothing_grows_while_the_daemon_takes_nothing(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of a program that loads and unloads a library, executes others, and is noticed."""
    _filled(wire, monkeypatch)
    before = len(wire.reporter._backlog)
    for hits in range(1, 5001):
        wire.reporter.send(protocol.Changed(7, [_status(hits % 3, hits), _status(9, 1, 2)]))
        wire.reporter.send(protocol.TargetEvent("exec", 7, 7, "x"))
        wire.reporter.send(protocol.TargetEvent("suspend", 7, 8, "x"))
        wire.reporter.send(protocol.TargetEvent("loader", 7, 7, f"{hits}"))
    assert len(wire.reporter._backlog) == before
    first, exec_, suspend, *loader, lost = _told(wire)
    assert isinstance(first, protocol.Changed)
    counted = {(each.program, each.probe): each.hits for each in first.probes}
    assert counted == {(1, 0): 4998, (1, 1): 4999, (1, 2): 5000, (2, 9): 1}
    assert [exec_, suspend] == [
        protocol.TargetEvent("exec", 7, 7, "x"),
        protocol.TargetEvent("suspend", 7, 8, "x"),
    ]
    assert len(loader) == 1000
    assert lost == protocol.TargetEvent(
        "lost", 7, 7, "4000 notices about this process were dropped: the daemon did not take them"
    )
    assert not wire.reporter.is_behind
    wire.reporter.send(protocol.Changed(7, [_status(0, 1)]))
    assert _told(wire) == [protocol.Changed(7, [_status(0, 1)])]


def test_what_the_daemon_must_know_comes_in_order(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    _filled(wire, monkeypatch)
    probe = make_probe()
    wire.reporter.place(protocol.Place(1, "/bin/x", "f+0x0"))
    said: list[protocol.Event | protocol.Reply] = [
        protocol.Forked(8, 7, []),
        protocol.Changed(8, [_status(0, 1)]),
        protocol.TargetEvent("exec", 8, 8, "x"),
        protocol.Ended(8, "exited", 3, [_status(0, 2)], 1),
        # Another process of that number.
        protocol.Forked(8, 7, []),
        protocol.Changed(8, [_status(0, 1)]),
        protocol.TargetEvent("exec", 8, 8, "x"),
        # What is newer than a reply does not come before it.
        protocol.Ok(99_999),
        protocol.Changed(8, [_status(0, 2)]),
        protocol.Ended(8, "exited", 4, [], 1),
    ]
    for message in said:
        wire.reporter.send(message)
        # A record that came now would be of a target that the daemon does not know yet.
        wire.reporter.add(probe, record(probe, 1))
    places, *rest = _told(wire)
    assert isinstance(places, protocol.Places)
    assert rest == said
    assert probe.dropped == len(said)


def test_a_withdrawn_record_is_not_sent(wire: Wire) -> None:
    probe = make_probe()
    wire.reporter.add(probe, record(probe, 1))
    note = wire.reporter.latest()
    wire.reporter.add(probe, record(probe, 2))
    assert [wire.reporter.withdraw(each) for each in note] == [probe]
    assert [wire.reporter.withdraw(each) for each in note] == [None]
    wire.reporter.flush()
    assert [each.hit for each in wire.daemon.records()] == [2]


def test_a_record_that_was_sent_cannot_be_withdrawn(wire: Wire) -> None:
    probe = make_probe()
    wire.reporter.add(probe, record(probe, 1))
    note = wire.reporter.latest()
    wire.reporter.flush()
    assert wire.reporter.latest() == ()
    wire.reporter.add(probe, record(probe, 2))
    assert [wire.reporter.withdraw(each) for each in note] == [None]
    wire.reporter.flush()
    assert [each.hit for each in wire.daemon.records()] == [1, 2]


def test_a_record_that_may_be_withdrawn_waits_for_one_tick_more(wire: Wire) -> None:
    """Its instruction has at least that long to fault; the others are sent at the first."""
    probe = make_probe()
    wire.reporter.add(probe, record(probe, 1))
    wire.reporter.tick()
    assert [each.hit for each in wire.daemon.records()] == [1]
    assert not wire.reporter.is_waiting
    wire.reporter.add(probe, record(probe, 2))
    (handle,) = wire.reporter.latest()
    wire.reporter.tick()
    assert wire.daemon.records() == []
    assert wire.reporter.is_waiting
    # Where there are always younger ones, too.
    wire.reporter.add(probe, record(probe, 3))
    (younger,) = wire.reporter.latest()
    wire.reporter.tick()
    assert [each.hit for each in wire.daemon.records()] == [2]
    assert wire.reporter.withdraw(handle) is None
    assert wire.reporter.withdraw(younger) is probe
    wire.reporter.add(probe, record(probe, 4))
    wire.reporter.tick()
    assert [each.hit for each in wire.daemon.records()] == [4]


def test_a_record_is_amended_before_it_is_sent(wire: Wire) -> None:
    probe, other = make_probe(1), make_probe(2)
    for hit in (1, 2):
        wire.reporter.add(probe, record(probe, hit))
        wire.reporter.add(other, record(other, hit))
    assert wire.reporter.amend(probe, 2, NO_DUMP)
    assert not wire.reporter.amend(probe, 3, NO_DUMP)
    wire.reporter.flush()
    assert not wire.reporter.amend(probe, 1, NO_DUMP)
    found = [(each.program, each.hit, each.exit) for each in wire.daemon.records()]
    assert found == [(1, 1, 0), (2, 1, 0), (1, 2, NO_DUMP), (2, 2, 0)]


def test_a_batch_of_nothing_but_withdrawn_records_is_no_message(wire: Wire) -> None:
    probe = make_probe()
    wire.reporter.add(probe, record(probe, 1))
    for each in wire.reporter.latest():
        wire.reporter.withdraw(each)
    wire.reporter.flush()
    assert wire.daemon.messages() == []
    assert probe.dropped == 0


def test_withdrawn_records_are_not_dropped_ones(wire: Wire) -> None:
    probe = make_probe()
    wire.daemon.sock.close()
    wire.reporter.send(protocol.Ok(1))
    assert wire.reporter.gone
    wire.reporter.add(probe, record(probe, 1))
    for each in wire.reporter.latest():
        wire.reporter.withdraw(each)
    wire.reporter.add(probe, record(probe, 2))
    wire.reporter.flush()
    assert probe.dropped == 1


def test_a_daemon_that_went_away_is_noticed_and_nothing_waits(wire: Wire) -> None:
    wire.daemon.sock.close()
    wire.reporter.send(protocol.Ok(1))
    assert wire.reporter.gone
    wire.reporter.finish()
    assert not wire.reporter._backlog


def test_finish_sends_everything(wire: Wire) -> None:
    probe = make_probe()
    wire.reporter.add(probe, record(probe, 1))
    wire.reporter.finish()
    assert [each.hit for each in wire.daemon.records()] == [1]


def test_a_note_does_not_keep_what_was_sent(wire: Wire) -> None:
    """A thread keeps its latest note for as long as it lives, and there are many threads."""
    probe = make_probe()
    log = bytes(100)
    before = sys.getrefcount(log)
    wire.reporter.add(probe, record(probe, 1, log))
    note = wire.reporter.latest()
    assert sys.getrefcount(log) > before
    wire.reporter.flush()
    assert sys.getrefcount(log) == before
    assert [wire.reporter.withdraw(each) for each in note] == [None]
