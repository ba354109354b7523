"""Borrow a stopped thread: have it execute something for us, and leave it as it was.

What comes in between for the thread itself, a signal or a group-stop, is kept in its plan and
delivered when it goes on; only signals that an instruction raises about itself reach it meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from dprobed.arch.x86_64 import siginfo
from dprobed.arch.x86_64.resume_and_wait import TRAP_STATUS, is_looked_at
from dprobed.proc import procfs
from dprobed.proc.shared_memory import shares_memory
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import WALL, Gone
from dprobed.tracee.ptrace import raw_waitpid as _waitpid
from dprobed.tracee.signals import SYNCHRONOUS, SYNCHRONOUS_SET, held_mask, is_pending
from dprobed.tracee.status import Kind, Stop, decode
from dprobed.tracee.stop_the_world import StopTheWorld
from dprobed.tracee.thread import Group, StopHandler, Thread, Unfinished
from dprobed.tracee.tracees import Tracees

#: Seconds for which we wait for a thread that can be borrowed, where one is in ``vfork`` and where
#: all sleep for another reason; and between two attempts.
_TIMEOUT: Final = 5.0
_SLEEP_TIMEOUT: Final = 0.5
_PAUSE: Final = 0.01
#: Seconds after which others are served while a thread does something for us; and how long it is
#: waited for then.
_SOON: Final = 0.1
_PATIENCE: Final = 1.0


class Asleep(Gone):
    """No thread of a process can be borrowed, because all sleep in the kernel."""

    def __str__(self) -> str:
        return (
            f"process {self.tid} sleeps in the kernel (it is frozen, or waits for a disk or a file "
            "system that does not answer); try again when it runs"
        )


class Borrower:
    """Borrows the threads of one group."""

    def __init__(
        self, group: Group, tracees: Tracees, handler: StopHandler, stopping: StopTheWorld
    ) -> None:
        self._group: Final = group
        self._tracees: Final = tracees
        self._handler: Final = handler
        self._stopping: Final = stopping
        #: The child that a borrowed thread has just made, 0 when none.
        self.last_child = 0
        #: A thread that took too long was interrupted.
        self.interrupted = False
        #: A thread takes long for what it does for us, and plain hits of others are served
        #: meanwhile: at these no other is to do something for us.
        self.is_waiting = False
        #: Signals to send again when a thread is not borrowed any more: process, number.
        self._again: list[tuple[int, int]] = []

    # --- which thread ---

    @contextmanager
    def borrowed(self, tgid: int) -> Iterator[Thread]:
        """The world stopped, and a thread of the process to borrow; raises Gone, and Asleep where
        all sleep in the kernel.

        Waits a while for one then, as a process does in ``vfork``.
        """
        began = time.monotonic()
        while True:
            with self._stopping.stopped() as unstoppable:
                try:
                    thread = self.lender(tgid)
                except Gone:
                    # One that is on its way out runs nothing more, and may sleep there without
                    # end: it closes its files, of which a file server has to be told.
                    if not unstoppable or procfs.has_ended(tgid):
                        raise
                    is_in_vfork = any(each.in_vfork for each in unstoppable)
                    patience = _TIMEOUT if is_in_vfork else _SLEEP_TIMEOUT
                    if self._stopping.is_nested or time.monotonic() > began + patience:
                        raise Asleep(tgid) from None
                else:
                    yield thread
                    return
            self._tracees.pause(_PAUSE)

    def lender(self, tgid: int) -> Thread:
        """A stopped thread that can be borrowed; raises Gone when there is none, and Asleep where
        that is why.

        One of the process, or of a child that shares its memory: a parent in ``vfork`` sleeps.
        """
        candidates = [
            thread
            for thread in self._group.threads.values()
            if thread.state in (State.STOPPED, State.HELD) and not thread.in_vfork
        ]

        def order(each: Thread) -> tuple[object, ...]:
            return each.tgid != tgid, bool(each.signal), each.in_syscall, each.held, each.tid

        why = Gone(tgid)
        for thread in sorted(candidates, key=order):
            if thread.tgid != tgid and not shares_memory(tgid, thread.tgid):
                continue
            try:
                self.leave_syscall(thread)
                if not thread.signal:
                    self.collect(thread)
            except Asleep as error:
                why = error
                continue
            except Gone:
                continue
            return thread
        raise why

    # --- what it does for us ---

    def step(self, thread: Thread) -> Stop:
        """Execute one instruction of a stopped thread; asynchronous signals are held back.

        Returns the stop that ended it: TRAP, or SIGNAL when the instruction itself raised one (then
        ``thread.signal`` is what it was before). Raises Gone, and Asleep where it takes too long.
        """
        tid = thread.tid
        self.interrupted = False
        if thread.signal and thread.siginfo is None:
            thread.siginfo = ptrace.get_siginfo(tid)
        with self.signals_held(thread):
            while True:
                ptrace.step(tid)
                stop = self.wait_for(thread)
                if stop.kind is Kind.TRAP and not siginfo.was_sent(ptrace.get_siginfo(tid)):
                    return stop
                if stop.kind is Kind.SIGNAL and stop.value in SYNCHRONOUS:
                    return stop
                self.park(thread, stop)
                if self.interrupted:
                    raise Asleep(thread.tgid)

    def leave_syscall(self, thread: Thread) -> None:
        """Bring a thread that stopped inside a system call to the edge of user space.

        Raises Gone.
        """
        while thread.in_syscall:
            ptrace.interrupt(thread.tid)
            ptrace.cont(thread.tid)
            stop = self.wait_for(thread)
            thread.in_syscall = stop.kind not in (Kind.STOP, Kind.SIGNAL, Kind.GROUP_STOP)
            if stop.kind is Kind.SIGNAL:
                thread.signal = stop.value
            if stop.kind is Kind.GROUP_STOP:
                thread.listen, thread.relisten = True, False

    def collect(self, thread: Thread) -> None:
        """Serve a synchronous signal that is pending for a stopped thread; raises Gone.

        It is of a breakpoint that the thread executed, or of a fault that it made, just before our
        interrupt, which the kernel reports first (get_signal). When the thread goes on, the signal
        comes before it runs any instruction. Raises Asleep where it does not go on.
        """
        self.interrupted = False
        listens = thread.listen or thread.relisten
        try:
            with self._sending_again():
                self._collect(thread)
        finally:
            thread.relisten = thread.relisten or listens

    def _collect(self, thread: Thread) -> None:
        while is_pending(thread.tid, SYNCHRONOUS_SET):
            ptrace.cont(thread.tid)
            # Whatever it stops at next, and however late: it is in no group-stop any more.
            thread.listen = False
            stop = self._next_stop(thread)
            thread.in_syscall = False
            if stop.kind is Kind.TRAP:
                self._handler.serve_trap(thread)
                break
            if stop.kind is Kind.SIGNAL and stop.value in SYNCHRONOUS:
                thread.signal = stop.value
                self._handler.deliver(thread)
                break
            self.park(thread, stop)
            if self.interrupted:
                raise Asleep(thread.tgid)

    def _next_stop(self, thread: Thread) -> Stop:
        """``wait_for``, where the stop may be a breakpoint's: the thread is moved back before it is
        taken. Let go behind the breakpoint without its signal, by our death, it would skip its
        instruction. Raises Gone."""
        hits = self._tracees.hits
        before = bytes(hits.registers.data)  # this may be in the middle of another's hit
        deadline = time.monotonic() + _SOON
        while (found := hits.next(0, thread.tid)) == -errno.EINTR:
            if time.monotonic() > deadline:
                break
        is_taken = found == thread.tid and not is_looked_at(hits.status)
        if found == thread.tid and hits.status == TRAP_STATUS:
            self._handler.rewind(thread)
        hits.registers.data[:] = before
        return self._stop_of(thread, hits.status) if is_taken else self.wait_for(thread)

    # --- what comes in between ---

    def wait_for(self, thread: Thread) -> Stop:
        """The next stop of this thread; raises Gone when it ends instead.

        What it does for us takes no time, unless it sleeps (its process has just been frozen, or
        another thread has the lock of its memory): then plain hits of others are served meanwhile.
        In the end it is interrupted; and where that does not wake it either, it is left alone, to
        be put right when it stops (``Thread.unfinished``): raises Asleep.
        """
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        signal.setitimer(signal.ITIMER_REAL, _SOON, _SOON)
        try:
            began = time.monotonic()
            while _waitpid(thread.tid, self._tracees.status_address, WALL) != thread.tid:
                if ctypes.get_errno() != errno.EINTR:
                    raise Gone(thread.tid)
                if time.monotonic() > began + _SOON:
                    self.is_waiting = True
                    self._await_sleeper(thread)
                    break
        finally:
            self.is_waiting = False
            # Nothing is left between its end and its signal: 0 would be the end of all ticks.
            signal.setitimer(signal.ITIMER_REAL, left or interval, interval)
        return self._stop_of(thread, self._tracees.status.value)

    def _stop_of(self, thread: Thread, status: int) -> Stop:
        """The stop of which this wait status tells; raises Gone where it is the thread's end."""
        stop = decode(status)
        if stop.kind in (Kind.EXITED, Kind.KILLED):
            self._group.forget(thread, stop)
            raise Gone(thread.tid)
        if stop.kind is Kind.EXEC:
            # Another thread, which we could not stop, was in it: it is followed up on resuming.
            thread.exec_status = status
            raise Gone(thread.tid)
        return stop

    def _await_sleeper(self, thread: Thread) -> None:
        found = self._tracees.await_stop(thread.tid, _PATIENCE)
        if found is None:
            self.interrupted = True
            ptrace.interrupt(thread.tid)
            found = self._tracees.await_stop(thread.tid, _SOON)
        if found is None:
            thread.state = State.RUNNING
            thread.unfinished = Unfinished()
            raise Asleep(thread.tgid)
        if not found:
            raise Gone(thread.tid)

    def park(self, thread: Thread, stop: Stop) -> None:
        """Note what a stop that came while we borrowed the thread asks for afterwards."""
        if stop.kind in (Kind.SIGNAL, Kind.TRAP):
            if not thread.signal:
                thread.signal = stop.value
                thread.siginfo = ptrace.get_siginfo(thread.tid)
            else:
                # Two at once; only SIGSTOP can get past the mask. Sent again now, it would come
                # back before the thread executes anything.
                self._again.append((thread.tgid, stop.value))
        elif stop.kind is Kind.GROUP_STOP:
            thread.relisten = True
        elif stop.kind is Kind.CLONE:
            self.last_child = ptrace.event_message(thread.tid)

    def park_late(self, thread: Thread, stop: Stop) -> None:
        """The same for a thread that was not waited for any more; what an instruction raised about
        itself it raises again."""
        is_its_own = stop.kind in (Kind.TRAP, Kind.SIGNAL) and not siginfo.was_sent(
            ptrace.get_siginfo(thread.tid)
        )
        if not is_its_own:
            with self._sending_again():
                self.park(thread, stop)

    @contextmanager
    def signals_held(self, thread: Thread) -> Iterator[None]:
        """Only what an instruction raises itself reaches the thread within; it leaves a group-stop,
        to which it goes back when it is resumed. Raises Gone.
        """
        if thread.listen:
            thread.listen, thread.relisten = False, True
        with self._sending_again():
            mask = ptrace.get_sigmask(thread.tid)
            ptrace.set_sigmask(thread.tid, held_mask(mask))
            try:
                yield
            finally:
                if thread.unfinished is not None:
                    thread.unfinished.mask = mask
                elif thread.tid in self._group.threads:
                    ptrace.set_sigmask(thread.tid, mask)

    @contextmanager
    def _sending_again(self) -> Iterator[None]:
        """Send again at the end what ``park`` had no room for."""
        outer, self._again = self._again, []
        try:
            yield
        finally:
            again, self._again = self._again, outer
            for pid, number in again:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
