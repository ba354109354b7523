"""The traced threads of one target, and the reaction to each of their stops.

Rules:

* One thread (of ours) owns ptrace. It waits for its tracees (``Tracees``) and for nothing else; a
  signal ends a wait early, and ``attention`` then says that there is something to do.
* Every stop goes through ``dispatch``: the table in ``lifecycle`` says the reaction, and the
  ``StopHandler`` above does what concerns probes. A reaction leaves the thread STOPPED with a
  *plan* (which signal it gets, whether it listens); ``go`` carries the plan out, at once or
  when the world is not stopped any more (``stop_the_world``).
* What a stopped thread is to do for us goes through ``borrower`` and ``remote``.
"""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, suppress
from typing import Final

from dprobed.proc import procfs
from dprobed.proc.shared_memory import shares_memory
from dprobed.tracee import interrupted, ptrace
from dprobed.tracee.borrower import Borrower
from dprobed.tracee.clone import child_of
from dprobed.tracee.lifecycle import Reaction, State, react
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.remote_syscall import RemoteSyscalls
from dprobed.tracee.status import Kind, Stop
from dprobed.tracee.stop_the_world import StopTheWorld
from dprobed.tracee.thread import StopHandler, Thread
from dprobed.tracee.tracees import Tracees, is_ours

_log = logging.getLogger(__name__)

#: Seconds after which a parent does not wait for its child's first stop any more.
_LATE: Final = 1.0
#: What ends what a thread is in the middle of.
_ENDS: Final = (Kind.EXITED, Kind.KILLED, Kind.EXEC)
#: Seconds after which nobody waits for the first stops of children: they sleep (a frozen cgroup).
_FIRST_STOPS: Final = 5.0


