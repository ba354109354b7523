"""A traced process without any probe: attach, stop the world, remote system calls, detach."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from dprobed.arch.x86_64.registers import RIP
from dprobed.arch.x86_64.resume_and_wait import STATUS, TRAP_STATUS
from dprobed.arch.x86_64.syscalls import SYS_CLONE, SYS_MMAP, SYS_MUNMAP
from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.attach import attach, find_lost
from dprobed.tracee.clone import child_of
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone, PtraceError, Registers
from dprobed.tracee.signals import SIGTRAP_SET, is_pending
from dprobed.tracee.status import Kind, Stop
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracee.tracees import Tracees, is_ours

SYS_PAUSE = 34
SYS_GETPID = 39
#: SIGALRM is the tick of who stops the world.
pytestmark = pytest.mark.timeout(method="thread")


class Watcher:
    """Nothing is done about stops but to note them."""

    def __init__(self) -> None:
        self.traps: list[int] = []
        self.signals: list[int] = []
        self.begun: list[tuple[int, bool]] = []
        self.forks: list[int] = []
        self.images: list[int] = []
        self.ends: list[tuple[int, Stop]] = []

    def serve_hit(self, thread: Thread, now: int) -> bool:
        return False

    def rewind(self, thread: Thread) -> None:
        thread.rewound = False

    def serve_trap(self, thread: Thread) -> None:
        self.traps.append(thread.tid)

    def abandon(self, thread: Thread) -> None:
        raise AssertionError("no stop is lost")

    def deliver(self, thread: Thread) -> None:
        self.signals.append(thread.signal)

    def forked(self, thread: Thread, child: int) -> None:
        self.forks.append(child)

    def begin(self, thread: Thread, shares_memory: bool) -> None:
        self.begun.append((thread.tid, shares_memory))

    def new_image(self, thread: Thread) -> None:
        self.images.append(thread.tid)

    def is_fork_copy(self, pid: int) -> bool:
        return False

    def forgotten(self, thread: Thread, stop: Stop) -> None:
        self.ends.append((thread.tid, stop))


class Child:
    """A process that answers each byte that it reads with one that it writes."""

    def __init__(self, does: Callable[[], object] = lambda: None) -> None:
        theirs, self._ours = os.pipe()
        self._answers, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._ours)
            while os.read(theirs, 1):
                does()
                os.write(answer, b"x")
            os._exit(7)
        os.close(theirs)
        os.close(answer)

    def ask(self) -> None:
        os.write(self._ours, b"x")

    def answers(self, seconds: float = 60.0) -> bool:
        """Whether it answers within that time."""
        if not select.select([self._answers], [], [], seconds)[0]:
            return False
        return os.read(self._answers, 1) == b"x"

    def end(self) -> None:
        os.close(self._ours)
        os.close(self._answers)


class Lab:
    """A child that is traced."""

    def __init__(self, does: Callable[[], object] = lambda: None) -> None:
        self.child = Child(does)
        self.pid = self.child.pid
        self.watcher = Watcher()
        self.tracees = Tracees()
        self.group = ThreadGroup(self.watcher, self.tracees)
        self.tracees.groups.append(self.group)
        attach(self.group, self.pid)

    def serve_until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline
            self.tracees.drain()
            time.sleep(0.001)

    def asleep(self) -> None:
        """Until it waits in ``read``."""
        self.serve_until(lambda: procfs.run_state(self.pid) == "S")

    def gate(self, thread: Thread) -> int:
        """The ``syscall`` instruction that the child has stopped behind."""
        return Registers().load(thread.tid)[RIP] - 2

    def detach(self) -> None:
        with self.group.stopped():
            self.group.detach_all()
        assert not self.tracees.threads


@pytest.fixture
def lab() -> Iterator[Callable[..., Lab]]:
    made: list[Lab] = []
    handler = signal.signal(signal.SIGALRM, lambda number, frame: None)

    def begin(does: Callable[[], object] = lambda: None) -> Lab:
        made.append(Lab(does))
        return made[-1]

    yield begin
    for each in made:
        each.child.end()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it was killed already
            os.kill(each.pid, signal.SIGKILL)
            while not os.WIFSIGNALED(os.waitpid(each.pid, 0)[1]):
                pass
    signal.signal(signal.SIGALRM, handler)


def test_attached_and_detached_it_goes_on(lab: Callable[..., Lab]) -> None:
    made = lab()
    (thread,) = made.group.threads.values()
    assert (thread.tid, thread.state, thread.group) == (made.pid, State.RUNNING, made.group)
    assert is_ours(made.pid)
    made.child.ask()
    assert made.child.answers()
    made.detach()
    assert not is_ours(made.pid)
    made.child.ask()
    assert made.child.answers()
    assert not made.watcher.signals and not made.watcher.traps and not made.watcher.ends


def test_attach_is_refused() -> None:
    other = ThreadGroup(Watcher(), Tracees())
    with pytest.raises(PtraceError):
        attach(other, os.getpid())
    with pytest.raises(Gone):
        attach(other, (1 << 22) + 1)
    assert not other.threads


def test_while_the_world_is_stopped_nothing_runs(lab: Callable[..., Lab]) -> None:
    made = lab()
    with made.group.stopped() as unstoppable:
        assert not unstoppable
        assert made.group.is_stopped
        made.child.ask()
        assert not made.child.answers(0.05)
        with made.group.stopped():
            assert made.group.is_stopped
        assert not made.child.answers(0.05)
    assert not made.group.is_stopped
    assert made.child.answers()


@pytest.mark.parametrize("asked", [False, True])
def test_a_remote_system_call_leaves_nothing_behind(lab: Callable[..., Lab], asked: bool) -> None:
    """The child sleeps in ``read``, which is restarted as if nothing had been."""
    made = lab()
    made.asleep()
    with made.group.borrower.borrowed(made.pid) as thread:
        if asked:
            made.child.ask()
        before, mask = bytes(load(thread)), ptrace.get_sigmask(thread.tid)
        gate = made.gate(thread)
        assert made.group.remote.make(thread, gate, SYS_GETPID) == made.pid
        there = made.group.remote.make(thread, gate, SYS_MMAP, 0, 4096, 1, 0x22, (1 << 64) - 1, 0)
        assert there > 0
        assert made.group.remote.make(thread, gate, SYS_MUNMAP, there, 4096) == 0
        assert made.group.remote.make(thread, gate, SYS_MUNMAP, 1, 4096) == -22  # EINVAL
        assert (bytes(load(thread)), ptrace.get_sigmask(thread.tid)) == (before, mask)
        assert not thread.in_syscall
    if not asked:
        made.child.ask()
    assert made.child.answers()
    made.detach()


def load(thread: Thread) -> bytearray:
    registers = Registers()
    registers.load(thread.tid)
    return registers.data


def test_a_signal_that_comes_meanwhile_is_delivered_afterwards(lab: Callable[..., Lab]) -> None:
    made = lab()
    made.asleep()
    with made.group.borrower.borrowed(made.pid) as thread:
        os.kill(made.pid, signal.SIGWINCH)
        os.kill(made.pid, signal.SIGCONT)
        assert made.group.remote.make(thread, made.gate(thread), SYS_GETPID) == made.pid
        assert not is_pending(thread.tid, SIGTRAP_SET)
        assert not made.watcher.signals
    made.serve_until(lambda: len(made.watcher.signals) == 2)
    assert set(made.watcher.signals) == {signal.SIGWINCH, signal.SIGCONT}
    made.child.ask()
    assert made.child.answers()


def test_a_stop_that_cannot_be_is_told_and_the_thread_goes_on(
    lab: Callable[..., Lab], caplog: pytest.LogCaptureFixture
) -> None:
    made = lab()
    (thread,) = made.group.threads.values()
    ptrace.interrupt(thread.tid)
    os.waitpid(thread.tid, 0)
    thread.state = State.STARTING
    made.group.dispatch(thread, Stop(Kind.OTHER, 0))
    assert caplog.messages == [
        f"internal error: thread {made.pid} stopped (other) while it was starting; it goes on"
    ]
    made.child.ask()
    assert made.child.answers()
    made.detach()


def test_a_group_stop_is_gone_back_to(lab: Callable[..., Lab]) -> None:
    made = lab()
    made.asleep()
    os.kill(made.pid, signal.SIGSTOP)
    (thread,) = made.group.threads.values()
    made.serve_until(lambda: thread.state is State.LISTENING)
    with made.group.borrower.borrowed(made.pid) as borrowed:
        assert borrowed is thread
        assert made.group.remote.make(thread, made.gate(thread), SYS_GETPID) == made.pid
    made.serve_until(lambda: thread.state is State.LISTENING)
    made.child.ask()
    assert not made.child.answers(0.05)
    os.kill(made.pid, signal.SIGCONT)
    made.serve_until(lambda: made.child.answers(0))


def test_a_fault_that_is_pending_is_collected(lab: Callable[..., Lab]) -> None:
    """The kernel reports our interrupt first; the fault's stop follows at once, and is not lost."""
    made = lab()
    made.asleep()
    with made.group.stopped():
        (thread,) = made.group.threads.values()
        # Of the thread, as one that it raised itself.
        assert ctypes.CDLL(None).tgkill(made.pid, thread.tid, signal.SIGSEGV) == 0
        made.group.borrower.collect(thread)
        assert (thread.signal, thread.state) == (signal.SIGSEGV, State.STOPPED)
        assert made.watcher.signals == [signal.SIGSEGV]
        thread.signal = 0
    made.child.ask()
    made.serve_until(lambda: made.child.answers(0))


