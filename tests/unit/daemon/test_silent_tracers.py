"""Tracers that do not answer: nobody else waits for them, and what comes late is made good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from dprobed.backend import BackendGone, BackendSilent
from dprobed.daemon import announcer, answers, detaching, enforcement
from dprobed.daemon import target as targets
from dprobed.daemon.answers import Answers
from dprobed.daemon.client import NoAnswer, Refusal
from dprobed.daemon.deploy import queue
from dprobed.daemon.deploy.watcher import Watcher
from dprobed.proc import procfs
from dprobed.wire import messages, protocol
from tests.fakes.backend import PID, PROGRAM, FakeBackend, FakeClient, FakeDaemon, facts

Run = Callable[[Callable[[FakeDaemon], Awaitable[None]]], None]

#: A process of another user's.
OTHERS = PID + 7


@pytest.fixture(autouse=True)
def _is_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detaching, "_SOON", 0.01)
    monkeypatch.setattr(detaching, "_LAST_WORDS", 0.01)
    monkeypatch.setattr(targets, "_UNDONE", 0.01)
    monkeypatch.setattr(answers, "_TRIAL", 0.0)
    monkeypatch.setattr(announcer, "_PATIENCE", 0.01)
    monkeypatch.setattr(enforcement, "_PATIENCE", 0.01)
    monkeypatch.setattr(queue, "_LONGEST", 0.01)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def two(daemon: FakeDaemon) -> tuple[FakeClient, FakeBackend, FakeClient, FakeBackend]:
    """A user whose tracer will not answer, and another one."""
    daemon.processes[OTHERS] = facts(OTHERS, 1001)
    one, other = FakeClient(), FakeClient(1001)
    return one, await daemon.attach(one), other, await daemon.attach(other, OTHERS)


def test_a_listing_goes_without_what_does_not_come(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        one, silent, other, _ = await two(daemon)
        await daemon.insert(one)
        await daemon.insert(other, OTHERS)
        pause = silent.pause(protocol.Query)
        status = await daemon.query(FakeClient(0))
        assert [(each.pid, each.silent_seconds > 0) for each in status.targets] == [
            (PID, True),
            (OTHERS, False),
        ]
        # What was known of its probes before.
        assert [each.pid for each in status.probes] == [PID, OTHERS]
        pause.go.set()
        await until(lambda: silent.waits == 0)
        status = await daemon.query(FakeClient(0))
        assert [each.silent_seconds for each in status.targets] == [0, 0]

    run(script)


def test_a_core_that_takes_its_time_is_no_silence(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        one, busy, _, _ = await two(daemon)
        await daemon.insert(one)
        core, pause = busy.pause(protocol.Dump), busy.pause(protocol.Query)
        dump = messages.Dump(id=4, pid=PID)
        dumping = asyncio.ensure_future(daemon.ask(one, dump, messages.Dumped))
        await core.came.wait()
        asked = time.monotonic()
        await until(lambda: time.monotonic() > asked + 0.2)
        begun = time.monotonic()
        status = await daemon.query(one)
        (target,) = (each for each in status.targets if each.pid == PID)
        assert 0 < target.silent_seconds <= time.monotonic() - begun
        for each in (pause, core):
            each.go.set()
        with pytest.raises(Refusal):  # This one writes none.
            await dumping

    run(script)


def test_a_deadline_is_told_and_nothing_more_is_sent(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        one, silent, _, _ = await two(daemon)
        pause = silent.pause(protocol.Insert)
        silent.hurry = 0.01
        with pytest.raises(NoAnswer, match=f"process {PID}: its tracer does not answer, for 0 s"):
            await daemon.insert(one)
        assert "the tracer does not answer, for 0 s (insert)" in caplog.text
        asked = len(silent.asked)
        with pytest.raises(NoAnswer):
            await daemon.insert(one)
        (target, _) = (await daemon.query(FakeClient(0))).targets
        assert target.silent_seconds > 0
        assert len(silent.asked) == asked
        # It is in after all, though nobody was told so, and is taken out.
        pause.go.set()
        await until(lambda: silent.of(protocol.Remove))
        await until(lambda: silent.programs == {PID: {}})
        assert "the tracer answers too late (insert)" in caplog.text
        assert len((await daemon.insert(one)).programs) == 1
        assert len((await daemon.query(one)).probes) == 1

    run(script)


def test_attached_too_late(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a tracer that others share, which goes on."""
    monkeypatch.setattr(procfs, "has_ended", lambda pid: False)
    monkeypatch.setattr(Watcher, "start", lambda self: None)

    async def script(daemon: FakeDaemon) -> None:
        assert daemon.app.public is not None
        deployments = daemon.app.public.deployments
        uploads = [messages.Upload(label="x", bytecode=PROGRAM)]
        selection = messages.Selection(exe="/nowhere/at/all")
        request = messages.Deploy(id=1, programs=uploads, selection=selection)
        made = await deployments.begin(FakeClient(), request)
        deployments._queue.enqueue(PID, made, fresh=True)
        await until(lambda: PID in made[0].instances)
        (shared,) = daemon.backends.made
        pause = shared.pause(protocol.Attach)
        shared.hurry = 0.01
        deployments._queue.enqueue(PID + 1, made, fresh=True)
        await until(lambda: PID + 1 in made[0].refusals)
        assert "its tracer does not answer" in made[0].refusals[PID + 1]
        shared.hurry = None
        pause.go.set()
        await until(lambda: [each.pid for each in shared.of(protocol.Detach)] == [PID + 1])
        await until(lambda: list(shared.programs) == [PID])

    run(script)


