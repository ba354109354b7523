"""Which daemon does what for whom: the table of requests, private daemons, own usage."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dprobed.daemon.app import build_private
from dprobed.daemon.client import Refusal
from dprobed.daemon.gate import Gate
from dprobed.daemon.resolver_process import Resolvers
from dprobed.daemon.usage import OwnUsage
from dprobed.policy.config import Config
from dprobed.policy.store import PolicyStore
from dprobed.wire import messages, protocol
from tests.fakes.backend import PID, FakeBackends, FakeClient, FakeDaemon, facts

Run = Callable[[Callable[[FakeDaemon], Awaitable[None]]], None]


def test_every_request_but_hello_is_in_the_table(run: Run) -> None:
    async def script(daemon: FakeDaemon) -> None:
        kinds = set(messages.Request.__args__) - {messages.Hello}
        assert daemon.app.table._rows.keys() == kinds

    run(script)


@pytest.mark.parametrize(
    "request_",
    [
        messages.Register(id=1, name="h", facility="f"),
        messages.Arm(id=1, names=["dump"]),
        messages.Disarm(id=1, names=["dump"]),
        messages.TraceStart(id=1, name="t"),
        messages.TraceStop(id=1, name="t"),
        messages.TraceSave(id=1, name="t"),
        messages.TraceList(id=1),
        messages.PolicyReload(id=1),
    ],
)
def test_what_is_for_root_in_roots_daemon(run: Run, request_: messages.Request) -> None:
    async def script(daemon: FakeDaemon) -> None:
        with pytest.raises(Refusal, match=r"only root|root's dprobed are root's"):
            await daemon.app.table.answer(FakeClient(1000), request_)

    run(script)


@pytest.mark.parametrize(
    "requests",
    [
        [messages.Register(id=1, name="h", facility="f", armed=False)],
        [messages.Disarm(id=1, names=["dump"]), messages.Arm(id=2, names=["dump"])],
        [
            messages.Register(id=1, name="h", facility="f"),
            messages.Deregister(id=2, name="h"),
        ],
    ],
)
def test_what_changes_at_hits_is_answered_when_the_tracers_know_it(
    run: Run, requests: list[messages.Request]
) -> None:
    """A hit that comes after the answer is served by it."""

    async def script(daemon: FakeDaemon) -> None:
        root = FakeClient(0)
        backend = await daemon.attach(root)
        for request in requests:
            pause = backend.pause(protocol.Facilities)
            answer = asyncio.ensure_future(daemon.app.table.answer(root, request))
            await pause.came.wait()
            for _ in range(10):
                await asyncio.sleep(0)
            assert not answer.done()
            pause.go.set()
            await answer

    run(script)


def test_what_the_daemon_of_one_command_does_not_do_it_says(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate(PolicyStore(Config(tmp_path), os.geteuid()), process={PID: facts(PID)}.get)
        ends: list[None] = []
        app = build_private(
            FakeBackends(), gate, Resolvers(), on_last_gone=lambda: ends.append(None)
        )
        client = FakeClient(1000)
        await app.table.answer(client, messages.Attach(id=1, pid=PID))
        status = await app.table.answer(client, messages.Query(id=1))
        assert isinstance(status, messages.Status)
        assert ([each.pid for each in status.targets], status.discovery) == ([PID], None)
        for request in (messages.Log(id=1), messages.PolicyList(id=1), messages.Usage(id=1)):
            with pytest.raises(Refusal, match=r"`\w+`: the dprobed of a single command does not"):
                await app.table.answer(client, request)
        await app.stop(1)

    asyncio.run(main())


def test_what_the_daemon_of_one_command_does_not_import() -> None:
    """It is to be ready at once."""
    code = "import sys, dprobed.daemon.private_service; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    there = set(done.stdout.split())
    for name in (
        "daemon.deploy",
        "daemon.recovery",
        "daemon.identity",
        "daemon.usage",
        "binary.elf",
    ):
        assert f"dprobed.{name}" not in there
    for name in ("records.log", "records.external", "records.trace_sessions", "policy_requests"):
        assert f"dprobed.daemon.{name}" not in there
    for name in ("parse", "source", "locate", "glob", "trust", "describe"):
        assert f"dprobed.policy.{name}" not in there
    assert not there & {
        "dprobed.trace",
        "dprobed.tracee",
        "ptrace",
        "elftools",
        "psutil",
        "tomllib",
        "dataclasses",
        "difflib",
    }
    assert "asyncio" in there


def test_usage_of_the_daemon_and_its_tracers() -> None:
    children = [subprocess.Popen(["sleep", "100"]) for _ in range(2)]
    tracer, resolver = (child.pid for child in children)
    try:
        usage = OwnUsage(frozenset({resolver})).usage
        info = asyncio.run(usage(FakeClient(1000), messages.Usage(id=3)))
        found = {each.pid: each for each in info.processes}
        assert info.processes[0].pid == os.getpid()
        whats = [found[pid].what for pid in (os.getpid(), tracer, resolver)]
        assert whats == ["daemon", "tracer", "resolver"]
        assert info.processes[0].cpu_seconds > 0
        assert all(found[pid].memory > 0 for pid in (os.getpid(), tracer, resolver))
    finally:
        for child in children:
            child.kill()
            child.wait()
