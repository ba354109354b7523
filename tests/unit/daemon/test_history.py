"""The audit: whatever is done to a process is one entry, with who, what, where and until when."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dprobed import systemd_journal
from dprobed.daemon.client import Forbidden, Refusal
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.wire import messages, protocol
from dprobed.wire.notices import NoticeKind
from tests.fakes.backend import PID, PROGRAM, FakeClient, FakeDaemon

Script = Callable[[FakeDaemon], Awaitable[None]]
Run = Callable[[Script], None]
ALTERS = encode(assemble("name = libc.so.6\noffset = getppid\npush r,rdx\npop r,rdx\nexit\n", "x"))
ROOT = Path(__file__).parents[3]


@pytest.fixture
def entries(run: Run, caplog: pytest.LogCaptureFixture) -> Callable[[Script], list[dict[str, Any]]]:
    """The events that a script makes, with their fields."""

    def entries(script: Script) -> list[dict[str, Any]]:
        with caplog.at_level(logging.INFO, "dprobed"):
            run(script)
        found = [vars(record) for record in caplog.records if hasattr(record, "DPROBE_EVENT")]
        return [
            {
                name.removeprefix("DPROBE_").lower(): value
                for name, value in each.items()
                if name.startswith("DPROBE_")
            }
            for each in found
        ]

    return entries


async def insert(daemon: FakeDaemon, client: FakeClient, code: bytes, **options: Any) -> None:
    upload = messages.Upload(label="x", bytecode=code, seconds=options.pop("seconds", None))
    request = messages.Insert(id=1, pid=PID, programs=[upload], **options)
    await daemon.ask(client, request, messages.Inserted)


def test_insertion_and_each_way_out(
    entries: Callable[[Script], list[dict[str, Any]]],
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client, other = FakeClient(), FakeClient()
        await daemon.attach(client)
        await insert(daemon, client, ALTERS, seconds=1000)
        await daemon.ask(client, messages.Detach(id=1, pid=PID), messages.Removed)
        await daemon.attach(other)
        await insert(daemon, other, PROGRAM, keep=True)
        await insert(daemon, other, PROGRAM, keep=True, present="replace")
        remove = messages.Remove(id=1, select=messages.Select(pid=PID))
        await daemon.ask(other, remove, messages.Removed)
        await insert(daemon, other, PROGRAM)
        daemon.app.core.detaching.release(other)
        while PID in daemon.app.core.targets.by_pid:
            await asyncio.sleep(0)

    found = entries(script)
    assert [each["event"] for each in found] == [
        "inserted", "removed", "inserted", "removed", "inserted", "removed", "inserted", "removed",
    ]  # fmt: skip
    assert {each["uid"] for each in found} == {"1000"}
    assert {each["pid"] for each in found} == {str(PID)}
    altering, plain = found[0], found[2]
    assert altering["rights"] == "observe, alter"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", altering["until"])
    assert altering["by_pid"] == str((1 << 22) + 1)
    assert (altering["program"], altering["number"], altering["probes"]) == ("x", "1", "1")
    assert plain["rights"] == "observe"
    assert [each["why"] for each in found if each["event"] == "removed"] == [
        "user 1000 detached",
        "user 1000 replaced it",
        "asked for",
        "its client has ended",
    ]


def test_what_happens_at_hits(entries: Callable[[Script], list[dict[str, Any]]]) -> None:
    async def script(daemon: FakeDaemon) -> None:
        client = FakeClient(0)
        backend = await daemon.attach(client)
        await insert(daemon, client, PROGRAM)
        held = "process 7 is held at a probe, thread 7: dprobe debug 7"
        backend.tell(protocol.Dumped(PID, PID, "/var/x.core"))
        backend.tell(protocol.NotDumped(PID, PID, "limit of 5 an hour", 1))
        backend.tell(protocol.NotDumped(PID, PID, "no room", 7))
        backend.tell(protocol.NoDebugger(PID, PID, "none connected within 5 s"))
        backend.tell(protocol.TargetEvent(NoticeKind.DEBUGGER, PID, PID, held))
        told = [(each.kind, each.text) for each in client.heard(messages.Notice)]
        assert told == [
            ("dump", "core: /var/x.core"),
            ("dump", "no dump: limit of 5 an hour"),
            ("dump", "no dump: no room (7 refused so far)"),
            ("debugger", "no debugger: none connected within 5 s"),
            ("debugger", held),
        ]

    found = entries(script)
    assert [each["event"] for each in found[1:3]] == ["dumped", "held"]
    assert found[1]["core"] == "/var/x.core"
    assert found[2]["tid"] == str(PID)


def test_each_event_is_documented() -> None:
    documented = (ROOT / "docs/service.md").read_text()
    assert [event for event in systemd_journal.EVENTS if f"`{event}`" not in documented] == []


def test_each_refusal_of_who_asks_is_one_entry(
    entries: Callable[[Script], list[dict[str, Any]]],
) -> None:
    async def script(daemon: FakeDaemon) -> None:
        own, other, root = FakeClient(1000), FakeClient(1001), FakeClient(0)

        async def refused(client: FakeClient, request: messages.Request) -> None:
            with pytest.raises(Forbidden):
                await daemon.ask(client, request, messages.Listing)

        await daemon.attach(root)
        await insert(daemon, root, PROGRAM)
        await refused(own, messages.Attach(id=1, pid=PID))  # in a tracer of root's
        await refused(own, messages.Attach(id=1, pid=own.pid))
        await refused(own, messages.TraceList(id=1))
        await refused(own, messages.Dump(id=1, pid=PID))
        await refused(own, messages.Resume(id=1, pid=PID))
        await refused(own, messages.Vars(id=1, number=1))
        await refused(own, messages.Remove(id=1, select=messages.Select(number=1)))
        selection = messages.Selection(exe="/none")
        uploads = [messages.Upload(label="far", bytecode=PROGRAM)]
        deploy = messages.Deploy(id=1, programs=uploads, selection=selection, keep=True)
        await daemon.ask(root, deploy, messages.Deployed)
        await refused(own, messages.Remove(id=1, select=messages.Select(label="far")))
        await daemon.attach(own, PID + 1)
        backend = daemon.backends.made[-1]
        backend.tell(protocol.DebuggerCame(PID + 1, 77, 0, True))
        backend.tell(protocol.DebuggerCame(PID + 1, 78, 1001, False))
        # What there is of nobody's is a mistake, and no entry.
        for request in (
            messages.Dump(id=1, pid=PID + 9),
            messages.Remove(id=1, select=messages.Select(number=99)),
        ):
            with pytest.raises(Refusal):
                await daemon.ask(other, request, messages.Listing)

    found = entries(script)[1:]
    wanted = [
        ("refused", "attach", "another user's tracer", str(PID)),
        ("refused", "attach", "dprobed itself", str((1 << 22) + 1)),
        ("refused", "tracelist", "root only", None),
        ("refused", "dump", "another user's target", str(PID)),
        ("refused", "resume", "another user's target", str(PID)),
        ("refused", "vars", "another user's program", None),
        ("refused", "remove", "another user's program", None),
        ("deployed", None, None, None),
        ("refused", "remove", "another user's program", None),
        ("debugged", "debugger", "debugger", str(PID + 1)),
        ("refused", "debugger", "debugger", str(PID + 1)),
    ]
    seen = [
        (each["event"], each.get("request"), each.get("why"), each.get("pid")) for each in found
    ]
    assert [each for each in seen if each[0] != "removed"] == wanted
    assert {each["uid"] for each in found if each["event"] == "refused"} == {"1000"}


def test_where_a_debugger_connects_is_a_plain_path(run: Run) -> None:
    """For gdb `| command` is a place to connect to, and the tracer runs as who asked for it."""

    async def script(daemon: FakeDaemon) -> None:
        await daemon.attach(FakeClient())
        target = daemon.app.core.targets.by_pid[PID]
        for path, shown in (
            ("/run/user/1000/dprobed-debug-a_b1/123", "/run/user/1000/dprobed-debug-a_b1/123"),
            ("| touch /tmp/x", ""),
            ("/a\nshell touch /tmp/x", ""),
            ("/a b", ""),
            ("x", ""),
        ):
            target.debugger = protocol.DebuggerStatus([1], path, False, 0.0, 0)
            info = target.info().debugger
            assert info is not None
            assert info.socket == shown

    run(script)