def test_removed_too_late(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        one, silent, _, _ = await two(daemon)
        await daemon.insert(one)
        pause = silent.pause(protocol.Remove)
        silent.hurry = 0.01
        with pytest.raises(NoAnswer):
            await daemon.ask(one, messages.Remove(id=3), messages.Removed)
        assert len((await daemon.query(one)).probes) == 1
        silent.hurry = None
        pause.go.set()
        await until(lambda: not silent.is_silent)
        assert (await daemon.query(one)).probes == []

    run(script)


def test_its_client_goes_meanwhile(run: Run) -> None:
    """What it had in is taken out when that can be done."""

    async def script(daemon: FakeDaemon) -> None:
        one, silent, _, _ = await two(daemon)
        await daemon.insert(one)
        pause = silent.pause(protocol.Query)
        silent.hurry = 0.01
        await daemon.query(one)
        await until(lambda: silent.is_silent)
        daemon.app.core.detaching.release(one)
        await asyncio.sleep(0.01)
        assert silent.of(protocol.Detach) == []
        pause.go.set()
        await until(lambda: PID not in daemon.app.core.targets)
        assert len(silent.of(protocol.Detach)) == 1

    run(script)


def test_policies_are_applied_to_others_at_once_and_to_it_later(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        one, silent, _, other = await two(daemon)
        assert daemon.app.public is not None
        enforcement = daemon.app.core.enforcement
        inserting = silent.pause(protocol.Insert)
        insertion = asyncio.create_task(daemon.insert(one))
        await inserting.came.wait()
        # It has the target's lock.
        await enforcement.check_all()
        assert "1 targets are checked when their tracers answer" in caplog.text
        inserting.go.set()
        await insertion
        pause = silent.pause(protocol.Adjust)
        silent.hurry = 0.01
        for target in daemon.app.core.targets.by_pid.values():
            await enforcement._check(target, anew=True)
        assert len(other.of(protocol.Adjust)) == 1
        silent.hurry = None
        pause.go.set()
        await until(lambda: len(silent.of(protocol.Adjust)) == 2)

    run(script)


def test_a_handler_is_not_kept_waiting(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        _, silent, _, other = await two(daemon)
        pause = silent.pause(protocol.Facilities)
        silent.hurry = 0.01
        announcing = daemon.app.core.announcer
        announcing.announce({"mine": 9}, [])
        await announcing.heard()
        assert len(other.of(protocol.Facilities)) == 1
        await until(lambda: silent.is_silent)
        silent.hurry = None
        pause.go.set()
        await until(lambda: len(silent.of(protocol.Facilities)) == 2)

    run(script)


def test_workers_go_on_with_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "has_ended", lambda pid: False)
    monkeypatch.setattr(Watcher, "start", lambda self: None)

    async def script(daemon: FakeDaemon) -> None:
        daemon.processes[OTHERS] = facts(OTHERS, 1001)
        assert daemon.app.public is not None
        deployments = daemon.app.public.deployments
        uploads = [messages.Upload(label="x", bytecode=PROGRAM)]
        selection = messages.Selection(exe="/nowhere/at/all")
        request = messages.Deploy(id=1, programs=uploads, selection=selection)
        (hers,) = await deployments.begin(FakeClient(), request)
        (his,) = await deployments.begin(FakeClient(1001), request)
        deployments._queue.enqueue(PID, [hers], fresh=True)
        await until(lambda: PID in hers.instances)
        (silent,) = daemon.backends.made
        pids = range(PID + 20, PID + 20 + 2 * queue.WORKERS)
        pauses = [silent.pause(protocol.Attach) for _ in pids]
        for pid in pids:
            deployments._queue.enqueue(pid, [hers], fresh=True)
        deployments._queue.enqueue(OTHERS, [his], fresh=False)
        await until(lambda: OTHERS in his.instances)
        assert len(hers.instances) == 1
        for pause in pauses:
            pause.go.set()
        await until(lambda: len(hers.instances) == 1 + len(pids))

    run(script)


def test_what_is_owed() -> None:
    async def main() -> None:
        owed = Answers("it")
        with pytest.raises(BackendSilent):
            await owed.expect(protocol.Query(1, 7), 0.0)
        # It is the first that waits.
        (waiting,) = [owed.expect(protocol.Query(2, 7), None)]
        assert owed.is_silent
        with pytest.raises(BackendSilent, match="does not answer, for 0 s"):
            await owed.admit()
        hearing = asyncio.create_task(owed.heard())
        owed.take(protocol.Ok(2, words=[1]))
        assert (await waiting).words == [1]
        await hearing
        await owed.admit()
        assert owed.waits > 0
        # Nobody asked that, or nobody waits any more: it is dropped.
        owed.take(protocol.Ok(1))
        owed.take(protocol.Ok(1))
        owed.take(protocol.Ok(99))
        assert owed.waits == 0
        gone = owed.expect(protocol.Query(3, 7))
        owed.end("it ended")
        with pytest.raises(BackendGone, match="it ended"):
            await gone

    asyncio.run(main())


def test_who_asks_a_tracer_whose_work_is_not_undone_is_told_so(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed, and who undoes what it left waits for a thread that sleeps."""

    async def script(daemon: FakeDaemon) -> None:
        one, dead, other, _ = await two(daemon)
        await daemon.insert(one)
        await daemon.insert(other, OTHERS)
        undone = asyncio.Event()
        monkeypatch.setattr(dead, "recover", undone.wait)
        dead.die("killed")
        with pytest.raises(Refusal, match=rf"process {PID}: .* is being undone; try again later"):
            await daemon.ask(one, messages.Remove(id=4), messages.Removed)
        root = FakeClient(0)
        assert {each.pid for each in (await daemon.query(root)).targets} == {PID, OTHERS}
        undone.set()
        await until(lambda: one.heard(messages.Ended))
        assert {each.pid for each in (await daemon.query(root)).targets} == {OTHERS}

    run(script)
