"""Hearing of processes, and which modules they map: with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from dprobed.daemon.deploy import watcher
from dprobed.daemon.deploy.deployment import kind_of
from dprobed.daemon.deploy.modules import Modules
from dprobed.daemon.deploy.selection import SelectionError, Selector
from dprobed.daemon.deploy.watcher import LookResult, Watcher
from dprobed.daemon.resolver_process import Resolvers
from dprobed.proc import connector, polling, procfs
from dprobed.proc.connector import Connector, event_of, listening
from dprobed.proc.events import EventKind
from dprobed.proc.polling import Polling
from dprobed.wire import messages
from tests.conftest import BuildTarget
from tests.leftovers import ended

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the kernel tells root only")
PATIENCE = 60.0


class Heard:
    """Whoever hears of processes writes it down."""

    def __init__(self) -> None:
        self.events: list[tuple[EventKind, int]] = []
        self.lost = 0

    def on_event(self, kind: EventKind, pid: int, parent: int = 0) -> None:
        self.events.append((kind, pid))

    def on_lost(self) -> None:
        self.lost += 1

    def of(self, pid: int) -> list[EventKind]:
        return [kind for kind, each in self.events if each == pid]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


@as_root
def test_the_kernel_tells_of_processes() -> None:
    async def listen() -> list[EventKind]:
        heard = Heard()
        source = Connector(heard)
        source.start()
        child = subprocess.Popen(["true"])
        child.wait()
        await until(lambda: EventKind.EXIT in heard.of(child.pid))
        source.stop()
        return heard.of(child.pid)

    assert asyncio.run(listen()) == [EventKind.FORK, EventKind.EXEC, EventKind.EXIT]


@as_root
def test_events_that_the_kernel_dropped_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "_BUFFER", 4096)

    async def listen() -> int:
        heard = Heard()
        source = Connector(heard)
        source.start()
        for _ in range(20):  # Nobody reads meanwhile.
            subprocess.run(["true"], check=True)
        await until(lambda: heard.lost)
        children: list[int] = []

        def is_one_heard() -> bool:
            # With so little room that of one may be lost again where others are at work.
            with subprocess.Popen(["true"]) as child:
                children.append(child.pid)
            return any(EventKind.EXIT in heard.of(pid) for pid in children)

        await until(is_one_heard)
        source.stop()
        return heard.lost

    assert asyncio.run(listen()) >= 1


def datagrams(sock: socket.socket) -> Iterator[bytes]:
    """What is waiting."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield sock.recv(4096)


@as_root
def test_threads_do_not_take_the_room_of_processes() -> None:
    with listening() as sock:
        for _ in range(50):
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
        child = subprocess.Popen(["true"])
        child.wait()
        waiting = list(datagrams(sock))
    assert waiting
    events = [event for each in waiting if (event := event_of(each)) is not None]
    assert len(events) == len(waiting)
    assert [kind for kind, pid, _ in events if pid == child.pid] == [
        EventKind.FORK,
        EventKind.EXEC,
        EventKind.EXIT,
    ]


@as_root
@pytest.mark.parametrize("change", ["--reuid", "--regid"])
def test_only_what_is_asked_for_is_heard(change: str) -> None:
    with listening({EventKind.UID}) as sock:
        child = subprocess.Popen(["setpriv", change, "65534", "--clear-groups", "true"])
        child.wait()
        events = [event_of(each) for each in datagrams(sock)]
    assert (EventKind.UID, child.pid, 0) in events
    assert {event[0] for event in events if event is not None} == {EventKind.UID}
    assert None not in events


def event(what: int, *numbers: int) -> bytes:
    """A datagram of the connector: netlink header, connector header, event."""
    return bytes(36) + struct.pack("=IIQ4I", what, 0, 0, *numbers) + bytes(8)


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (event(0x1, 10, 10, 20, 20), (EventKind.FORK, 20, 10)),
        (event(0x1, 10, 10, 21, 10), None),  # a thread
        (event(0x2, 20, 20, 0, 0), (EventKind.EXEC, 20, 0)),
        (event(0x4, 20, 20, 1, 1), (EventKind.UID, 20, 0)),
        (event(0x40, 20, 20, 1, 1), (EventKind.UID, 20, 0)),
        (event(0x80000000, 20, 20, 0, 17), (EventKind.EXIT, 20, 0)),
        (event(0x80000000, 21, 20, 0, 17), None),
        (event(0x200, 20, 20, 0, 0), None),
        (event(0x1, 10, 10, 20, 20)[:60], None),
    ],
)
def test_datagrams(datagram: bytes, expected: tuple[EventKind, int, int] | None) -> None:
    assert event_of(datagram) == expected


