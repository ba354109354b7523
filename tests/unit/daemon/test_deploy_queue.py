"""Deployments on a fake backend: programs on their way into processes, and what comes between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from dprobed.daemon.deploy.deployment import Deployment
from dprobed.daemon.deploy.deployments import Deployments
from dprobed.daemon.deploy.watcher import Watcher
from dprobed.proc import procfs
from dprobed.wire import messages, protocol
from dprobed.wire.counters import NAMES, Counters
from tests.fakes.backend import PID, PROGRAM, FakeBackend, FakeClient, FakeDaemon, Pause, status

Run = Callable[[Callable[[FakeDaemon], Awaitable[None]]], None]


@pytest.fixture(autouse=True)
def all_are_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of the fakes are not in /proc, and those of this machine are not looked at."""
    monkeypatch.setattr(procfs, "has_ended", lambda pid: False)
    monkeypatch.setattr(Watcher, "start", lambda self: None)


async def deployed(
    daemon: FakeDaemon, client: FakeClient, count: int = 1
) -> tuple[Deployments, list[Deployment]]:
    """Deployments that no process of this machine is meant by."""
    assert daemon.app.public is not None
    deployments = daemon.app.public.deployments
    request = messages.Deploy(
        id=1,
        programs=[messages.Upload(label=f"x{n}", bytecode=PROGRAM) for n in range(count)],
        selection=messages.Selection(exe="/nowhere/at/all"),
    )
    return deployments, await deployments.begin(client, request)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_a_process_gets_what_it_waits_for_by_one_worker(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        deployments, made = await deployed(daemon, client, 2)
        deployments._queue.enqueue(PID, made, fresh=True)
        await until(lambda: all(PID in each.instances for each in made))
        (backend,) = daemon.backends.made
        assert [type(each) for each in backend.asked] == [
            protocol.Attach,
            protocol.Insert,
            protocol.Insert,
        ]
        listing = await daemon.ask(client, messages.Programs(id=2), messages.Listing)
        assert (listing.programs, len(listing.deployments)) == ([], 2)
        of_one = messages.Programs(id=2, select=messages.Select(pid=PID))
        assert len((await daemon.ask(client, of_one, messages.Listing)).programs) == 2
        # A tracer that others may follow into stays for them.
        removed = await daemon.ask(client, messages.Remove(id=3), messages.Removed)
        assert (len(removed.probes), len(removed.deployments)) == (2, 2)
        assert PID not in daemon.app.core.targets

    run(script)


def test_removed_while_it_is_on_its_way(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        deployments, made = await deployed(daemon, client)
        await deployed(daemon, client)  # So that there is one still.
        pause = await _at_insert(daemon, deployments, made)
        remove = messages.Remove(id=3, select=messages.Select(number=made[0].number))
        removing = asyncio.ensure_future(daemon.ask(client, remove, messages.Removed))
        await asyncio.sleep(0)
        pause.go.set()
        await removing
        await until(lambda: PID not in daemon.app.core.targets)
        assert (made[0].is_removed, made[0].instances) == (True, {})

    run(script)


def test_its_process_ends_while_it_is_on_its_way(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        deployments, made = await deployed(daemon, client)
        pause = await _at_insert(daemon, deployments, made)
        _backend(daemon).refuse(protocol.Insert, f"process {PID} is gone (no such process)")
        _backend(daemon).tell(protocol.Ended(PID, "exited", 0, [], 0))
        deployments._decisions.ended(PID, looked_at=True)
        pause.go.set()
        await until(lambda: not made[0].inserting)
        info = made[0].info()
        assert (info.processes, info.waiting, info.missed, info.unseen) == (0, 0, 1, 0)

    run(script)


def test_refused_by_the_tracer(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        deployments, made = await deployed(daemon, client)
        pause = await _at_insert(daemon, deployments, made)
        _backend(daemon).refuse(protocol.Insert, "no room for it")
        pause.go.set()
        await until(lambda: made[0].refusals)
        assert made[0].refusals == {PID: "no room for it"}
        assert made[0].info().refused == {"no room for it": 1}
        await until(lambda: PID not in daemon.app.core.targets)

    run(script)


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ([protocol.State.PENDING], "pending"),
        ([protocol.State.INVALID_OFFSET], "pending"),
        ([protocol.State.EXCLUDED, protocol.State.MISMATCH], "pending"),
        ([protocol.State.PENDING, protocol.State.ACTIVE], "active"),
        ([protocol.State.INVALID_OFFSET, protocol.State.THROTTLED], "active"),
    ],
)
def test_it_is_active_where_a_probe_is_in_its_place(
    run: Run, states: list[protocol.State], shown: str
) -> None:
    """In one of the places that it has in a process."""

    async def script(daemon: FakeDaemon) -> None:
        deployments, made = await deployed(daemon, FakeClient())
        deployments._queue.enqueue(PID, made, fresh=True)
        await until(lambda: PID in made[0].instances)
        plain = status(made[0].number)
        told = [msgspec.structs.replace(plain, state=state) for state in states]
        _backend(daemon).tell(protocol.Changed(PID, told))
        info = made[0].info()
        assert (info.processes, info.state) == (1, shown)

    run(script)


def test_its_client_goes(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        deployments, made = await deployed(daemon, client)
        deployments._queue.enqueue(PID, made, fresh=True)
        await until(lambda: PID in made[0].instances)
        deployments.release(client)
        await until(lambda: PID not in daemon.app.core.targets)
        assert made[0].instances == {}
        assert deployments.select(client, messages.Select()) == []

    run(script)


#: One probe's, each another number.
COUNTED = Counters.named({name: number for number, name in enumerate(NAMES, 1)})


def test_nothing_that_it_counted_is_lost_when_its_process_ends(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        deployments, made = await deployed(daemon, client)
        (one,) = made
        for pid in (PID, PID + 1):
            deployments._queue.enqueue(pid, made, fresh=True)
            await until(lambda pid=pid: pid in one.instances)  # type: ignore[misc]
            told = status(one.number, **COUNTED.as_dict(), no_dumps={"no room": 2})
            backend = _backend(daemon)
            backend.tell(protocol.Changed(pid, [told]))
        assert _sums(one) == COUNTED + COUNTED
        backend.tell(protocol.Ended(PID, "exited", 0, [], 100))
        await until(lambda: PID not in one.instances)
        assert _sums(one) == COUNTED + COUNTED
        assert (one.info().no_dumps, one.info().overhead_ns) == ({"no room": 4}, 100)
        # As a restarted daemon finds it: what has ended is told of, the other one goes on.
        kept = one.kept_now()
        (again,) = (await deployed(daemon, client))[1]
        again.go_on(kept)
        assert _sums(again) == COUNTED
        assert again.info().overhead_ns == 100

    run(script)


def _sums(deployment: Deployment) -> Counters:
    info = deployment.info()
    return msgspec.structs.replace(Counters.of(info), missed=info.missed_hits)


def _backend(daemon: FakeDaemon) -> FakeBackend:
    return daemon.backends.made[-1]


async def _at_insert(daemon: FakeDaemon, deployments: Deployments, made: list[Deployment]) -> Pause:
    """Have a process get programs, up to the request that inserts the first."""
    deployments._queue.enqueue(PID, made, fresh=True)
    await until(lambda: daemon.backends.made)
    pause = _backend(daemon).pause(protocol.Insert)
    await pause.came.wait()
    return pause
