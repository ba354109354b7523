"""Real processes in /proc, and the reasons for which tracing is refused."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from dprobed.proc import files, procfs, refusals
from dprobed.proc.shared_memory import shares_memory


class Child:
    """A forked process that says when it is ready, and waits."""

    def __init__(self, prepare: Callable[[], object] = lambda: None) -> None:
        said, say = os.pipe()
        wait, self._hold = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._hold)
            prepare()
            os.write(say, b"x")
            os.read(wait, 1)
            os._exit(0)
        os.close(say)
        os.close(wait)
        assert os.read(said, 1) == b"x"
        os.close(said)

    def end(self) -> None:
        """Let it go, and collect it."""
        if self._hold >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._hold, b"x")  # children forked later hold this pipe, too
            os.close(self._hold)
            self._hold = -1
            os.waitpid(self.pid, 0)


Fork = Callable[..., Child]


@pytest.fixture
def fork() -> Iterator[Fork]:
    made: list[Child] = []

    def begin(prepare: Callable[[], object] = lambda: None) -> Child:
        made.append(Child(prepare))
        return made[-1]

    yield begin
    for each in made:
        each.end()


def gone(fork: Fork) -> int:
    """A process id that nobody has."""
    child = fork()
    child.end()
    return child.pid


def name(text: bytes) -> None:
    ctypes.CDLL(None).prctl(15, text, 0, 0, 0)  # PR_SET_NAME


def test_status_of_ourselves() -> None:
    found = procfs.status(os.getpid())
    assert found is not None
    assert found.tgid == os.getpid()
    assert found.tracer == 0
    assert found.state == "R"
    assert found.uids[0] == os.getuid()
    assert found.gids[0] == os.getgid()


def test_signal_sets(fork: Fork) -> None:
    def prepare() -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        signal.raise_signal(signal.SIGHUP)

    found = procfs.status(fork(prepare).pid)
    assert found is not None

    def holds(signals: int, number: int) -> bool:
        return bool(signals >> (number - 1) & 1)

    assert holds(found.caught, signal.SIGUSR1)
    assert not holds(found.caught, signal.SIGUSR2)
    assert holds(found.ignored, signal.SIGUSR2)
    assert holds(found.blocked, signal.SIGHUP)
    assert holds(found.pending, signal.SIGHUP)
    assert not holds(found.pending, signal.SIGUSR1)


def test_a_name_with_everything_in_it(fork: Fork) -> None:
    """stat(5) ends the name with a parenthesis, which a name may hold itself."""
    child = fork(lambda: name(b") Z 1 ((\n x"))
    assert procfs.comm(child.pid) == b") Z 1 ((\n x"
    assert procfs.parent(child.pid) == os.getpid()
    assert procfs.run_state(child.pid) in ("R", "S")
    assert 0 <= procfs.cpu(child.pid) < 4096
    found = procfs.status(child.pid)
    assert found is not None
    assert found.tgid == child.pid


def test_what_is_gone(fork: Fork) -> None:
    pid = gone(fork)
    assert procfs.status(pid) is None
    assert procfs.comm(pid) == b""
    assert procfs.threads(pid) == []
    assert procfs.run_state(pid) == ""
    assert procfs.parent(pid) == 0
    assert procfs.cpu(pid) == -1
    assert procfs.auxv(pid) == {}
    assert files.elf_class(pid) is None
    assert procfs.children(pid) == []
    assert not shares_memory(os.getpid(), pid)
    assert refusals.refusal(pid) == f"process {pid} is gone (no such process)"


def test_threads_and_children(fork: Fork) -> None:
    child = fork()
    assert child.pid in procfs.children(os.getpid())
    assert procfs.threads(child.pid) == [child.pid]
    ready, done = threading.Event(), threading.Event()

    def work() -> None:
        ready.set()
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        assert thread.native_id in procfs.threads(os.getpid())
        assert shares_memory(os.getpid(), thread.native_id or 0)
        reason = refusals.refusal(thread.native_id or 0)
        assert reason is not None
        assert f"is a thread of process {os.getpid()}" in reason
    finally:
        done.set()
        thread.join()
    assert not shares_memory(os.getpid(), child.pid)


def test_the_auxiliary_vector() -> None:
    found = procfs.auxv(os.getpid())
    assert found[6] == 4096  # AT_PAGESZ
    assert found[11] == os.getuid()  # AT_UID


def test_a_zombie_is_refused(fork: Fork) -> None:
    child = fork()
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.run_state(child.pid) == "Z"
    reason = refusals.refusal(child.pid)
    assert reason is not None
    assert "zombie" in reason


@pytest.mark.parametrize("signals", [0, 1 << (signal.SIGUSR1 - 1)])
def test_threads_that_are_about_to_end_are_no_live_threads(
    monkeypatch: pytest.MonkeyPatch, signals: int
) -> None:
    """A process that ends tells each of its threads by a SIGKILL, which they find one by one."""
    dead, lives = 1 << 22, 1 << 23
    own = procfs.status(os.getpid())
    stat = procfs.stat_fields(os.getpid())
    assert own is not None and stat is not None
    pending = {lives: signals}
    monkeypatch.setattr(procfs, "stat_fields", lambda tid: stat if tid == lives else None)
    monkeypatch.setattr(procfs, "threads", lambda pid: [dead, lives])
    monkeypatch.setattr(procfs, "status", lambda tid: replace(own, pending=pending[tid]))
    assert procfs.live_thread(dead) == lives
    assert not procfs.has_ended(dead)
    pending[lives] |= 1 << (signal.SIGKILL - 1)
    assert procfs.live_thread(dead) == dead
    assert procfs.has_ended(dead)


def test_no_reason_to_refuse_a_child_of_ours(fork: Fork) -> None:
    child = fork()
    assert refusals.refusal(child.pid) is None
    assert files.elf_class(child.pid) == 64


def test_ourselves_are_refused() -> None:
    assert refusals.refusal(os.getpid()) == "a tracer cannot trace itself"


def test_a_traced_process_is_refused_with_its_tracer(fork: Fork) -> None:
    def be_traced() -> None:
        assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0  # PTRACE_TRACEME

    child = fork(be_traced).pid
    reason = refusals.refusal(child)
    assert reason is not None
    assert f"already traced by process {os.getpid()}" in reason
    # Whoever traces may call itself what it likes: a refusal is one line.
    before = Path("/proc/self/comm").read_text()
    Path("/proc/self/comm").write_text("evil\nname")
    try:
        reason = refusals.refusal(child)
    finally:
        Path("/proc/self/comm").write_text(before.rstrip("\n"))
    assert reason is not None
    assert f"by process {os.getpid()} (evil\\nname)" in reason


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_the_rule_that_denies(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    """As seen by an unprivileged user, whom we only pretend to be."""
    real = procfs.status
    own = real(os.getpid())
    assert own is not None

    def as_user(pid: int) -> procfs.Status | None:
        found = real(pid)
        if pid != os.getpid() or found is None:
            return found
        return procfs.Status(
            **{
                field: getattr(found, field)
                for field in procfs.Status.__struct_fields__
                if field not in ("uids", "gids", "capabilities")
            },
            uids=(1000,) * 4,
            gids=(1000,) * 4,
            capabilities=0,
        )

    def become(uid: int, gid: int) -> Callable[[], None]:
        def prepare() -> None:
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)

        return prepare

    monkeypatch.setattr(procfs, "status", as_user)
    assert "uid: it runs as uid 0, we as 1000" in refusals.denial(fork().pid)
    assert "uid: it runs as uid 1001" in refusals.denial(fork(become(1001, 1000)).pid)
    assert "gid: it runs as gid 1001" in refusals.denial(fork(become(1000, 1001)).pid)
    # Who gave up another identity is not dumpable any more.
    same = fork(become(1000, 1000))
    assert "dumpable" in refusals.denial(same.pid)
    monkeypatch.setattr(refusals, "dumpable", lambda pid, uid: True)
    for scope in (1, 2, 3):
        monkeypatch.setattr(refusals, "yama_scope", lambda scope=scope: scope)
        assert f"ptrace_scope is {scope}" in refusals.denial(same.pid)
    monkeypatch.setattr(refusals, "yama_scope", lambda: 0)
    assert "none of the rules" in refusals.denial(same.pid)