def test_polling_tells_of_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(polling, "INTERVAL", 0.01)
    shutil.copy("/bin/cat", tmp_path / "other")

    async def listen() -> None:
        heard = Heard()
        source = Polling(heard)
        child = subprocess.Popen(
            ["sh", "-c", 'read x; exec "$0"', tmp_path / "other"], stdin=subprocess.PIPE
        )
        assert child.stdin is not None
        await until(lambda: Path(f"/proc/{child.pid}/exe").readlink().name != running)
        source.start()
        later = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        await until(lambda: heard.of(later.pid))
        child.stdin.write(b"\n")
        child.stdin.flush()
        await until(lambda: heard.of(child.pid))
        for each in (child, later):
            await asyncio.to_thread(each.communicate)
            await until(lambda each=each: EventKind.EXIT in heard.of(each.pid))  # type: ignore[misc]
        source.stop()
        assert heard.of(child.pid) == [EventKind.EXEC, EventKind.EXIT]
        assert heard.of(later.pid)[0] is EventKind.FORK

    running = Path("/proc/self/exe").readlink().name
    asyncio.run(listen())


class Looks:
    """A judge that always says the same."""

    def __init__(self, verdict: LookResult) -> None:
        self.verdict = verdict
        self.looks: list[tuple[int, EventKind | None]] = []
        self.times: list[float] = []
        self.ends: list[tuple[int, bool]] = []

    def look(self, pid: int, kind: EventKind | None, parent: int) -> LookResult:
        self.looks.append((pid, kind))
        self.times.append(asyncio.get_running_loop().time())
        return self.verdict

    def ended(self, pid: int, looked_at: bool) -> None:
        self.ends.append((pid, looked_at))


@pytest.mark.parametrize(
    ("verdict", "looks", "looked_at"),
    [
        (LookResult.SETTLED, 1, True),
        (LookResult.LATER, 1, True),
        (LookResult.OTHER, 1, True),
        (LookResult.GONE, 1, False),
    ],
)
def test_what_is_settled_is_left_alone(verdict: LookResult, looks: int, looked_at: bool) -> None:
    async def judge() -> Looks:
        judge = Looks(verdict)
        watcher = Watcher(judge)
        watcher.on_event(EventKind.EXEC, 1 << 22)
        other = Looks(LookResult.SOON)
        beside = Watcher(other)
        beside.on_event(EventKind.EXEC, 1 << 22)
        await until(lambda: len(other.looks) == 5)
        beside.stop()
        watcher.on_event(EventKind.EXIT, 1 << 22)
        watcher.stop()
        return judge

    found = asyncio.run(judge())
    assert found.looks == [(1 << 22, EventKind.EXEC)] * looks
    assert found.ends == [(1 << 22, looked_at)]


def test_the_end_of_the_first_thread_need_not_be_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the last thread's nobody tells: that nothing is there any more is seen."""
    monkeypatch.setattr(procfs, "has_ended", lambda pid: False)

    async def judge() -> None:
        judge = Looks(LookResult.LATER)
        watcher = Watcher(judge)
        watcher.on_event(EventKind.EXEC, 1 << 22)
        watcher.on_event(EventKind.EXIT, 1 << 22)
        await until(lambda: len(judge.looks) == 2)
        assert judge.ends == []
        judge.verdict = LookResult.GONE
        watcher.again(1 << 22)
        await until(lambda: judge.ends)
        assert judge.ends == [(1 << 22, True)]
        watcher.stop()

    monkeypatch.setattr("dprobed.daemon.deploy.watcher.SLOWEST", 0.01)
    asyncio.run(judge())


def test_children_of_what_nobody_looks_for_are_not_looked_at() -> None:
    async def judge() -> Looks:
        judge = Looks(LookResult.OTHER)
        watcher = Watcher(judge)
        parent, child = (1 << 22) - 1, 1 << 22
        watcher.on_event(EventKind.EXEC, parent)
        watcher.on_event(EventKind.FORK, child, parent)
        watcher.on_event(EventKind.EXIT, child)
        watcher.on_event(EventKind.FORK, child, parent)
        watcher.on_event(EventKind.EXEC, child)
        judge.verdict = LookResult.GONE
        watcher.on_event(EventKind.EXEC, parent)
        watcher.on_event(EventKind.EXIT, child)
        watcher.on_event(EventKind.FORK, child, parent)
        watcher.on_event(EventKind.EXIT, child)
        watcher.stop()
        return judge

    parent, child = (1 << 22) - 1, 1 << 22
    found = asyncio.run(judge())
    assert found.looks == [
        (parent, EventKind.EXEC),
        (child, EventKind.EXEC),
        (parent, EventKind.EXEC),
        (child, EventKind.FORK),
    ]
    assert found.ends == [(child, True), (child, True), (child, False)]


def test_what_may_change_soon_is_looked_at_ever_more_rarely() -> None:
    async def judge() -> list[float]:
        judge = Looks(LookResult.SOON)
        watcher = Watcher(judge)
        watcher.on_event(EventKind.EXEC, 1 << 22)
        await until(lambda: len(judge.looks) >= 6)
        watcher.on_event(EventKind.EXIT, 1 << 22)
        return [late - early for early, late in pairwise(judge.times)]

    gaps = asyncio.run(judge())
    assert all(gap >= 0.9 * watcher.FIRST * 2**count for count, gap in enumerate(gaps))


