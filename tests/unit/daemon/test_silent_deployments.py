"""Deployments and tracers that do not answer: each program is in, or out, as is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dprobed.daemon import answers, detaching, tracer_pool
from dprobed.daemon.client import NoAnswer
from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.deploy.deployments import Deployments
from dprobed.daemon.deploy.watcher import Watcher
from dprobed.proc import procfs
from dprobed.wire import messages, protocol
from dprobed.wire.notices import NoticeKind
from tests.fakes.backend import PID, PROGRAM, FakeBackend, FakeClient, FakeDaemon

Run = Callable[[Callable[[FakeDaemon], Awaitable[None]]], None]


@pytest.fixture(autouse=True)
def _is_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of the fakes live, those of this machine are not looked at, and nobody waits."""
    monkeypatch.setattr(procfs, "has_ended", lambda pid: False)
    monkeypatch.setattr(Watcher, "start", lambda self: None)
    monkeypatch.setattr(detaching, "_LAST_WORDS", 0.01)
    monkeypatch.setattr(detaching, "_SOON", 0.01)
    monkeypatch.setattr(answers, "_TRIAL", 0.0)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


class Fleet:
    """A deployment in a process, in a tracer that others share."""

    def __init__(self, daemon: FakeDaemon, client: FakeClient) -> None:
        assert daemon.app.public is not None
        self.daemon, self.client = daemon, client
        self.deployments: Deployments = daemon.app.public.deployments
        self.one: Deployment
        self.shared: FakeBackend

    async def begin(self) -> None:
        """Into the first process."""
        uploads = [messages.Upload(label="x", bytecode=PROGRAM)]
        selection = messages.Selection(exe="/nowhere/at/all")
        request = messages.Deploy(id=1, programs=uploads, selection=selection)
        (self.one,) = await self.deployments.begin(self.client, request)
        await self.put(PID)
        (self.shared,) = self.daemon.backends.made

    def enqueue(self, pid: int) -> None:
        """A process is found."""
        self.one.refusals.pop(pid, None)
        self.deployments._queue.enqueue(pid, [self.one], fresh=True)

    async def put(self, pid: int) -> None:
        """A process gets it."""
        self.enqueue(pid)
        await until(lambda: pid in self.one.instances)

    async def refused(self, pid: int) -> str:
        """A process does not get it."""
        self.enqueue(pid)
        await until(lambda: pid in self.one.refusals)
        return self.one.refusals[pid]

    def wake(self) -> None:
        """The tracer says something."""
        self.shared.hurry = None
        self.shared.tell(protocol.TargetEvent(NoticeKind.LOADER, PID, PID, "loaded"))


async def fleet(daemon: FakeDaemon) -> Fleet:
    made = Fleet(daemon, FakeClient())
    await made.begin()
    return made


