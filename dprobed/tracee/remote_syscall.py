"""Remote system calls: system calls that we have a tracee make.

The thread is put before a ``syscall`` instruction of its address space, runs it, and has its
registers and signal mask back afterwards, ``orig_rax`` among them: a system call of its own that
our stop interrupted is restarted by the kernel as if nothing had been.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from dprobed.arch.x86_64 import siginfo
from dprobed.arch.x86_64.registers import NO_SYSCALL, ORIG_RAX, RAX, RIP, SYSCALL_ARGUMENTS
from dprobed.arch.x86_64.syscalls import SYS_MMAP, SYS_MUNMAP, SYS_WAIT4
from dprobed.tracee import ptrace
from dprobed.tracee.borrower import Asleep, Borrower
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import WALL, Registers
from dprobed.tracee.signals import SYNCHRONOUS
from dprobed.tracee.status import Kind, Stop, decode
from dprobed.tracee.thread import Group, RemoteCall, Thread
from dprobed.tracee.tracees import Tracees

#: Seconds for which a child's first stop is waited for.
_FIRST_STOP: Final = 1.0


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


class RemoteSyscallError(Exception):
    """A system call that we had a tracee make did not work; one line."""


def _why_raised(number: int) -> str:
    """Why the kernel raises a signal at a system call that we have a thread make."""
    if number == signal.SIGSYS:
        return (
            "the target has system calls dispatched to itself "
            "(PR_SET_SYSCALL_USER_DISPATCH), and ours would be, too"
        )
    return f"a system call cannot be made in the target: it raised {signal.Signals(number).name}"


class RemoteSyscalls:
    """Has borrowed threads of one group make system calls."""

    def __init__(self, group: Group, tracees: Tracees, borrower: Borrower) -> None:
        self._group: Final = group
        self._tracees: Final = tracees
        self._borrower: Final = borrower
        self._registers: Final = Registers()

    def make(
        self,
        thread: Thread,
        gate: int,
        number: int,
        *arguments: int,
        before: Callable[[Sequence[int], int], None] | None = None,
    ) -> int:
        """Make a borrowed thread do a system call at ``gate`` (a ``syscall`` instruction).

        ``before`` is called with its registers and signal mask before any is changed.
        Returns the kernel's result as a signed number. Raises RemoteSyscallError and Gone.
        """
        words = self._registers.load(thread.tid)
        if before is not None:
            before(words, ptrace.get_sigmask(thread.tid))
        saved = bytes(self._registers.data)
        call = RemoteCall(saved, gate, number, arguments)
        words[RIP] = gate
        words[RAX] = number
        words[ORIG_RAX] = NO_SYSCALL
        for index, value in zip(SYSCALL_ARGUMENTS, arguments, strict=False):
            words[index] = value
        self._registers.store(thread.tid)
        try:
            self._execute(thread)
            result = self._registers.load(thread.tid)[RAX]
        finally:
            try:
                if thread.unfinished is None and thread.tid in self._group.threads:
                    # First: let go behind a system call, by our death, one of its own that our stop
                    # interrupted would not be made again.
                    self._borrower.leave_syscall(thread)
                    self._registers.data[:] = saved
                    self._registers.store(thread.tid)
            finally:
                if thread.unfinished is not None:
                    thread.unfinished.call = call
        return _signed(result)

    def finish(self, thread: Thread, stop: Stop) -> None:
        """Put right a thread that slept in the middle of what it was to do for us, and has stopped.

        Raises Gone, and Asleep where it sleeps again.
        """
        unfinished, thread.unfinished = thread.unfinished, None
        assert unfinished is not None
        call, registers = unfinished.call, self._registers
        thread.in_syscall = stop.kind in (Kind.SYSCALL, Kind.CLONE)
        has_child = stop.kind is Kind.CLONE and self._end_child(ptrace.event_message(thread.tid))
        is_done = thread.in_syscall and (stop.kind is Kind.CLONE or unfinished.stops > 0)
        if not thread.in_syscall:
            self._borrower.park_late(thread, stop)
        elif not is_done:
            # It is about to make the call, which nobody waits for any more.
            registers.load(thread.tid)[ORIG_RAX] = NO_SYSCALL
            registers.store(thread.tid)
        try:
            self._borrower.leave_syscall(thread)
        finally:
            if thread.unfinished is not None:
                thread.unfinished.mask, thread.unfinished.call = unfinished.mask, call
        result = _signed(registers.load(thread.tid)[RAX])
        if call is not None:
            registers.data[:] = call.registers
            registers.store(thread.tid)
        if unfinished.mask is not None:
            ptrace.set_sigmask(thread.tid, unfinished.mask)
        if call is not None and is_done and result > 0:
            with suppress(RemoteSyscallError):
                if call.number == SYS_MMAP:
                    self.make(thread, call.gate, SYS_MUNMAP, result, call.arguments[1])
                elif has_child:
                    self.make(thread, call.gate, SYS_WAIT4, result, 0, WALL, 0)
        ptrace.set_options(thread.tid, ptrace.OPTIONS)

    def _execute(self, thread: Thread) -> None:
        """From before a ``syscall`` instruction to behind it, without a SIGTRAP.

        A single step ends with a forced SIGTRAP, which resets the handler of a thread that ignores
        it. But a signal on its way can only be delivered after a stop of the step's kind.
        """
        if thread.signal:
            stop = self._borrower.step(thread)
            if stop.kind is not Kind.TRAP:
                raise RemoteSyscallError(f"the remote system call raised signal {stop.value}")
            return
        with self._borrower.signals_held(thread):
            self._enter_and_leave(thread)
            if thread.signal:
                # Only a signal's own stop (and a step's) can deliver one.
                os.kill(thread.tgid, thread.signal)
                thread.signal, thread.siginfo = 0, None
            # From here the kernel would not restart an interrupted system call: it does so on the
            # way out of a stop between instructions only.
            thread.in_syscall = True

    def _enter_and_leave(self, thread: Thread) -> None:
        """To the stop at the system call's entry, and to that at its exit.

        Raises Asleep where it does not come to its entry: it stops for us, and executes nothing (a
        cgroup that is frozen).
        """
        stops = 0
        self._borrower.interrupted = False
        while stops < 2:
            ptrace.to_syscall(thread.tid)
            try:
                stop = self._borrower.wait_for(thread)
            finally:
                if thread.unfinished is not None:
                    thread.unfinished.stops = stops
            if stop.kind is Kind.SYSCALL:
                stops += 1
            else:
                self._refuse_fault(thread, stop)
                self._borrower.park(thread, stop)
                if self._borrower.interrupted and not stops:
                    raise Asleep(thread.tgid)

    @staticmethod
    def _refuse_fault(thread: Thread, stop: Stop) -> None:
        """Raises RemoteSyscallError where the kernel raises a signal at the gate, again and again.

        One fault may have been on its way before, and is the thread's own.
        """
        if stop.kind is not Kind.SIGNAL or stop.value not in SYNCHRONOUS:
            return
        info = ptrace.get_siginfo(thread.tid)
        if siginfo.was_sent(info):
            return
        again = thread.siginfo == info
        if again:
            thread.signal, thread.siginfo = 0, None
        if again or stop.value == signal.SIGSYS:
            raise RemoteSyscallError(_why_raised(stop.value))

    def take_child(self) -> Thread | None:
        """The process that a remote ``clone`` made, in its first stop: not one of the threads.

        None when it made none, or it was killed at once.
        """
        tid, self._borrower.last_child = self._borrower.last_child, 0
        if not tid:
            return None
        if self._tracees.first_stops.pop(tid, None) is None:
            if not self._tracees.await_stop(tid, _FIRST_STOP):
                self._end_child(tid)
                return None
            if decode(self._tracees.status.value).kind in (Kind.EXITED, Kind.KILLED):
                return None
        return Thread(tid, tid, State.STOPPED, self._group)

    def _end_child(self, tid: int) -> bool:
        """End the process that a remote ``clone`` made and nobody waits for: it must not go on as a
        second one of the target's. Whether it has ended in time."""
        tracees = self._tracees

        def ended(stop: Stop) -> None:
            if stop.kind in (Kind.EXITED, Kind.KILLED):
                tracees.others.pop(tid, None)

        tracees.first_stops.pop(tid, None)
        with suppress(ProcessLookupError):
            os.kill(tid, signal.SIGKILL)
        while found := tracees.await_stop(tid, _FIRST_STOP):
            if decode(tracees.status.value).kind in (Kind.EXITED, Kind.KILLED):
                return True
        if found is None:
            tracees.others[tid] = ended
        return found is False
