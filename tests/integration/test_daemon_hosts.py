"""Which tracer has which target: one for each who asks, or one for many."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from dprobed.daemon import tracer_pool
from dprobed.daemon.gate import Gate
from dprobed.daemon.requests import Registry
from dprobed.daemon.tracer_process import Supervisor
from dprobed.policy.config import Config
from dprobed.policy.store import PolicyStore
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.tracer.main import main as tracer_main
from dprobed.wire import messages

PROGRAM = encode(assemble("name = libc.so.6\noffset = getppid\nabort\n", "x.rpn"))


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
    folder: Path, work: Callable[[Registry, Supervisor, Owner], Coroutine[None, None, None]]
) -> None:
    async def main() -> None:
        supervisor = Supervisor(tracer_main)
        gate = Gate(PolicyStore(Config(folder), os.geteuid()))
        registry = Registry(supervisor, gate, keep_log=False, hold_limit=600.0)
        try:
            await work(registry, supervisor, Owner())
        finally:
            await registry.stop(20)
        assert supervisor.tracers == {}

    asyncio.run(asyncio.wait_for(main(), 60))


async def put_in(registry: Registry, owner: Owner, pid: int, *, shared: bool) -> None:
    await registry.attach(owner, pid, shared=shared)
    upload = messages.Upload(label="x", bytecode=PROGRAM)
    [entry] = await registry.insert(owner, messages.Insert(id=0, pid=pid, programs=[upload]))
    assert [info.state for info in entry.probe_infos()] == ["active"]


def test_shared_as_far_as_it_goes(
    sleepers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracer_pool, "SHARED", 3)

    async def work(registry: Registry, supervisor: Supervisor, owner: Owner) -> None:
        await asyncio.gather(*(put_in(registry, owner, pid, shared=True) for pid in sleepers))
        assert len(supervisor.tracers) == 2
        for pid in sleepers[:3]:
            await registry.detach(owner, pid)
        assert len(await registry.query(owner, messages.Select())) == 2
        # Those that are left are served, and there is room again.
        await put_in(registry, owner, sleepers[0], shared=True)
        assert len(supervisor.tracers) <= 2
        # Somebody who asks for one process gets a tracer for it.
        before = len(supervisor.tracers)
        await put_in(registry, owner, sleepers[1], shared=False)
        assert len(supervisor.tracers) == before + 1
        for pid in (*sleepers[3:], *sleepers[:2]):
            await registry.detach(owner, pid)
        assert supervisor.tracers == {}

    within_daemon(tmp_path, work)


def test_a_tracer_that_is_refused_one_keeps_the_others(sleepers: list[int], tmp_path: Path) -> None:
    async def work(registry: Registry, supervisor: Supervisor, owner: Owner) -> None:
        await put_in(registry, owner, sleepers[0], shared=True)
        with pytest.raises(Exception, match="kernel thread"):
            await registry.attach(owner, 2, shared=True)
        await put_in(registry, owner, sleepers[1], shared=True)
        assert len(supervisor.tracers) == 1
        os.kill(next(iter(supervisor.tracers)), 0)

    within_daemon(tmp_path, work)


def test_what_a_client_leaves_goes_out_of_shared_tracers(
    sleepers: list[int], tmp_path: Path
) -> None:
    async def work(registry: Registry, supervisor: Supervisor, owner: Owner) -> None:
        other = Owner()
        await put_in(registry, owner, sleepers[0], shared=True)
        await put_in(registry, other, sleepers[1], shared=True)
        registry.release(owner)
        while len(await registry.query(other, messages.Select())) > 1:
            await asyncio.sleep(0)
        assert len(supervisor.tracers) == 1
        [target] = await registry.query(other, messages.Select())
        assert target.pid == sleepers[1]

    within_daemon(tmp_path, work)