def test_a_remote_clone_is_no_tracee_of_the_group(lab: Callable[..., Lab]) -> None:
    made = lab()
    made.asleep()
    with made.group.borrower.borrowed(made.pid) as thread:
        inner = made.group.remote.make(thread, made.gate(thread), SYS_CLONE, 0, 0, 0, 0, 0)
        copy = made.group.remote.take_child()
        assert copy is not None and copy.tid == inner
        assert copy.tid not in made.tracees.threads
        assert made.group.remote.take_child() is None
        assert made.group.remote.make(copy, made.gate(thread), SYS_GETPID) == copy.tid
        os.kill(copy.tid, signal.SIGKILL)
    made.serve_until(lambda: procfs.run_state(copy.tid) in ("Z", ""))


def test_a_fork_child_is_traced_from_its_first_instruction(lab: Callable[..., Lab]) -> None:
    made = lab(fork_and_wait)
    made.child.ask()
    made.serve_until(lambda: made.child.answers(0))
    ((forked, shares),) = made.watcher.begun
    assert made.watcher.forks == [forked]
    assert not shares
    assert (forked, Stop(Kind.EXITED, 3)) in made.watcher.ends


def fork_and_wait() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    os.waitpid(pid, 0)


def test_killed_while_the_world_is_stopped(lab: Callable[..., Lab]) -> None:
    made = lab()
    made.asleep()
    with made.group.borrower.borrowed(made.pid) as thread:
        gate = made.gate(thread)
        os.kill(made.pid, signal.SIGKILL)
        while procfs.run_state(made.pid) != "Z":
            os.sched_yield()
        with pytest.raises(Gone):
            made.group.remote.make(thread, gate, SYS_GETPID)
        with pytest.raises(Gone):
            child_of(thread.tid, Registers())
    made.serve_until(lambda: not made.tracees.threads)
    assert made.watcher.ends == [(made.pid, Stop(Kind.KILLED, signal.SIGKILL))]


