"""Which tracer has which target: one for each who asks, or one for many."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from dprobed.daemon import tracer_pool
from dprobed.daemon.app import App, build_public
from dprobed.daemon.gate import Gate
from dprobed.daemon.tracer_process import TracerProcesses
from dprobed.policy.config import Config
from dprobed.policy.store import PolicyStore
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.tracer.main import main as tracer_main
from dprobed.wire import messages
from tests.leftovers import ended

PROGRAM = encode(assemble("name = libc.so.6\noffset = getppid\nabort\n", "x.rpn"))
#: Nobody else's.
USER = 54322


class Owner:
    """A client that notes what it is told."""

    def __init__(self) -> None:
        self.pid, self.uid, self.gid = os.getppid(), os.geteuid(), os.getegid()
        self.told: list[messages.Report] = []
        self.kept = False

    def offer(self, lines: bytes) -> bool:
        return True

    def tell(self, message: messages.Report) -> None:
        self.told.append(message)


@pytest.fixture
def sleepers() -> Iterator[list[int]]:
    processes = [subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL) for _ in range(5)]
    yield [process.pid for process in processes]
    for process in processes:
        assert process.poll() is None, "a target came to harm"
        process.kill()
        process.wait()


def within_daemon(
    folder: Path, work: Callable[[App, TracerProcesses, Owner], Coroutine[None, None, None]]
) -> None:
    async def main() -> None:
        tracers = TracerProcesses(tracer_main)
        store = PolicyStore(Config(folder), os.geteuid())
        app = build_public(tracers, Gate(store), tracers.resolvers)
        try:
            await work(app, tracers, Owner())
        finally:
            await app.stop(20)
            await ended(tracers.resolvers)
        assert tracers.tracers == set()

    asyncio.run(asyncio.wait_for(main(), 60))


async def put_in(app: App, owner: Owner, pid: int, *, shared: bool) -> None:
    await app.traced.attaching.hold(owner, pid, shared=shared)
    upload = messages.Upload(label="x", bytecode=PROGRAM)
    request = messages.Insert(id=0, pid=pid, programs=[upload])
    inserted = await app.traced.inserting.insert(owner, request)
    assert [info.state for info in inserted.probes] == ["active"]


async def detach(app: App, owner: Owner, pid: int) -> None:
    await app.core.detaching.detach(owner, messages.Detach(id=0, pid=pid))


async def targets(app: App, owner: Owner) -> list[messages.TargetInfo]:
    answer = await app.table.answer(owner, messages.Query(id=0))
    assert isinstance(answer, messages.Status)
    return answer.targets


def test_shared_as_far_as_it_goes(
    sleepers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracer_pool, "SHARED", 3)

    async def work(app: App, tracers: TracerProcesses, owner: Owner) -> None:
        await asyncio.gather(*(put_in(app, owner, pid, shared=True) for pid in sleepers))
        assert len(tracers.tracers) == 2
        for pid in sleepers[:3]:
            await detach(app, owner, pid)
        assert len(await targets(app, owner)) == 2
        # Those that are left are served, and there is room again.
        await put_in(app, owner, sleepers[0], shared=True)
        assert len(tracers.tracers) <= 2
        # Somebody who asks for one process gets a tracer for it.
        before = len(tracers.tracers)
        await put_in(app, owner, sleepers[1], shared=False)
        assert len(tracers.tracers) == before + 1
        for pid in (*sleepers[3:], *sleepers[:2]):
            await detach(app, owner, pid)
        assert tracers.tracers == set()

    within_daemon(tmp_path, work)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root probes others' processes")
def test_different_users_processes_share_nothing(sleepers: list[int], tmp_path: Path) -> None:
    """What one user's processes or files make of a tracer or resolver nobody else waits for."""
    with subprocess.Popen(["sleep", "1000"], user=USER, group=USER) as other:

        async def work(app: App, tracers: TracerProcesses, owner: Owner) -> None:
            for pid in (*sleepers[:2], other.pid):
                await put_in(app, owner, pid, shared=True)
            assert len(tracers.tracers) == 2
            assert len(tracers.resolvers.processes) == 2
            for pid in (*sleepers[:2], other.pid):
                await detach(app, owner, pid)

        try:
            within_daemon(tmp_path, work)
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root probes others' processes")
def test_many_users_do_not_get_as_many_tracers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracer_pool, "OWNERS", 2)
    others = [
        subprocess.Popen(["sleep", "1000"], user=USER + each, group=USER) for each in range(5)
    ]

    async def work(app: App, tracers: TracerProcesses, owner: Owner) -> None:
        for other in others:
            await put_in(app, owner, other.pid, shared=True)
        assert len(tracers.tracers) == 3
        for other in others:
            await detach(app, owner, other.pid)

    try:
        within_daemon(tmp_path, work)
        assert all(other.poll() is None for other in others)
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_a_tracer_that_is_refused_one_keeps_the_others(sleepers: list[int], tmp_path: Path) -> None:
    async def work(app: App, tracers: TracerProcesses, owner: Owner) -> None:
        await put_in(app, owner, sleepers[0], shared=True)
        with pytest.raises(Exception, match="kernel thread"):
            await app.traced.attaching.hold(owner, 2, shared=True)
        await put_in(app, owner, sleepers[1], shared=True)
        assert len(tracers.tracers) == 1
        os.kill(next(iter(tracers.tracers)), 0)

    within_daemon(tmp_path, work)


def test_what_a_client_leaves_goes_out_of_shared_tracers(
    sleepers: list[int], tmp_path: Path
) -> None:
    async def work(app: App, tracers: TracerProcesses, owner: Owner) -> None:
        other = Owner()
        await put_in(app, owner, sleepers[0], shared=True)
        await put_in(app, other, sleepers[1], shared=True)
        app.core.detaching.release(owner)
        while len(await targets(app, other)) > 1:
            await asyncio.sleep(0)
        assert len(tracers.tracers) == 1
        [target] = await targets(app, other)
        assert target.pid == sleepers[1]

    within_daemon(tmp_path, work)
