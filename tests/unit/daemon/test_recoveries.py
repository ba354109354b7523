"""What killed tracers have left is undone first: who attaches meanwhile waits, or is refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dprobed.change_journal import ChangeJournal, Changes, Kind
from dprobed.daemon.change_journals import ChangeJournalFile, ChangeJournalFiles
from dprobed.daemon.client import Refusal
from dprobed.daemon.insertion import Insertion
from dprobed.daemon.tracer_process import TracerProcesses
from dprobed.proc import procfs
from dprobed.program.bytecode import decode
from dprobed.wire import messages, protocol
from tests.fakes.backend import PID, PROGRAM, FakeClient, FakeDaemon
from tests.leftovers import ended

Run = Callable[[Callable[[FakeDaemon], Awaitable[None]]], None]
INSERTION = Insertion(
    7, messages.Upload(label="x", bytecode=PROGRAM), decode(PROGRAM), deployed=False
)


def recovering(daemon: FakeDaemon, owner: int) -> asyncio.Future[None]:
    """Something is being undone in processes of a user, until this is done."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    daemon.backends.recovering.setdefault(owner, []).append(future)
    return future


async def turns() -> None:
    """Whatever can be done now is done."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_an_attach_waits(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        undone = recovering(daemon, 1000)
        attach = asyncio.ensure_future(daemon.attach(FakeClient()))
        await turns()
        assert daemon.backends.made == []
        undone.set_result(None)
        await attach

    run(script)


def test_processes_of_others_do_not_wait(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        recovering(daemon, 1001)
        await daemon.attach(FakeClient())

    run(script)


def test_a_deployment_is_refused_and_holds_up_nobody(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        undone = recovering(daemon, 1000)
        inserting, client = daemon.app.traced.inserting, FakeClient()
        with pytest.raises(Refusal, match="may have something left of a tracer that was killed"):
            await inserting.put(client, PID, INSERTION, client)
        undone.set_result(None)
        await inserting.put(client, PID, INSERTION, client)

    run(script)


def test_what_was_in_a_process_goes_into_no_other_of_its_number(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came while what was left in the first one was undone."""
    monkeypatch.setattr(procfs, "start_time", lambda pid: 2)

    async def script(daemon: FakeDaemon) -> None:
        inserting, client = daemon.app.traced.inserting, FakeClient()
        with pytest.raises(Refusal, match="it has ended"):
            await inserting.put(client, PID, INSERTION, None, start=1)
        (backend,) = daemon.backends.made
        assert backend.of(protocol.Insert) == []
        await inserting.put(client, PID, INSERTION, None, start=2)

    run(script)


@pytest.mark.parametrize(
    ("journal", "owner", "may"),
    [
        ((1000, 1000), 1000, True),
        ((0, 1000), 1000, True),
        ((0, 1000), 1001, False),
        # One that processes of many users share: those whom its own user may trace.
        ((0, -1), 1000, True),
        ((1000, -1), 1000, True),
        ((1000, -1), 1001, False),
    ],
)
def test_whose_processes_wait(
    monkeypatch: pytest.MonkeyPatch, journal: tuple[int, int], owner: int, may: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    uid, of = journal
    assert ChangeJournalFile((uid, uid), of, None).may_name(owner) is may


def test_a_tracer_that_lives_on_is_waited_for_a_while(tmp_path: Path) -> None:
    """With the daemon before this one it has lost nothing yet: something that it has sleeps. When
    it is killed, what it leaves is undone before anybody else comes."""
    journals = ChangeJournalFiles(tmp_path / "changes")
    journals.open()
    user = os.geteuid(), os.getegid()
    writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    start = procfs.start_time(writer.pid)
    assert start is not None
    with journals.make(user, user[0]).opened() as descriptor:
        changes = ChangeJournal(descriptor, writer.pid, start)
        Changes(changes, 1, 2).note(Kind.RAW, 3)

    async def work() -> None:
        tracers = TracerProcesses(lambda sock, mailbox, changes: None, journals=journals)
        await tracers.recover_orphans(0)
        (recovery,) = tracers.recoveries(user[0])
        assert tracers.recoveries(user[0] + 1) == []
        tracers._patient_until = time.monotonic()
        assert tracers.recoveries(user[0]) == []
        writer.kill()
        writer.wait()
        assert tracers.recoveries(user[0]) == [recovery]
        await recovery
        assert tracers.recoveries(user[0]) == []
        await tracers.stop(60)
        await ended(tracers.resolvers)

    asyncio.run(asyncio.wait_for(work(), 60))
    assert writer.stdin is not None
    writer.stdin.close()


def test_nothing_is_left_of_a_tracer_that_ends_with_the_next_daemon(tmp_path: Path) -> None:
    """It has lost its daemon, and takes the last of its changes back when the next one ends."""
    journals = ChangeJournalFiles(tmp_path / "changes")
    journals.open()
    user = os.geteuid(), os.getegid()
    writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    start = procfs.start_time(writer.pid)
    assert start is not None
    with journals.make(user, user[0]).opened() as descriptor:
        changes = Changes(ChangeJournal(descriptor, writer.pid, start), 1, 2)
        changes.note(Kind.RAW, 3)

        async def work() -> None:
            tracers = TracerProcesses(lambda sock, mailbox, changes: None, journals=journals)
            await tracers.recover_orphans(0)
            changes.clear()
            writer.kill()
            writer.wait()
            await tracers.stop(60)
            await ended(tracers.resolvers)

        asyncio.run(asyncio.wait_for(work(), 60))
    assert writer.stdin is not None
    writer.stdin.close()
    assert list(tmp_path.iterdir()) == []