class ThreadGroup:
    """The traced threads of one target; its CLONE_VM children are here too."""

    def __init__(self, handler: StopHandler, tracees: Tracees) -> None:
        self.threads: Final[dict[int, Thread]] = {}
        self.tracees: Final = tracees
        #: Handles their stops.
        self.handler: Final = handler
        #: Nanoseconds for which hits and other stops have held the threads up.
        self.overhead_ns = 0
        #: The main loop is to call this target's ``attend``.
        self.needs_attention = False
        #: An internal error in the handling of this target: its probes have to be removed.
        self.failure: Exception | None = None
        self._stopping: Final = StopTheWorld(self, tracees, handler)
        self.borrower: Final = Borrower(self, tracees, handler, self._stopping)
        self.remote: Final = RemoteSyscalls(self, tracees, self.borrower)
        #: Children whose first stop is yet to come: whether they share the memory.
        self._expected: Final[dict[int, bool]] = {}
        #: By process: since when it has been in a group-stop (monotonic ns).
        self._stopped: Final[dict[int, int]] = {}
        #: Parents in ``fork`` that wait until their child is clean, and since when.
        self._parents: Final[dict[int, tuple[Thread, float]]] = {}
        self._registers: Final = Registers()

    def request_attention(self) -> None:
        """Have the main loop attend to this target soon."""
        self.needs_attention = self.tracees.attention = True

    def fail(self, error: Exception) -> None:
        """Note an internal error that came up while another target was attended to."""
        self.failure = self.failure or error
        self.request_attention()

    # --- which threads ---

    def add(self, thread: Thread) -> Thread:
        """Add a thread of this target, new or handed over by another group."""
        self.threads[thread.tid] = self.tracees.threads[thread.tid] = thread
        self.tracees.zombies.discard(thread.tid)
        thread.group = self
        return thread

    def drop(self, tid: int) -> None:
        """Remove a thread that does not belong to this target any more."""
        if self.threads.pop(tid, None) is not None:
            del self.tracees.threads[tid]
        self._expected.pop(tid, None)

    def forget(self, thread: Thread, stop: Stop) -> None:
        """Remove a thread that has ended."""
        self.drop(thread.tid)
        self._release_parent(thread.tid)
        self.handler.forgotten(thread, stop)

    def hand_over(self, thread: Thread, heir: ThreadGroup) -> None:
        """Hand a child, from now on a target of its own, to that target's group."""
        self.drop(thread.tid)
        heir.add(thread)

    def shares_memory(self, pid: int) -> bool:
        """Whether a process that is not of this target yet shares its memory."""
        return any(shares_memory(each, pid) for each in self.threads)

    def is_fork_copy(self, pid: int) -> bool:
        """Whether a process's memory is a fork copy of the target's, as our changes in it show."""
        return self.handler.is_fork_copy(pid)

    # --- detaching ---

    def detach_all(self) -> None:
        """Detach from every stopped thread but those in ``vfork``; the world must be stopped."""
        for thread in list(self.threads.values()):
            if thread.state is State.ENDED:
                self.drop(thread.tid)
                self.tracees.zombies.add(thread.tid)
            elif thread.state in (State.STOPPED, State.HELD) and not thread.in_vfork:
                self.detach(thread)

    def detach(self, thread: Thread) -> None:
        """Detach from one stopped thread, and give it the signal that was on its way."""
        self.drop(thread.tid)
        thread.state = State.RUNNING
        try:
            if thread.siginfo is not None:
                ptrace.set_siginfo(thread.tid, thread.siginfo)
            # In a group-stop the kernel itself puts a detached thread back into the stop
            # (__ptrace_unlink: JOBCTL_STOP_PENDING is set again).
            ptrace.detach(thread.tid, 0 if thread.listen or thread.relisten else thread.signal)
        except Gone:
            pass

    # --- stopping the world and resuming ---

    @property
    def is_stopped(self) -> bool:
        """Whether we are within ``stopped``."""
        return self._stopping.is_stopped

    def stopped(self) -> AbstractContextManager[list[Thread]]:
        """Every thread stopped within; yields those that could not be: in uninterruptible sleep."""
        return self._stopping.stopped()

    def go(self, thread: Thread) -> None:
        """Carry out the thread's plan, unless the world is stopped or the thread is held."""
        self._stopping.go(thread)

    def release(self, thread: Thread) -> None:
        """Resume a thread that a program's ``suspend`` holds."""
        self._stopping.release(thread)

    def unpin(self, thread: Thread) -> None:
        """Resume a thread that the tracer pinned, unless ``suspend`` holds it."""
        self._stopping.unpin(thread)

    # --- reacting to stops ---

    def dispatch(self, thread: Thread, stop: Stop) -> None:
        """React to one stop."""
        if thread.unfinished is not None and stop.kind not in _ENDS:
            self._finish(thread, stop)
            return
        before = thread.state
        reaction = react(before, stop.kind)
        if stop.kind not in (Kind.EXITED, Kind.KILLED):
            thread.state = State.STOPPED
            thread.in_syscall = False
            thread.in_vfork = False
            thread.busy = True
        match reaction:
            case Reaction.FORGET:
                self.forget(thread, stop)
                return
            case Reaction.SERVE_TRAP:
                self.handler.serve_trap(thread)
            case Reaction.DELIVER_SIGNAL:
                thread.signal = stop.value
                self.handler.deliver(thread)
                self._restart(thread, thread.signal)
            case Reaction.STAY_IN_GROUP_STOP:
                self._stays(thread)
            case Reaction.BEGIN:
                self._begin(thread, stop)
                return
            case Reaction.ADOPT_CHILD:
                thread.in_syscall = True
                thread.in_vfork = stop.kind is Kind.VFORK
                self._adopt_child(thread)
            case Reaction.NEW_IMAGE:
                thread.in_syscall = True
                self._new_image(thread)
            case Reaction.GO_ON | None:
                if reaction is None:
                    _log.error(
                        "internal error: thread %d stopped (%s) while it was %s; it goes on",
                        thread.tid,
                        stop.kind.name.lower(),
                        before.name.lower(),
                    )
                if stop.kind is Kind.STOP and not thread.listen:
                    self._restart(thread, 0)
                thread.listen = False
                self._stopped.pop(thread.tgid, None)
        thread.busy = False
        thread.group.go(thread)

    def _stays(self, thread: Thread) -> None:
        """A thread is in a group-stop, and is left there."""
        thread.listen = True
        self._stopped.setdefault(thread.tgid, time.monotonic_ns())

    def stopped_ns(self, tgid: int) -> int:
        """For how long a process has been in a group-stop, since it is traced; 0: it is not."""
        if not any(t.listen or t.relisten for t in self.threads.values() if t.tgid == tgid):
            self._stopped.pop(tgid, None)
            return 0
        now = time.monotonic_ns()
        return max(1, now - self._stopped.setdefault(tgid, now))

    def _finish(self, thread: Thread, stop: Stop) -> None:
        """A thread that slept in the middle of what it was to do for us has stopped."""
        thread.state = State.STOPPED
        thread.busy = True
        try:
            self.remote.finish(thread, stop)
        except Gone:
            thread.busy = False
            return
        if thread.signal:
            self.handler.deliver(thread)
        thread.busy = False
        self.go(thread)

    def _restart(self, thread: Thread, number: int) -> None:
        with suppress(Gone):
            interrupted.restart(thread.tid, self._registers, number)

    def _begin(self, thread: Thread, stop: Stop) -> None:
        if stop.kind is Kind.GROUP_STOP:
            self._stays(thread)
        self.handler.begin(thread, self._expected.pop(thread.tid, True))
        self._release_parent(thread.tid)
        thread.busy = False
        if thread.tid in self.tracees.threads:
            thread.group.go(thread)

    def _new_image(self, thread: Thread) -> None:
        """After ``exec`` the caller is its process's only thread and has the process's id."""
        for other in [t for t in self.threads.values() if t.tgid == thread.tgid]:
            if other.tid != thread.tid:
                self.drop(other.tid)
        thread.signal = 0
        thread.siginfo = None
        thread.awaits = 0
        thread.unfinished = None
        thread.listen = thread.relisten = thread.held = thread.pinned = False
        thread.enters_handler = False
        self.handler.new_image(thread)

    # --- children: of a fork, a vfork or a clone ---

    def _adopt_child(self, parent: Thread) -> None:
        """Add the child that a thread's clone or fork event reports."""
        try:
            child = ptrace.event_message(parent.tid)
            shares, is_thread = child_of(parent.tid, self._registers)
        except Gone:
            return
        if child in self.tracees.threads:
            return  # found in /proc when we attached
        if not is_thread and not is_ours(child):
            return  # killed, or detached from as an orphan
        thread = self._expect(child, parent.tgid if is_thread else child, shares)
        if not shares:
            self.handler.forked(parent, child)
            parent.awaits = child
            self._parents[child] = parent, time.monotonic()
        first = self.tracees.first_stops.pop(child, None)
        if first is not None:
            thread.state = State.STOPPED
            self._begin(thread, first[0])

    def _release_parent(self, child: int) -> None:
        """A child is clean, or has ended: its parent may return from ``fork``."""
        parent, _ = self._parents.pop(child, (None, 0.0))
        if parent is not None and parent.awaits == child:
            self._stopping.awaited(parent)

    def release_late_parents(self) -> None:
        """Let those go whose child has not made its first stop for long (a frozen cgroup)."""
        before = time.monotonic() - _LATE
        for child in [child for child, (_, since) in self._parents.items() if since < before]:
            self._release_parent(child)

    def _expect(self, tid: int, tgid: int, shares: bool) -> Thread:
        """A child whose first stop is yet to come."""
        self._expected[tid] = shares
        return self.add(Thread(tid, tgid, State.STARTING, self))

    def adopt_orphan(self, tid: int, stop: Stop) -> None:
        """A child in its first stop, of which no event will tell us any more."""
        thread = self._expect(tid, tid, self.shares_memory(tid))
        thread.state = State.STOPPED
        self._begin(thread, stop)

    def await_children(self, thread: Thread) -> None:
        """Before the target's ``exec`` is followed up: wait for the first stops of all children
        that have a copy of the old memory.

        A thread that ``exec`` took away may have gone before it could tell of its child, and its
        child may not have stopped yet. All those threads are gone (de_thread, fs/exec.c) and the
        one that is left makes none now, so every such child is known to the kernel.
        """
        self.tracees.dispatch_deferred(self)
        self.tracees.adopt_orphans(thread)
        known = self.tracees.threads.keys() | self.tracees.others.keys()
        for child in procfs.children(thread.tgid):
            if child in known or not is_ours(child):
                continue
            if (first := self.tracees.first_stops.pop(child, None)) is not None:
                self.adopt_orphan(child, first[0])
            else:
                self._expect(child, child, self.shares_memory(child))
        deadline = time.monotonic() + _FIRST_STOPS
        while starting := [
            each
            for each in self.threads.values()
            if each.state is State.STARTING and each.tid == each.tgid
        ]:
            if not self.tracees.wait(self):
                is_late = time.monotonic() > deadline
                for each in starting:
                    if is_late or not procfs.run_state(each.tid):
                        self.forget(each, Stop(Kind.EXITED, 0))
