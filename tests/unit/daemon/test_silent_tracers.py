"""Tracers that do not answer: nobody else waits for them, and what comes late is made good."""

from __future__ import annotations

import asyncio
import re
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
from dprobed.wire.notices import NoticeKind
from tests.fakes.backend import (
    PID,
    PROGRAM,
    FakeBackend,
    FakeClient,
    FakeDaemon,
    Pause,
    facts,
    status,
)

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


def test_what_is_detached_from_too_late_is_told_with_its_counts(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        one, silent, _, _ = await two(daemon)
        (own,) = (await daemon.insert(one)).programs
        pause = silent.pause(protocol.Query)
        silent.hurry = 0.01
        await daemon.query(one)
        with pytest.raises(NoAnswer, match=r"its tracer does not answer.*; it is done when that"):
            await daemon.ask(one, messages.Detach(id=4, pid=PID), messages.Removed)
        assert silent.of(protocol.Detach) == []
        silent.hurry = None
        silent.tell(protocol.Changed(PID, [status(own.number, hits=9)]))
        pause.go.set()
        await until(lambda: PID not in daemon.app.core.targets)
        (ended,) = one.heard(messages.Ended)
        assert (ended.how, [probe.hits for probe in ended.probes]) == ("detached", [9])

    run(script)


def test_one_that_does_not_answer_hides_nothing_of_the_others(run: Run) -> None:
    """All are asked for their programs: what is out is told, and what stays for now."""

    async def script(daemon: FakeDaemon) -> None:
        one, silent, other, _ = await two(daemon)
        (hers,) = (await daemon.insert(one)).programs
        await daemon.insert(other, OTHERS)
        pause = silent.pause(protocol.Query)
        silent.hurry = 0.01
        await daemon.query(one)
        root = FakeClient(0)
        removed = await daemon.ask(root, messages.Remove(id=3), messages.Removed)
        assert [probe.pid for probe in removed.probes] == [OTHERS]
        assert list(removed.stays) == [PID]
        assert removed.stays[PID].startswith(f"process {PID}: its tracer does not answer, for ")
        assert removed.stays[PID].endswith(" s; it is done when that answers")
        assert [probe.number for probe in (await daemon.query(one)).probes] == [hers.number]
        silent.hurry = None
        # Once, however often it was asked for.
        with pytest.raises(NoAnswer):
            await daemon.ask(root, messages.Remove(id=4), messages.Removed)
        pause.go.set()
        await until(lambda: silent.programs == {PID: {}})
        assert len(silent.of(protocol.Remove)) == 1
        await until(lambda: one.heard(messages.StateChange))
        changes = one.heard(messages.StateChange)
        assert [(probe.state, probe.reason) for each in changes for probe in each.probes] == [
            ("removed", "removed, after its tracer had not answered")
        ]
        assert (await daemon.query(one)).probes == []

    run(script)


def test_what_is_not_allowed_any_more_is_told_when_it_is_out(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        one, silent, _, _ = await two(daemon)
        await daemon.insert(one)
        pause = silent.pause(protocol.Query)
        silent.hurry = 0.01
        await daemon.query(one)
        core = daemon.app.core
        monkeypatch.setattr(core.gate, "keeps", lambda *_: "it is protected now")
        caplog.set_level("INFO", "dprobed")
        for target in (core.targets.by_pid[PID],) * 2:
            await core.enforcement._check(target)
        text = "x0 is no longer allowed, and stays until its tracer answers: it is protected now"
        assert caplog.text.count(text) == 1
        assert one.heard(messages.StateChange) == []
        assert [probe.state for probe in (await daemon.query(one)).probes] == ["active"]
        silent.hurry = None
        pause.go.set()
        await until(lambda: silent.programs == {PID: {}})
        await until(lambda: one.heard(messages.StateChange))
        (change,) = one.heard(messages.StateChange)
        assert [(each.state, each.reason) for each in change.probes] == [
            ("removed", "it is protected now")
        ]
        assert "x0 is out: no longer allowed: it is protected now" in caplog.text

    run(script)


def test_what_is_held_where_nobody_answers_is_told(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        one, silent, _, other = await two(daemon)
        pause = silent.pause(protocol.Query)
        silent.hurry = 0.01
        await daemon.query(one)
        await until(lambda: silent.is_silent)
        for tid in (None, 5):
            resumed = await daemon.ask(
                FakeClient(0), messages.Resume(id=5, tid=tid), messages.Resumed
            )
            assert (resumed.tids, resumed.silent) == ([], [PID])
        assert len(other.of(protocol.Resume)) == 2
        pause.go.set()

    run(script)


def test_what_goes_in_together_is_out_together(run: Run) -> None:
    """Also where it can be taken out only later, and what it had replaced comes back."""

    async def script(daemon: FakeDaemon) -> None:
        one, silent, _, _ = await two(daemon)
        (kept,) = (await daemon.insert(one, keep=True)).programs
        first = silent.pause(protocol.Insert)
        insertion = asyncio.create_task(daemon.insert(one, count=2, keep=True, present="replace"))
        await first.came.wait()
        second = silent.pause(protocol.Insert)
        first.go.set()
        silent.hurry = 0.01
        with pytest.raises(NoAnswer):
            await insertion
        silent.hurry = None
        assert len(silent.programs[PID]) == 1
        second.go.set()
        await until(lambda: list(silent.programs[PID]) == [kept.number])
        await until(lambda: not daemon.app.core.targets.by_pid[PID].in_doubt)
        assert [probe.number for probe in (await daemon.query(one)).probes] == [kept.number]

    run(script)


@pytest.mark.parametrize("is_silent", [True, False])
def test_into_several_processes_or_none(run: Run, is_silent: bool) -> None:
    """What was replaced comes back, and what stays in one of them, and why, is told."""

    async def script(daemon: FakeDaemon) -> None:
        one = FakeClient()
        first, second = await daemon.attach(one), await daemon.attach(one, PID + 1)
        (kept,) = (await daemon.insert(one, keep=True)).programs
        second.refuse(protocol.Insert, f"process {PID + 1}: no room for it")
        # Of the first one that is asked to take out what it had, it answers in time.
        answered, pause = first.pause(protocol.Remove), Pause()
        answered.go.set()
        if is_silent:
            first.pauses(protocol.Remove, pause)
        first.hurry = 0.05
        with pytest.raises(Refusal) as refusal:
            await daemon.insert(one, keep=True, present="replace", also=[PID + 1])
        first.hurry = None
        text = re.sub(r"for \d+ s", "for a while", str(refusal.value))
        silent = f"process {PID}: its tracer does not answer, for a while"
        assert text == f"process {PID + 1}: no room for it; " + (
            f"what was put into others before stays there: {silent}; x0 is out: {silent}; it is "
            "done when that answers"
            if is_silent
            else "nothing was put into the others"
        )
        pause.go.set()
        await until(lambda: list(first.programs[PID]) == [kept.number])
        assert second.programs[PID + 1] == {}
        await until(lambda: not daemon.app.core.targets.by_pid[PID].in_doubt)
        assert [probe.number for probe in (await daemon.query(one)).probes] == [kept.number]
        # And all of them, where nothing is in the way.
        done = await daemon.insert(one, keep=True, present="replace", also=[PID + 1, PID])
        assert [each.pid for each in done.programs] == [PID, PID + 1]
        assert kept.number not in first.programs[PID]
        assert [len(each) for each in (first.programs[PID], second.programs[PID + 1])] == [1, 1]

    run(script)


def test_what_was_never_asked_has_nothing_to_be_undone(run: Run) -> None:
    """However often somebody tries to insert while nobody answers."""

    async def script(daemon: FakeDaemon) -> None:
        one, silent, _, _ = await two(daemon)
        pause = silent.pause(protocol.Query)
        silent.hurry = 0.01
        await daemon.query(one)
        await until(lambda: silent.is_silent)
        for _ in range(5):
            with pytest.raises(NoAnswer):
                await daemon.insert(one)
        asked = len(silent.of(protocol.Query))
        silent.hurry = None
        pause.go.set()
        await until(lambda: not silent.is_silent)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(silent.of(protocol.Query)) == asked
        assert silent.of(protocol.Insert) == []

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
        for _ in range(3):
            for target in daemon.app.core.targets.by_pid.values():
                await enforcement._check(target, anew=True)
        assert len(other.of(protocol.Adjust)) == 3
        silent.hurry = None
        pause.go.set()
        # Once more, however often it was to be done.
        await until(lambda: len(silent.of(protocol.Adjust)) == 2)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(silent.of(protocol.Adjust)) == 2

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


def test_what_answers_others_is_not_silent(run: Run) -> None:
    """Detaching takes as long as a core is being written; another process is served meanwhile."""

    async def script(daemon: FakeDaemon) -> None:
        one = FakeClient()
        backend = await daemon.attach(one)
        await daemon.insert(one)
        detached = backend.pause(protocol.Detach)
        backend.hurry = 0.01
        with pytest.raises(NoAnswer, match="does not answer"):
            await daemon.ask(one, messages.Detach(id=4, pid=PID), messages.Removed)
        assert not backend.is_silent
        backend.hurry = None
        assert (await daemon.query(FakeClient(0))).targets[0].silent_seconds == 0
        detached.go.set()
        await until(lambda: PID not in daemon.app.core.targets)

    run(script)


def test_an_event_ends_a_silence(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        one = FakeClient()
        backend = await daemon.attach(one)
        await daemon.insert(one)
        pause = backend.pause(protocol.Query)
        backend.hurry = 0.01
        await daemon.query(one)
        assert backend.is_silent
        backend.hurry = None
        backend.tell(protocol.TargetEvent(NoticeKind.LOADER, PID, PID, "something was loaded"))
        assert not backend.is_silent
        assert (await daemon.query(one)).targets[0].silent_seconds == 0
        pause.go.set()

    run(script)


def test_a_late_answer_says_nothing_of_what_was_answered_meanwhile() -> None:
    async def main() -> None:
        owed = Answers("it")
        first = owed.expect(protocol.Query(1, 7), 0.02)
        second = owed.expect(protocol.Query(2, 7), None)
        asyncio.get_running_loop().call_later(0.015, owed.take, protocol.Ok(2))
        with pytest.raises(BackendSilent, match="does not answer, for 0 s"):
            await first
        assert not owed.is_silent
        await second

    asyncio.run(main())


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