def test_threads_lost_by_an_internal_error_are_found_again(lab: Callable[..., Lab]) -> None:
    made = lab()
    made.group.drop(made.pid)
    find_lost(made.group, made.pid)
    (thread,) = made.group.threads.values()
    assert thread.state is State.RUNNING
    made.detach()


def test_registers_of_a_hit_stay_while_others_are_served() -> None:
    """A thread that does something for us may take long, in the middle of its own hit."""
    lab, other = Lab(), Lab()
    lab.tracees.pause(0)
    (thread,) = other.group.threads.values()
    other.group.drop(thread.tid)
    lab.tracees.threads[thread.tid] = other.group.threads[thread.tid] = thread
    asked: list[int] = []

    def serve_hit(thread: Thread, now: int) -> bool:
        asked.append(thread.tid)
        os.kill(lab.pid, signal.SIGUSR1)
        return False

    other.watcher.serve_hit = serve_hit  # type: ignore[method-assign]
    words = lab.tracees.hits.registers.words
    words[RIP] = 1
    os.kill(other.pid, signal.SIGTRAP)
    assert lab.tracees.await_stop(lab.pid, 60.0)
    assert asked == [other.pid]
    assert words[RIP] == 1
    for each in (lab, other):
        os.kill(each.pid, signal.SIGKILL)
        os.waitpid(each.pid, 0)
        each.child.end()