def test_a_rescan_tells_of_what_ended_meanwhile() -> None:
    async def judge() -> Looks:
        judge = Looks(LookResult.SETTLED)
        watcher = Watcher(judge)
        watcher.on_event(EventKind.EXEC, 1 << 22)
        watcher.on_lost()
        await until(lambda: any(pid == os.getpid() for pid, _ in judge.looks))
        assert watcher.lost == 1
        watcher.stop()
        return judge

    assert asyncio.run(judge()).ends == [(1 << 22, True)]


def with_modules(judge: Callable[[Modules], Coroutine[None, None, None]]) -> None:
    """Judge by modules that have resolvers to ask."""

    async def main() -> None:
        resolvers = Resolvers()
        await judge(Modules(resolvers, lambda pid: None))
        resolvers.stop()
        await ended(resolvers)

    asyncio.run(asyncio.wait_for(main(), 60))


async def known(
    modules: Modules,
    method: Callable[[int, Collection[str]], set[str]],
    pid: int,
    names: Collection[str],
) -> set[str]:
    """What is said of a process when all that had to be asked is answered."""
    method(pid, names)
    await modules.settled()
    found = method(pid, names)
    await modules.settled()
    return found


def test_modules_that_are_mapped_and_those_that_will_be(build_target: BuildTarget) -> None:
    library = build_target("plug.c", "-shared", "-fPIC", "-Wl,-soname,libsoname.so.1")
    names = ["libc.so.6", library.name, "libsoname.so.1", str(library), "none.so", "loads"]
    program = build_target("loads.c", "-ldl")

    async def judge(pid: int, modules: Modules) -> None:
        assert await known(modules, modules.mapped, pid, names) == {"libc.so.6"}
        # Linked with it: every process of this program is going to map it.
        assert await known(modules, modules.expected, pid, names) == {"libc.so.6"}
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"loaded\n"
        opened = {"libsoname.so.1", library.name, str(library)}
        assert await known(modules, modules.mapped, pid, names) == {"libc.so.6"} | opened
        # Opened by this process: that says nothing of the next one.
        assert await known(modules, modules.expected, pid, names) == {"libc.so.6"}

    with subprocess.Popen(
        [program, library], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        with_modules(lambda modules: judge(child.pid, modules))
        child.stdin.write(b"\n\n")
        child.communicate()


def test_a_library_that_another_one_needs_is_expected_after_the_first_time(
    build_target: BuildTarget, tmp_path: Path
) -> None:
    inner = build_target(
        "plug.c", "-shared", "-fPIC", "-Wl,-soname,libinner.so", output="libinner.so"
    )
    source = tmp_path / "outer.c"
    source.write_text("long plugged(long); long outer(long n) { return plugged(n); }\n")
    outer = tmp_path / "libouter.so"
    gcc = ["gcc", "-Wl,--no-as-needed", f"-Wl,-rpath,{tmp_path}:{inner.parent}"]
    subprocess.run(
        [*gcc, "-shared", "-fPIC", "-Wl,-soname,libouter.so", "-o", outer, source, inner],
        check=True,
    )
    source.write_text(
        "#include <unistd.h>\nint main(void) { char c; return read(0, &c, 1) != 0; }\n"
    )
    main = tmp_path / "main"
    subprocess.run([*gcc, "-o", main, source, outer], check=True)
    names = ["libinner.so", "libouter.so"]

    async def judge(pid: int, modules: Modules) -> None:
        assert await known(modules, modules.expected, pid, names) == {"libouter.so"}
        assert await known(modules, modules.mapped, pid, names) == set(names)
        assert await known(modules, modules.expected, pid, names) == set(names)

    with subprocess.Popen([main], stdin=subprocess.PIPE) as child:
        while "libinner.so" not in Path(f"/proc/{child.pid}/maps").read_text():
            pass
        with_modules(lambda modules: judge(child.pid, modules))
        child.communicate()


def test_selections() -> None:
    def may(exe: str, *paths: str) -> bool:
        return Selector(messages.Selection(exe=exe)).may_select(paths)

    assert may("nginx", "/usr/sbin/nginx")
    assert not may("nginx", "/opt/nginx/other")
    assert may("python3*", "/usr/bin/python3.11")
    assert may("/usr/*/nginx", "/usr/sbin/nginx")
    assert may("/bin/x", "/srv/box/bin/x", "/bin/x")
    assert not may("/bin/x", "/srv/box/bin/x")
    assert Selector(messages.Selection()).may_select(["/any"])
    with pytest.raises(SelectionError, match="there is no user `nobody-of-that-name`"):
        Selector(messages.Selection(user="nobody-of-that-name"))


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (
            "process 7 (cat) is already traced by process 9 (gdb): a process has one tracer",
            "already traced by gdb",
        ),
        ("process 7 (x) is a 32-bit program: only x86-64 …", "a 32-bit program"),
        (
            "its child 21360 (sh) shares its memory (vfork or CLONE_VM) and would run into",
            "its child sh shares its memory (vfork or CLONE_VM) and would run into",
        ),
        ("over the limit (3)", "over the limit (3)"),
    ],
)
def test_refusals_of_a_kind_are_counted_together(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind
