"""What happens between a request and its answer: detached, ended, dead, two at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dprobed.daemon import exited, quota
from dprobed.daemon.client import Refusal
from dprobed.wire import messages, protocol
from dprobed.wire.counters import NAMES, Counters
from tests.fakes.backend import PID, PROGRAM, FakeClient, FakeDaemon, facts, status

Script = Callable[[FakeDaemon], Awaitable[None]]
Run = Callable[[Script], None]


def test_two_clients_attach_at_once(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        one, other = FakeClient(), FakeClient()
        backend, same = await asyncio.gather(daemon.attach(one), daemon.attach(other))
        assert backend is same
        assert len(daemon.backends.made) == len(backend.of(protocol.Attach)) == 1
        await daemon.insert(one)
        await daemon.insert(other)
        detach = messages.Detach(id=4, pid=PID)
        removed = await daemon.ask(one, detach, messages.Removed)
        assert len(removed.probes) == 1
        assert backend.of(protocol.Detach) == []
        assert len((await daemon.query(other)).probes) == 1
        await daemon.ask(other, detach, messages.Removed)
        assert len(backend.of(protocol.Detach)) == 1
        assert [each.how for each in one.heard(messages.Ended)] == []

    run(script)


def test_another_user_does_not_join_a_tracer(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        await daemon.attach(FakeClient())
        with pytest.raises(Refusal, match="may not touch process"):
            await daemon.attach(FakeClient(1001))
        root = FakeClient(0)
        await daemon.attach(root)
        assert [each.user for each in daemon.backends.made] == [(1000, 1000)]

    run(script)


def test_a_process_is_another_one_by_the_time_it_is_attached(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        attach = asyncio.ensure_future(daemon.attach(client))
        while not daemon.backends.made:
            await asyncio.sleep(0)
        daemon.processes[PID] = facts(PID, start=2)
        with pytest.raises(Refusal, match="is another one by now"):
            await attach
        (backend,) = daemon.backends.made
        assert len(backend.of(protocol.Detach)) == 1

    run(script)


def test_a_client_goes_while_its_process_is_attached(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        attach = asyncio.ensure_future(daemon.attach(client))
        while not daemon.backends.made:
            await asyncio.sleep(0)
        (backend,) = daemon.backends.made
        pause = backend.pause(protocol.Attach)
        await pause.came.wait()
        daemon.app.core.detaching.release(client)
        with pytest.raises(Refusal):
            await attach
        assert backend.closed
        assert daemon.app.core.targets.by_pid == {}

    run(script)


def test_detached_while_its_programs_are_decoded(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        insert = asyncio.ensure_future(daemon.insert(client, count=50))
        await asyncio.sleep(0)
        await daemon.ask(client, messages.Detach(id=4, pid=PID), messages.Removed)
        with pytest.raises(Refusal, match="is not traced by this daemon"):
            await insert
        assert backend.of(protocol.Insert) == []

    run(script)


def test_detached_and_attached_anew_while_programs_are_decoded(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        first = await daemon.attach(client)
        insert = asyncio.ensure_future(daemon.insert(client, count=100))
        await asyncio.sleep(0)
        await daemon.ask(client, messages.Detach(id=4, pid=PID), messages.Removed)
        second = await daemon.attach(client)
        assert len((await insert).programs) == 100
        assert (len(first.of(protocol.Insert)), len(second.of(protocol.Insert))) == (0, 100)

    run(script)


def test_the_process_ends_while_a_program_is_inserted(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        pause = backend.pause(protocol.Insert)
        backend.refuse(protocol.Insert, f"process {PID} is gone")
        insert = asyncio.ensure_future(daemon.insert(client))
        await pause.came.wait()
        backend.tell(protocol.Ended(PID, "exited", 3, [], 5))
        pause.go.set()
        with pytest.raises(Refusal, match="exited with status 3"):
            await insert
        (ended,) = client.heard(messages.Ended)
        assert (ended.how, ended.status, ended.overhead_ns) == ("exited", 3, 5)

    run(script)


def test_the_tracer_dies_while_a_program_is_inserted(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        await daemon.insert(client)
        pause = backend.pause(protocol.Insert)
        insert = asyncio.ensure_future(daemon.insert(client))
        await pause.came.wait()
        backend.die("the tracer was killed by SIGKILL")
        with pytest.raises(Refusal, match="the tracer was killed by SIGKILL"):
            await insert
        (ended,) = client.heard(messages.Ended)
        assert (ended.how, ended.reason) == ("failed", "the tracer was killed by SIGKILL")
        assert [probe.state for probe in ended.probes] == ["failed"]

    run(script)


def test_of_programs_that_are_inserted_together_none_stays_where_one_is_refused(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        pause = backend.pause(protocol.Insert)
        insert = asyncio.ensure_future(daemon.insert(client, count=2))
        await pause.came.wait()
        pause.go.set()
        while not backend.programs[PID]:
            await asyncio.sleep(0)
        backend.refuse(protocol.Insert, "no room for it")
        with pytest.raises(Refusal, match="no room for it"):
            await insert
        assert backend.programs == {PID: {}}
        assert (await daemon.query(client)).probes == []

    run(script)


def test_what_was_replaced_comes_back_where_its_successor_is_refused(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where what was put in for it cannot be taken out again."""

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        (kept,) = (await daemon.insert(client, keep=True)).programs
        pause = backend.pause(protocol.Insert)
        insert = asyncio.ensure_future(daemon.insert(client, count=2, keep=True, present="replace"))
        await pause.came.wait()
        assert kept.number not in backend.programs[PID]
        pause.go.set()
        while not backend.programs[PID]:
            await asyncio.sleep(0)
        backend.refuse(protocol.Insert, "no room for it")
        backend.refuse(protocol.Remove, "not now")
        with pytest.raises(Refusal, match="no room for it"):
            await insert
        assert kept.number in backend.programs[PID]
        assert "x0 stays: not now" in caplog.text
        await daemon.ask(client, messages.Remove(id=5), messages.Removed)

    run(script)