def test_a_process_that_is_deselected_has_it_until_it_is_out(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        its = await fleet(daemon)
        shared, one = its.shared, its.one
        await its.put(PID + 1)
        pause = shared.pause(protocol.Detach)
        shared.hurry = 0.01
        its.deployments._queue.deselect(one, PID + 1)
        await pause.came.wait()
        await until(lambda: f"process {PID + 1}: its tracer does not answer" in caplog.text)
        its.deployments._queue.deselect(one, PID + 1)
        assert PID + 1 in one.instances
        assert one.info().processes == 2
        shared.hurry = None
        pause.go.set()
        await until(lambda: PID + 1 not in one.instances)
        assert list(shared.programs) == [PID]
        await its.put(PID + 1)
        assert shared.programs[PID + 1] == {one.number: 1}

    run(script)


def test_a_program_whose_insertion_is_in_doubt_is_not_inserted_twice(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        its = await fleet(daemon)
        shared = its.shared
        # Something else stays in the process.
        await daemon.attach(its.client, PID + 1)
        (other,) = daemon.backends.made[1:]
        other.hurry = 0.01
        inserted = other.pause(protocol.Insert)
        assert "its tracer does not answer" in await its.refused(PID + 1)
        other.tell(protocol.TargetEvent(NoticeKind.LOADER, PID + 1, PID + 1, "loaded"))
        other.hurry = None
        text = await its.refused(PID + 1)
        assert "x: program 1 is still in process" in text
        assert "try again when its tracer has answered" in text
        inserted.go.set()
        await until(lambda: other.of(protocol.Remove))
        await until(lambda: other.programs == {PID + 1: {}})
        await asyncio.sleep(0)
        await its.put(PID + 1)
        assert other.programs == {PID + 1: {its.one.number: 1}}
        assert list(shared.programs) == [PID]

    run(script)


def test_a_process_that_got_nothing_is_let_go_when_that_can_be(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        its = await fleet(daemon)
        shared = its.shared
        pause = shared.pause(protocol.Insert)
        shared.hurry = 0.01
        assert "its tracer does not answer" in await its.refused(PID + 1)
        shared.hurry = None
        assert PID + 1 in daemon.app.core.targets
        pause.go.set()
        await until(lambda: PID + 1 not in daemon.app.core.targets)
        assert list(shared.programs) == [PID]

    run(script)


def test_what_a_program_counted_at_last_is_in_the_sums_however_late_it_comes(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        its = await fleet(daemon)
        shared, one = its.shared, its.one
        # Something else stays in the process.
        await daemon.attach(its.client)
        pause = shared.pause(protocol.Remove)
        shared.hurry = 0.01
        select = messages.Select(pid=PID, number=one.number)
        with pytest.raises(NoAnswer, match="it is done when that answers"):
            await daemon.ask(its.client, messages.Remove(id=3, select=select), messages.Removed)
        assert (one.info().processes, one.info().hits) == (1, 0)
        shared.hurry = None
        shared.hits[one.number] = 9
        pause.go.set()
        await until(lambda: one.info().processes == 0)
        assert one.info().hits == 9
        assert shared.programs == {PID: {}}

    run(script)


def test_all_of_a_deployment_is_removed_though_one_process_has_it_for_now(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        its = await fleet(daemon)
        await daemon.attach(its.client, PID + 1)
        await its.put(PID + 1)
        its.shared.hits[its.one.number] = 5
        (_, other) = daemon.backends.made
        pause = other.pause(protocol.Query)
        other.hurry = 0.01
        await daemon.query(its.client)
        select = messages.Select(number=its.one.number)
        removed = await daemon.ask(
            its.client, messages.Remove(id=3, select=select), messages.Removed
        )
        assert [each.hits for each in removed.deployments] == [5]
        assert list(removed.stays) == [PID + 1]
        other.hurry = None
        pause.go.set()
        await until(lambda: other.programs == {PID + 1: {}})
        await until(lambda: PID + 1 not in its.one.instances)

    run(script)


def test_another_tracer_takes_what_one_may_have_attached_to(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        its = await fleet(daemon)
        shared = its.shared
        pause = shared.pause(protocol.Attach)
        shared.hurry = 0.01
        assert "its tracer does not answer" in await its.refused(PID + 1)
        its.wake()
        await its.put(PID + 1)
        (other,) = daemon.backends.made[1:]
        assert list(other.programs) == [PID + 1]
        pause.go.set()
        await until(lambda: shared.of(protocol.Detach))
        await until(lambda: list(shared.programs) == [PID])
        # What that tracer says of the process's end is not about this target.
        assert (await daemon.query(FakeClient(0))).targets[1].ended == ""
        assert PID + 1 in its.one.instances
        # Another one gets the first tracer again.
        await its.put(PID + 2)
        assert list(shared.programs) == [PID, PID + 2]

    run(script)


def test_a_tracer_that_is_silent_gets_no_more_targets(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracer_pool, "SILENT", 2)

    async def script(daemon: FakeDaemon) -> None:
        its = await fleet(daemon)
        pauses = []
        for backend in (its.shared, None):
            if backend is None:
                await its.put(PID + 5)
                backend = daemon.backends.made[-1]
            assert isinstance(backend, FakeBackend)
            pauses.append(backend.pause(protocol.Query))
            backend.hurry = 0.01
            await daemon.query(its.client)
            await until(lambda backend=backend: backend.is_silent)  # type: ignore[misc]
            backend.hurry = None
        assert len(daemon.backends.made) == 2
        text = await its.refused(PID + 6)
        assert text == (
            f"process {PID + 6}: 2 tracers of user 1000 do not answer; try again when they do"
        )
        for pause in pauses:
            pause.go.set()
        await until(lambda: not its.shared.is_silent)
        await its.put(PID + 6)
        assert len(daemon.backends.made) == 2

    run(script)
