"""A tracer runs with its user's rights, and may tell anything well-formed: what comes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from dprobed.wire import messages, protocol
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
        backend.tell(protocol.TargetEvent("exec", PID + 50, 1, "it executed something"))
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