def test_removed_by_two_at_once(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client, root = FakeClient(), FakeClient(0)
        backend = await daemon.attach(client)
        await daemon.insert(client)
        remove = messages.Remove(id=5)
        answers = await asyncio.gather(
            daemon.ask(client, remove, messages.Removed), daemon.ask(root, remove, messages.Removed)
        )
        assert all(len(answer.probes) == 1 for answer in answers)
        assert len(backend.of(protocol.Remove)) == 1
        assert backend.programs == {PID: {}}

    run(script)


def test_who_asks_twice_at_once_has_no_more_than_the_quota(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "PROGRAMS", 5)

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        await daemon.attach(client)
        await daemon.attach(client, PID + 1)
        answers = await asyncio.gather(
            daemon.insert(client, count=3),
            daemon.insert(client, PID + 1, count=3),
            return_exceptions=True,
        )
        refused = [answer for answer in answers if isinstance(answer, Refusal)]
        (text,) = map(str, refused)
        assert text.startswith("user 1000 has 3 programs inserted (limit 5); ")
        assert len((await daemon.query(client)).probes) == 3
        # Root has no limit.
        root = FakeClient(0)
        await daemon.attach(root)
        assert len((await daemon.insert(root, count=10)).programs) == 10

    run(script)


def test_a_followed_child_of_a_client_that_has_gone(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client, follow_forks=True)
        (program,) = (await daemon.insert(client)).programs
        pause = backend.pause(protocol.Detach)
        daemon.app.core.detaching.release(client)
        await pause.came.wait()
        backend.programs[PID + 1] = {program.number: 1}
        backend.tell(protocol.Forked(PID + 1, PID, backend.statuses(PID + 1)))
        pause.go.set()
        while daemon.app.core.targets.by_pid:
            await asyncio.sleep(0)
        assert [each.pid for each in backend.of(protocol.Detach)] == [PID, PID + 1]
        assert client.heard(messages.Forked) == []

    run(script)


def test_an_engine_that_there_is_not_is_refused(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        for engine, known in (("warp", False), ("trap", True)):
            upload = messages.Upload(label="x", bytecode=PROGRAM, engine=engine)
            request = messages.Insert(id=2, pid=PID, programs=[upload])
            if known:
                await daemon.ask(client, request, messages.Inserted)
            else:
                with pytest.raises(Refusal, match=r"x: there is no engine `warp`; it is one of: a"):
                    await daemon.ask(client, request, messages.Inserted)
        assert [each.engine for each in backend.of(protocol.Insert)] == ["trap"]

    run(script)


def test_what_ended_with_kept_programs_is_still_shown(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client, follower = FakeClient(), FakeClient(0)
        await daemon.ask(follower, messages.Log(id=1, follow=True), messages.Logged)
        backend = await daemon.attach(client)
        await daemon.insert(client, keep=True)
        backend.tell(protocol.Ended(PID, "killed", 9, backend.statuses(PID), 0))
        await asyncio.sleep(0)
        (notice,) = follower.heard(messages.Notice)
        assert notice.kind == "end"
        assert notice.text.endswith(") with x0 has ended: killed by signal 9")
        shown = await daemon.query(client)
        assert [(each.ended, each.backend) for each in shown.targets] == [
            ("killed by signal 9", "fake")
        ]
        assert [(each.state, each.reason) for each in shown.probes] == [
            ("ended", "its process has ended: killed by signal 9")
        ]
        listing = await daemon.ask(client, messages.Programs(id=3), messages.Listing)
        assert [each.ended for each in listing.programs] == ["killed by signal 9"]
        with pytest.raises(Refusal, match=rf"process {PID} \(.*\) has ended: killed by signal 9"):
            await daemon.ask(client, messages.Vars(id=4, number=1), messages.Words)
        await daemon.ask(client, messages.Remove(id=5), messages.Removed)
        assert (await daemon.query(client)).targets == []

    run(script)


def test_what_ended_long_ago_has_counted_all_of_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exited, "MAX_LISTED", 0)
    counted = Counters.named({name: number for number, name in enumerate(NAMES, 1)})

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        for pid in (PID, PID + 1):
            backend = await daemon.attach(client, pid)
            (own,) = (await daemon.insert(client, pid, keep=True)).programs
            told = status(own.number, **counted.as_dict())
            backend.tell(protocol.Ended(pid, "exited", 0, [told], 0))
            await asyncio.sleep(0)
        found = (await daemon.query(client)).earlier
        assert [Counters.of(each) for each in found] == [counted, counted]

    run(script)