def test_who_serves_hits_of_others_meanwhile_can_see_that(lab: Callable[..., Lab]) -> None:
    """A remote system call that does not end: hits are served, and make none."""
    other = Lab()
    made = lab()
    made.asleep()
    made.tracees.threads[other.pid] = other.group.threads[other.pid]
    seen: list[bool] = []

    def serve_hit(thread: Thread, now: int) -> bool:
        seen.append(made.group.borrower.is_waiting)
        return True  # and it hits again at once: its stop stays

    other.watcher.serve_hit = serve_hit  # type: ignore[method-assign]
    os.kill(other.pid, signal.SIGTRAP)
    while procfs.run_state(other.pid) != "t":
        os.sched_yield()
    with made.group.borrower.borrowed(made.pid) as thread:
        seen.clear()
        assert made.group.remote.make(thread, made.gate(thread), SYS_PAUSE) < 0
        assert set(seen) == {True}
        assert not made.group.borrower.is_waiting
    del made.tracees.threads[other.pid]
    os.kill(other.pid, signal.SIGKILL)
    os.waitpid(other.pid, 0)
    other.child.end()
    made.child.ask()
    made.serve_until(lambda: made.child.answers(0))
    made.detach()


def test_a_stopped_child_of_ours_hides_no_tracee(lab: Callable[..., Lab]) -> None:
    """Who writes a core is a child of the tracer, and anybody of its user can stop it."""
    made = lab()
    made.asleep()
    writer = os.fork()
    if writer == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitid(os.P_PID, writer, os.WSTOPPED | os.WNOWAIT)
        os.kill(made.pid, signal.SIGWINCH)
        assert made.tracees.wait(made.group)
        assert made.watcher.signals == [signal.SIGWINCH]
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    made.detach()


def test_stops_of_who_waits_are_found_among_those_of_others(lab: Callable[..., Lab]) -> None:
    """The kernel shows another target's stop first, each time: of our own children the oldest's."""
    other = Lab()
    made = lab()
    made.asleep()
    thread = other.group.threads[other.pid]
    made.group.tracees.threads[other.pid] = thread

    def serve_hit(thread: Thread, now: int) -> bool:
        return True  # and it hits again at once: its stop stays

    other.watcher.serve_hit = serve_hit  # type: ignore[method-assign]
    os.kill(other.pid, signal.SIGTRAP)
    while procfs.run_state(other.pid) != "t":
        os.sched_yield()
    with made.group.stopped() as unstoppable:
        assert unstoppable == []
        assert made.group.threads[made.pid].state is State.STOPPED
    os.kill(made.pid, signal.SIGWINCH)
    assert made.tracees.await_stop(made.pid, 60.0)
    ptrace.cont(made.pid)
    del made.tracees.threads[other.pid]
    os.kill(other.pid, signal.SIGKILL)
    os.waitpid(other.pid, 0)
    other.child.end()
    made.detach()


@pytest.mark.parametrize("alone", [False, True])
def test_a_stop_of_the_same_target_that_was_deferred_meanwhile_is_reacted_to(
    lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """While the world is being stopped, one thread does something for us, and others stop.

    ``alone``: it is found only where each thread is looked at.
    """
    made = lab()
    other = Child()
    attach(made.group, other.pid)
    made.serve_until(lambda: {procfs.run_state(each.pid) for each in (made.child, other)} == {"S"})
    if alone:
        monkeypatch.setattr(made.tracees, "dispatch_deferred", lambda group=None: False)

    def deliver(thread: Thread) -> None:
        made.watcher.signals.append(thread.signal)
        while thread.tid == made.pid and not made.tracees.attention:
            made.tracees.pause(0)

    made.watcher.deliver = deliver  # type: ignore[method-assign]
    for child, number in ((made.child, signal.SIGWINCH), (other, signal.SIGURG)):
        os.kill(child.pid, number)
        while procfs.run_state(child.pid) != "t":
            os.sched_yield()
    with made.group.stopped() as unstoppable:
        assert unstoppable == []
        assert made.watcher.signals == [signal.SIGWINCH, signal.SIGURG]
        for tid, number in ((made.pid, signal.SIGWINCH), (other.pid, signal.SIGURG)):
            thread = made.group.threads[tid]
            assert (thread.state, thread.signal) == (State.STOPPED, number)
    made.detach()
    other.ask()
    assert other.answers()
    other.end()
    os.waitpid(other.pid, 0)


def test_what_is_there_already_comes_to_an_end(
    lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that hit all the time make new stops while the old ones are dispatched."""
    made = lab()
    made.asleep()
    assert made.tracees.drain()
    with monkeypatch.context() as patch:
        made.tracees.hits.words[STATUS] = TRAP_STATUS
        patch.setattr(made.tracees.hits, "next", lambda options=0, tid=0: made.pid)
        assert not made.tracees.drain()
    made.detach()
