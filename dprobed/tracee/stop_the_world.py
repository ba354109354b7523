"""Stop the world: stops all threads of a target, and resumes them, each by its plan.

* While the world is stopped, plans wait. So a hit that arrives while we stop the others is served
  at once, but its thread goes on only with all others.
* A thread in uninterruptible sleep is unstoppable. It runs no code of the target either; the
  stop reaches it when it wakes. ``stopped`` goes ahead without it and says so. One that sleeps on
  its way out will never run any: it counts as gone.
"""

from __future__ import annotations

import errno
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.status import Kind, Stop
from dprobed.tracee.thread import Group, StopHandler, Thread
from dprobed.tracee.tracees import Tracees, is_ours

_log = logging.getLogger(__name__)

#: Seconds after which threads in uninterruptible sleep are not waited for any more.
_TIMEOUT: Final = 0.2
#: Seconds after which no thread is waited for: it is taken for one that sleeps.
_LIMIT: Final = 5.0
#: Threads that a message names.
_NAMED: Final = 5
#: Seconds from one look at which threads still run to the next.
_TICK: Final = 0.02


class StopTheWorld:
    """Stops the threads of one group, and resumes them."""

    def __init__(self, group: Group, tracees: Tracees, handler: StopHandler) -> None:
        self._group: Final = group
        self._tracees: Final = tracees
        self._handler: Final = handler
        #: How many ``stopped`` we are within.
        self._depth = 0
        self._unstoppable: list[Thread] = []
        #: Threads that sleep on their way out.
        self._ending: set[int] = set()

    # --- resuming ---

    def go(self, thread: Thread) -> None:
        """Carry out the thread's plan, unless the world is stopped or the thread is held."""
        if self._depth or thread.busy or thread.state is not State.STOPPED:
            return
        if thread.exec_status:
            status, thread.exec_status = thread.exec_status, 0
            self._tracees.dispatch(thread.tid, status)
            return
        if thread.held or thread.pinned or thread.awaits:
            thread.state = State.HELD
            return
        try:
            self._resume(thread)
        except Gone:
            # Killed: its exit status is what comes next.
            thread.state = State.RUNNING

    @staticmethod
    def _resume(thread: Thread) -> None:
        if thread.listen and _listens(thread):
            return
        thread.state = State.RUNNING
        if thread.siginfo is not None:
            ptrace.set_siginfo(thread.tid, thread.siginfo)
            thread.siginfo = None
        if thread.relisten:
            thread.relisten = False
            ptrace.interrupt(thread.tid)
        number, thread.signal = thread.signal, 0
        if thread.enters_handler or thread.stepping:
            ptrace.step(thread.tid, number)
        else:
            ptrace.cont(thread.tid, number)

    def release(self, thread: Thread) -> None:
        """Resume a thread that a program's ``suspend`` holds."""
        thread.held = False
        self._resume_held(thread)

    def unpin(self, thread: Thread) -> None:
        """Resume a thread that the tracer pinned, unless ``suspend`` holds it."""
        thread.pinned = False
        self._resume_held(thread)

    def awaited(self, thread: Thread) -> None:
        """Resume a thread whose child is clean."""
        thread.awaits = 0
        self._resume_held(thread)

    def _resume_held(self, thread: Thread) -> None:
        if thread.state is State.HELD:
            thread.state = State.STOPPED
            self.go(thread)

    # --- stopping ---

    @property
    def is_stopped(self) -> bool:
        """Whether we are within ``stopped``."""
        return self._depth > 0

    @property
    def is_nested(self) -> bool:
        """Whether we are within ``stopped`` more than once: to leave it resumes nobody."""
        return self._depth > 1

    @contextmanager
    def stopped(self) -> Iterator[list[Thread]]:
        """Every thread stopped within; yields those that are in uninterruptible sleep.

        A thread in ``vfork`` is among these: it will sleep before it does anything else.
        """
        self._depth += 1
        try:
            if self._depth == 1:
                self._unstoppable = self._stop_all()
                threads = self._group.threads.values()
                self._unstoppable += [thread for thread in threads if thread.in_vfork]
            yield self._unstoppable
        finally:
            self._depth -= 1
            if not self._depth:
                for thread in list(self._group.threads.values()):
                    self.go(thread)

    def _stop_all(self) -> list[Thread]:
        asked: set[int] = set()
        self._tracees.dispatch_deferred(self._group)
        began = time.monotonic()
        deadline, limit = began + _TIMEOUT, began + _LIMIT
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)
        try:
            look = began + _TICK
            while self._interrupt_running(asked):
                # Others may hit without end, so that no signal ever ends a wait.
                now = time.monotonic()
                if self._tracees.wait(self._group) and now < look:
                    continue
                look = now + _TICK
                asleep, running = self._left()
                # A parent in ``vfork`` sleeps until its child, which is stopped, goes on.
                if not running and (all(each.in_vfork for each in asleep) or now > deadline):
                    return asleep
                if now > limit:
                    names = ", ".join(str(each.tid) for each in running[:_NAMED])
                    _log.warning("thread %s cannot be stopped; going on without it", names)
                    return asleep + running
            return []
        finally:
            # Nothing is left between its end and its signal: 0 would be the end of all ticks.
            signal.setitimer(signal.ITIMER_REAL, left or interval, interval)

    def _interrupt_running(self, asked: set[int]) -> bool:
        """Interrupt each running thread that is not in ``asked``; false when none runs any more."""
        runs = False
        self._ending &= self._group.threads.keys()
        for thread in list(self._group.threads.values()):
            if thread.tid in self._ending:
                continue
            if thread.state in (State.RUNNING, State.LISTENING):
                runs = True
                if thread.tid not in asked:
                    asked.add(thread.tid)
                    self._interrupt(thread)
            elif thread.state is State.STARTING:
                runs = True
        return runs

    @staticmethod
    def _interrupt(thread: Thread) -> None:
        try:
            ptrace.interrupt(thread.tid)
        except (Gone, ptrace.PtraceError):
            # It is dying: its exit status comes.
            return

    def _left(self) -> tuple[list[Thread], list[Thread]]:
        """The threads that are yet to stop: those in uninterruptible sleep, and others.

        A zombie leader is none; one that is not there at all is forgotten.
        """
        asleep: list[Thread] = []
        running: list[Thread] = []
        for thread in list(self._group.threads.values()):
            if thread.tid in self._ending or thread.state not in (
                State.RUNNING,
                State.LISTENING,
                State.STARTING,
            ):
                continue
            state = procfs.run_state(thread.tid)
            if not state:
                self._group.forget(thread, Stop(Kind.EXITED, 0))
            elif not is_ours(thread.tid):
                # Its number went to a thread that we do not trace, in ``exec``.
                self._group.drop(thread.tid)
            elif state == "Z" and thread.tid == thread.tgid:
                thread.state = State.ENDED
            elif state in "DS" and procfs.is_ending(thread.tid):
                # It closes its files, and may have to tell a file server so; or it is the first
                # of a pid namespace, and waits until all others are collected.
                self._ending.add(thread.tid)
            elif state == "D":
                asleep.append(thread)
            elif state == "t" and not self._tracees.look_at(thread.tid):
                # Its stop was taken from the kernel but, by an internal error, not reacted to.
                thread.state = State.STOPPED
                self._handler.abandon(thread)
            else:
                running.append(thread)
        return asleep, running


def _listens(thread: Thread) -> bool:
    """Leave a thread in its group-stop; raises Gone. False: it has been brought out of that for
    something else, and is at a stop of another kind; it goes back there when it runs."""
    thread.state = State.LISTENING
    try:
        ptrace.listen(thread.tid)
    except ptrace.PtraceError as error:
        if error.errno != errno.EIO:
            raise
        thread.listen, thread.relisten = False, True
        return False
    return True
