"""Programs that end by themselves: when, for whom, and who is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from dprobed.policy.match import Match
from dprobed.policy.model import Policies, Policy, Stay
from dprobed.program.bytecode import decode
from dprobed.wire import messages, protocol
from tests.fakes.backend import PID, PROGRAM, FakeBackend, FakeClient, FakeDaemon, status

Script = Callable[[FakeDaemon], Awaitable[None]]
Run = Callable[[Script], None]
#: As good as at once, and as good as never.
SOON, LONG = 0.001, 1e6


async def insert(
    daemon: FakeDaemon, client: FakeClient, seconds: float | None, *, keep: bool = True
) -> list[messages.ProbeInfo]:
    upload = messages.Upload(label="x", bytecode=PROGRAM, seconds=seconds)
    request = messages.Insert(id=1, pid=PID, programs=[upload], keep=keep)
    return (await daemon.ask(client, request, messages.Inserted)).probes


async def asked(backend: FakeBackend, kind: type[protocol.Request], count: int = 1) -> None:
    """Until a backend was asked for something so many times."""
    while len(backend.of(kind)) < count:
        await asyncio.sleep(0)


def at_most(stay: Stay) -> Policies:
    return Policies((Policy("p", "p.toml:1", Match(()), stay=stay),))


def test_what_is_left_behind_is_taken_out_when_its_time_is_over(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client, follower = FakeClient(), FakeClient(0)
        await daemon.ask(follower, messages.Log(id=1, follow=True), messages.Logged)
        backend = await daemon.attach(client)
        (stays,) = await insert(daemon, client, LONG)
        (ends,) = await insert(daemon, client, SOON)
        assert (stays.uid, stays.end_rule) == (1000, "")
        assert stays.left_seconds is not None
        assert LONG - 60 < stays.left_seconds <= LONG
        await asked(backend, protocol.Remove)
        assert [each.program for each in backend.of(protocol.Remove)] == [ends.number]
        while not follower.heard(messages.Notice):
            await asyncio.sleep(0)
        (notice,) = follower.heard(messages.Notice)
        assert notice.kind == "over"
        assert notice.text.endswith(": x has ended: its time is over")
        left = (await daemon.query(client)).probes
        assert [each.number for each in left] == [stays.number]

    with caplog.at_level(logging.INFO, "dprobed"):
        run(script)
    (line,) = [each for each in caplog.messages if "has ended" in each]
    assert f"process {PID} (" in line


def test_its_owner_is_told_and_the_last_one_lets_the_process_go(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        await insert(daemon, client, SOON, keep=False)
        while not client.heard(messages.Over):
            await asyncio.sleep(0)
        (over,) = client.heard(messages.Over)
        assert over.text.endswith(": x has ended: its time is over")
        assert [each.state for each in over.probes] == ["active"]
        assert backend.of(protocol.Detach) == []  # The client still holds the process.
        other = FakeClient()
        await daemon.attach(other)
        await daemon.ask(client, messages.Detach(id=1, pid=PID), messages.Removed)
        await insert(daemon, other, SOON)
        await daemon.ask(other, messages.Detach(id=1, pid=PID), messages.Removed)
        await asked(backend, protocol.Detach)

    run(script)


def test_a_fork_child_has_the_same_end(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client, follow_forks=True)
        (probe,) = await insert(daemon, client, LONG)
        child = protocol.Forked(PID + 1, PID, [status(probe.number)])
        backend.programs[PID + 1] = {probe.number: 1}
        backend.tell(child)
        both = (await daemon.query(client)).probes
        assert {each.pid for each in both} == {PID, PID + 1}
        ends = {round(each.left_seconds or 0, 1) for each in both}
        assert max(ends) - min(ends) < 1
        core = daemon.app.core
        for target in core.targets.by_pid.values():
            for inserted in target.programs.values():
                term = msgspec.structs.replace(inserted.insertion.term, until=time.monotonic())
                inserted.insertion = msgspec.structs.replace(inserted.insertion, term=term)  # type: ignore[misc]
        core.ends.due(time.monotonic())
        await asked(backend, protocol.Remove, 2)
        assert {each.pid for each in backend.of(protocol.Remove)} == {PID, PID + 1}

    run(script)


def test_the_default_is_for_what_ordinary_users_leave_behind(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        store = daemon.app.core.gate.store
        store.config = msgspec.structs.replace(store.config, stay=Stay(LONG, 7))
        user, root = FakeClient(), FakeClient(0)
        backend = await daemon.attach(user)
        await daemon.attach(root)

        def sent() -> int:
            return decode(backend.of(protocol.Insert)[-1].bytecode).probes[0].max_hits

        (probe,) = await insert(daemon, user, None)
        assert probe.end_rule == "the default of dprobed.toml"
        assert probe.left_seconds is not None
        assert (probe.max_hits, sent()) == (7, 7)
        (probe,) = await insert(daemon, user, LONG / 2)
        assert probe.end_rule == ""
        assert probe.left_seconds is not None
        assert probe.left_seconds <= LONG / 2
        (probe,) = await insert(daemon, user, None, keep=False)
        assert (probe.left_seconds, probe.max_hits, sent()) == (None, 0, 0)
        (probe,) = await insert(daemon, root, None)
        assert (probe.left_seconds, probe.max_hits, sent()) == (None, 0, 0)

    run(script)


def test_without_a_configuration_it_is_a_day(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        await daemon.attach(client)
        (probe,) = await insert(daemon, client, None)
        assert probe.left_seconds == pytest.approx(86400, abs=60)

    run(script)


def test_a_policy_caps_both_also_when_it_comes_later(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient(0)
        core = daemon.app.core
        core.gate.store.policies = at_most(Stay(LONG, 9))
        backend = await daemon.attach(client)
        (probe,) = await insert(daemon, client, 2 * LONG)
        assert probe.end_rule == "policy p (p.toml:1)"
        assert probe.left_seconds is not None
        assert probe.left_seconds <= LONG
        assert probe.max_hits == 9
        assert backend.of(protocol.Insert)[-1].max_hits == 9
        core.gate.store.policies = at_most(Stay(max_hits=3))
        await core.enforcement.check_all()
        assert backend.of(protocol.Adjust)[-1].max_hits == 3
        (probe,) = (await daemon.query(client)).probes
        assert (probe.end_rule, probe.max_hits) == ("", 3)
        core.gate.store.policies = at_most(Stay(SOON))
        await core.enforcement.check_all()
        await asked(backend, protocol.Remove)
        while (await daemon.query(client)).probes:
            await asyncio.sleep(0)

    run(script)


def test_what_cannot_be_taken_out_is_tried_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dprobed.daemon.ends._RETRY", SOON)

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        backend.refuse(protocol.Remove, "not now")
        await insert(daemon, client, SOON)
        await asked(backend, protocol.Remove, 2)
        while (await daemon.query(client)).probes:
            await asyncio.sleep(0)

    run(script)


def test_what_its_deployment_could_not_take_out_is_taken_out_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dprobed.daemon.ends._RETRY", SOON)

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        (probe,) = await insert(daemon, client, LONG)
        core = daemon.app.core
        inserted = core.targets.by_pid[PID].programs[probe.number]
        term = msgspec.structs.replace(inserted.insertion.term, until=time.monotonic())
        over = msgspec.structs.replace(inserted.insertion, deployed=True, term=term)
        inserted.insertion = over  # type: ignore[misc]
        core.ends.due(time.monotonic())
        await asked(backend, protocol.Remove)

    run(script)


def test_a_program_that_has_had_all_its_hits_is_told_of_once(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        backend = await daemon.attach(client)
        (probe,) = await insert(daemon, client, None, keep=False)
        gone = status(probe.number, hits=4, ran=3)
        gone = msgspec.structs.replace(gone, state=protocol.State.DISABLED)
        for _ in range(2):
            backend.tell(protocol.Changed(PID, [gone]))
        (notice,) = client.heard(messages.Notice)
        assert notice.kind == "spent"

    with caplog.at_level(logging.INFO, "dprobed"):
        run(script)
    (line,) = [each for each in caplog.messages if "has ended" in each]
    assert line.endswith("x has ended: none of its probes fires any more; it ran 3 times")


def test_a_clock_that_jumps_ends_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What an administrator sets is another clock."""

    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient()
        await daemon.attach(client)
        (before,) = await insert(daemon, client, LONG)
        monkeypatch.setattr(time, "time", lambda: 1e12)
        (after,) = (await daemon.query(client)).probes
        assert before.left_seconds is not None
        assert after.left_seconds is not None
        assert before.left_seconds - after.left_seconds < 600

    run(script)
