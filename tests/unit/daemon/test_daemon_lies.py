"""A tracer runs with its user's rights, and may tell anything well-formed: what comes of it."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from dprobed.daemon import told
from dprobed.program.bytecode import encode
from dprobed.program.maps import Entry
from dprobed.program.rpn.parser import assemble
from dprobed.wire import messages, protocol
from dprobed.wire.notices import NoticeKind
from tests.fakes.backend import PID, FakeClient, FakeDaemon, facts, record, status

Run = Callable[[Callable[[FakeDaemon], Awaitable[None]]], None]

#: A process of another user's.
OTHERS = PID + 7


async def two_users(daemon: FakeDaemon) -> tuple[FakeClient, FakeClient, int]:
    """A client whose tracer lies, another user's client with a program, and its number."""
    daemon.processes[OTHERS] = facts(OTHERS, 1001)
    liar, victim = FakeClient(), FakeClient(1001)
    await daemon.attach(liar)
    await daemon.attach(victim, OTHERS)
    (program,) = (await daemon.insert(victim, OTHERS)).programs
    return liar, victim, program.number


def test_a_process_that_is_another_tracers_stays_there(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        _, victim, number = await two_users(daemon)
        lying, honest = daemon.backends.made
        target = daemon.app.core.targets.by_pid[OTHERS]
        lying.tell(protocol.Forked(OTHERS, PID, [status(number, hits=7)]))
        lying.tell(protocol.Changed(OTHERS, [status(number, hits=7)]))
        lying.tell(protocol.Ended(OTHERS, "exited", 0, [], 0))
        await asyncio.sleep(0.01)
        assert daemon.app.core.targets.by_pid[OTHERS] is target
        assert f"process {OTHERS} is no new child of {PID}" in caplog.text
        # Had it been true, the process would have been left with breakpoints that are nobody's.
        assert [each.pid for each in lying.of(protocol.Detach)] == [OTHERS]
        assert honest.of(protocol.Detach) == []
        assert victim.told == []
        assert [probe.hits for probe in (await daemon.query(victim)).probes] == [0]

    run(script)


def test_records_reach_nobody_but_the_owner_of_their_place(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever process, program or probe they speak of."""

    async def script(daemon: FakeDaemon) -> None:
        liar, victim, number = await two_users(daemon)
        (own,) = (await daemon.insert(liar)).programs
        lying, _ = daemon.backends.made
        lying.tell(protocol.Places({1: protocol.Place(PID, "/lib/libc.so.6", "getppid+0x0")}))
        lying.tell(protocol.Places({2: protocol.Place(OTHERS, "/lib/libc.so.6", "getppid+0x0")}))
        said = [
            record(number, 2, pid=OTHERS),  # another's place
            record(number, 1, pid=OTHERS),  # another's program
            record(own.number, 3),  # a place that nobody spoke of
            record(own.number, 1, probe=9),  # a probe that the program has not
            record(own.number, 1, pid=OTHERS),  # its own, which calls itself another's
        ]
        lying.tell(protocol.Records(said))
        assert victim.lines == b""
        (line,) = liar.lines.splitlines()
        assert (json.loads(line)["program"], json.loads(line)["backend"]) == ("x0", "fake")
        assert "4 records were dropped: their programs are not inserted" in caplog.text

    run(script)


def test_a_reader_without_room_and_a_probe_that_is_none(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        (own,) = (await daemon.insert(client)).programs
        backend.tell(protocol.Places({1: protocol.Place(PID, "/lib/libc.so.6", "getppid+0x0")}))
        client.room = False
        backend.tell(protocol.Records([record(own.number, 1, probe=9), record(own.number, 1)]))
        assert [probe.dropped for probe in (await daemon.query(client)).probes] == [1]

    run(script)


def test_counters_never_fall(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        (own,) = (await daemon.insert(client)).programs
        told = [
            [status(own.number, hits=5, ran=5)],
            [status(own.number, hits=-3, ran=2), status(own.number, hits=1)],
            [status(own.number, hits=9, missed=-1)],
        ]
        seen = []
        for statuses in told:
            backend.tell(protocol.Changed(PID, statuses))
            probes = client.heard(messages.StateChange)[-1].probes
            counts = [(each.hits, each.ran, each.missed) for each in probes]
            seen.append(tuple(map(sum, zip(*counts, strict=True))))
        assert seen == [(5, 5, 0), (5, 5, 0), (9, 5, 0)]

    run(script)


def test_programs_and_probes_that_there_are_not(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        (own,) = (await daemon.insert(client)).programs
        backend.tell(protocol.Changed(PID, [status(own.number, 9), status(own.number + 1)]))
        assert client.told == []
        backend.tell(protocol.Changed(PID + 50, [status(own.number)]))
        backend.tell(protocol.TargetEvent(NoticeKind.EXEC, PID + 50, 1, "it executed something"))
        assert client.told == []
        assert len((await daemon.query(client)).probes) == 1

    run(script)


def test_a_child_that_was_told_of_already_is_not_begun_anew(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client, follow_forks=True)
        (own,) = (await daemon.insert(client)).programs
        backend.programs[PID + 1] = {own.number: 1}
        backend.tell(protocol.Forked(PID + 1, PID, [status(own.number)]))
        child = daemon.app.core.targets.by_pid[PID + 1]
        backend.tell(protocol.Forked(PID + 1, PID, [status(own.number)]))
        assert daemon.app.core.targets.by_pid[PID + 1] is child
        assert len(client.heard(messages.Forked)) == 1
        await daemon.ask(client, messages.Detach(id=4, pid=PID + 1), messages.Removed)

    run(script)


def test_a_child_of_nobodys_is_detached_from(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        backend.tell(protocol.Forked(PID + 1, PID + 60, []))
        while PID + 1 in daemon.app.core.targets:
            await asyncio.sleep(0)
        assert [each.pid for each in backend.of(protocol.Detach)] == [PID + 1]
        assert client.told == []

    run(script)


def test_places_in_processes_that_it_never_tells_of_are_forgotten(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        target = daemon.app.core.targets.by_pid[PID]
        for number in range(5000):
            place = protocol.Place(PID + 100 + number, "/lib/libc.so.6", "getppid+0x0")
            backend.tell(protocol.Places({number: place}))
        assert target.tracer is not None
        assert len(target.tracer._early) == 1024

    run(script)


def test_an_end_that_was_not(run: Run) -> None:
    """The process is no target any longer, and what its client asks for is refused."""

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        await daemon.insert(client)
        backend.tell(protocol.Ended(PID, "exited", 0, [], -5))
        backend.tell(protocol.Ended(PID, "exited", 0, [], 0))
        await asyncio.sleep(0)
        assert len(client.heard(messages.Ended)) == 1
        assert client.heard(messages.Ended)[0].overhead_ns == 0
        assert (await daemon.query(client)).targets == []
        assert backend.closed

    run(script)


def test_what_one_users_tracers_tell_has_a_limit(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of places, and probes: what was known before stays, and another user's has room."""
    monkeypatch.setattr(told, "MOST", 100_000)

    async def script(daemon: FakeDaemon) -> None:
        liar, victim, number = await two_users(daemon)
        lying, honest = daemon.backends.made
        (own,) = (await daemon.insert(liar)).programs
        place = protocol.Place(PID, "/lib/libc.so.6", "getppid+0x0")
        lying.tell(protocol.Places({1: place}))
        lying.tell(protocol.Changed(PID, [status(own.number, hits=3)]))
        for begin in range(2, 100_000, 10_000):
            lying.tell(protocol.Places(dict.fromkeys(range(begin, begin + 10_000), place)))
            early = protocol.Place(PID + 60, "/lib/libc.so.6", "getppid+0x0")
            lying.tell(protocol.Places(dict.fromkeys(range(begin, begin + 10_000), early)))
        many = [status(own.number, hits=1, no_dumps={f"reason {n}": 1}) for n in range(1000)]
        lying.tell(protocol.Changed(PID, many))
        target = daemon.app.core.targets.by_pid[PID]
        assert target.places[1] == ("/lib/libc.so.6", "getppid+0x0")
        assert len(target.places) < 500
        assert target.share.room.used <= 100_000
        assert target.share.room.dropped["places"] > 190_000
        assert "it tells more than 0 MB that are to be kept (of user 1000; 1 places" in caplog.text
        assert "(of user 1000; 131072 places dropped)" in caplog.text
        (info,) = (await daemon.query(liar)).probes
        assert info.hits == 3
        lying.tell(protocol.Records([record(own.number, 1), record(own.number, 99_999)]))
        assert len(liar.lines.splitlines()) == 1
        honest.tell(protocol.Places({1: msgspec.structs.replace(place, pid=OTHERS)}))
        honest.tell(protocol.Records([record(number, 1, pid=OTHERS)]))
        assert len(victim.lines.splitlines()) == 1

    run(script)


def test_room_is_given_back(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        await daemon.insert(client)
        room = daemon.app.core.targets.by_pid[PID].share.room
        backend.tell(protocol.Places({1: protocol.Place(PID, "/lib/libc.so.6", "getppid+0x0")}))
        early = protocol.Place(PID + 60, "/lib/libc.so.6", "getppid+0x0")
        backend.tell(protocol.Places({2: early, 3: early}))
        backend.tell(protocol.Places({2: early}))
        assert room.used > 0
        await daemon.ask(client, messages.Detach(id=4, pid=PID), messages.Removed)
        while not backend.gone.done():
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        del backend
        daemon.backends.made.clear()
        gc.collect()
        assert room.used == 0

    run(script)


@pytest.mark.parametrize("hits", [0, 3])
def test_programs_that_are_out_leave_their_room_to_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, hits: int
) -> None:
    """However many were in a process before, what the last one counts is shown."""
    monkeypatch.setattr(told, "MOST", 5_000)

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        for _ in range(100):
            (own,) = (await daemon.insert(client)).programs
            backend.tell(protocol.Changed(PID, [status(own.number, hits=hits)]))
            (info,) = (await daemon.query(client)).probes
            assert (info.number, info.hits) == (own.number, hits)
            select = messages.Select(number=own.number)
            await daemon.ask(client, messages.Remove(id=4, select=select), messages.Removed)
        room = daemon.app.core.targets.by_pid[PID].share.room
        assert not room.dropped
        assert room.used == 0

    run(script)


def test_a_probe_for_which_there_is_no_room_is_dropped_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program is in, and taken out as any."""
    monkeypatch.setattr(told, "MOST", 1_000)

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        await daemon.attach(client)
        answers = [await daemon.insert(client) for _ in range(3)]
        numbers = [each.number for answer in answers for each in answer.programs]
        assert [info.number for info in (await daemon.query(client)).probes] == numbers[:1]
        room = daemon.app.core.targets.by_pid[PID].share.room
        assert room.dropped["probes"] >= 2
        await daemon.ask(client, messages.Remove(id=4), messages.Removed)
        assert (await daemon.query(client)).probes == []

    run(script)


def test_roots_own_have_no_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "MOST", 0)

    async def script(daemon: FakeDaemon) -> None:
        daemon.processes[PID] = facts(PID, 0)
        root = FakeClient(0)
        backend = await daemon.attach(root)
        (own,) = (await daemon.insert(root)).programs
        backend.tell(protocol.Places({1: protocol.Place(PID, "/lib/libc.so.6", "getppid+0x0")}))
        backend.tell(protocol.Records([record(own.number, 1)]))
        assert len(root.lines.splitlines()) == 1

    run(script)


def test_lines_and_lists_are_cut(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        backend.tell(protocol.Places({1: protocol.Place(PID, "m" * 9000, "p" * 9000)}))
        for tid in range(10_000):
            backend.tell(protocol.TargetEvent(NoticeKind.SUSPEND, PID, tid, "x" * 100_000))
        target = daemon.app.core.targets.by_pid[PID]
        assert max(map(len, target.places[1])) < 4200
        assert max(len(each.text) for each in client.heard(messages.Notice)) < 8200
        assert len(target.suspended_at) == 4096
        threads = list(range(100_000))
        held = protocol.DebuggerStatus(threads, "s" * 9000, False, 0.0, 0)
        target.take_state(protocol.Ok(1, suspended=threads, debugger=held, unguarded="y" * 9000))
        (info,) = (await daemon.query(FakeClient(1001))).targets or [target.info()]
        assert len(info.suspended) == 1 << 15
        assert info.debugger is not None
        assert len(info.debugger.held) == 1 << 15
        assert len(target.unguarded) < 8200
        assert "100000 threads of a process (of user 1000; 1 lists of threads dropped)" in (
            caplog.text
        )
        backend.tell(protocol.Ended(PID, "x" * 100_000, 0, [status(99)] * 5000, 0))
        assert target.ended is not None
        assert (len(target.ended.how), target.ended.probes) == (8193, [])

    run(script)


def test_more_children_than_there_can_be(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dprobed.daemon.target.MOST", 4)

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client, follow_forks=True)
        (own,) = (await daemon.insert(client)).programs
        pids = range(PID + 1, PID + 10)
        for pid in pids:
            backend.programs[pid] = {own.number: 1}
            backend.tell(protocol.Forked(pid, PID, [status(own.number)]))
        assert list(daemon.app.core.targets.by_pid) == [PID, *pids[:3]]
        while len(backend.of(protocol.Detach)) < 6:
            await asyncio.sleep(0)
        assert [each.pid for each in backend.of(protocol.Detach)] == [*pids[3:]]
        for pid in (PID, *pids[:3]):
            await daemon.ask(client, messages.Detach(id=4, pid=pid), messages.Removed)

    run(script)


def test_maps_that_are_too_large_or_told_of_twice(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        text = "name = libc.so.6\nmap = calls, count, keys=1\noffset = getppid\nkey comm\n"
        code = encode(assemble(f"{text}minc calls\nabort\n", "x.rpn"))
        backend = await daemon.attach(client)
        uploads = [messages.Upload(label="x", bytecode=code)]
        request = messages.Insert(id=2, pid=PID, programs=uploads)
        (own,) = (await daemon.ask(client, request, messages.Inserted)).programs
        inserted = daemon.app.core.targets.by_pid[PID].programs[own.number]
        large: list[Entry] = [([bytes(1000) + n.to_bytes(8, "big")], [1]) for n in range(9000)]
        maps = [
            protocol.MapState(own.number, 7, 0, large),
            protocol.MapState(own.number, 0, 1, large),
            protocol.MapState(own.number, 0, 0, large),
        ]
        backend.tell(protocol.Ended(PID, "exited", 0, [], 0, maps=maps))
        assert [(each.number, each.lost, each.entries) for each in inserted.maps] == [(0, 9001, [])]
        await asyncio.sleep(0.01)
        (ended,) = client.heard(messages.Ended)
        assert [each.lost for each in ended.maps] == [9001]

    run(script)
