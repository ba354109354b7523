"""Remote system calls: system calls that we have a tracee make.

The thread is put before a ``syscall`` instruction of its address space, runs it, and has its
registers and signal mask back afterwards, ``orig_rax`` among them: a system call of its own that
our stop interrupted is restarted by the kernel as if nothing had been.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable, Sequence
from typing import Final

from dprobed.arch.x86_64 import siginfo
from dprobed.arch.x86_64.registers import NO_SYSCALL, ORIG_RAX, RAX, RIP, SYSCALL_ARGUMENTS
from dprobed.tracee import ptrace
from dprobed.tracee.borrower import Borrower
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import WALL, Registers
from dprobed.tracee.ptrace import raw_waitpid as _waitpid
from dprobed.tracee.status import Kind, decode
from dprobed.tracee.thread import Group, Thread
from dprobed.tracee.tracees import Tracees


class RemoteSyscallError(Exception):
    """A system call that we had a tracee make did not work; one line."""


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
            if thread.tid in self._group.threads:
                self._registers.data[:] = saved
                self._registers.store(thread.tid)
                self._borrower.leave_syscall(thread)
        return result - (1 << 64) if result >> 63 else result

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
        """To the stop at the system call's entry, and to that at its exit."""
        stops = 0
        while stops < 2:
            ptrace.to_syscall(thread.tid)
            stop = self._borrower.wait_for(thread)
            if stop.kind is Kind.SYSCALL:
                stops += 1
            elif stop.value == signal.SIGSYS and not siginfo.was_sent(
                ptrace.get_siginfo(thread.tid)
            ):
                raise RemoteSyscallError(
                    "the target has system calls dispatched to itself "
                    "(PR_SET_SYSCALL_USER_DISPATCH), and ours would be, too"
                )
            else:
                self._borrower.park(thread, stop)

    def take_child(self) -> Thread | None:
        """The process that a remote ``clone`` made, in its first stop: not one of the threads.

        None when it made none, or it was killed at once.
        """
        tid, self._borrower.last_child = self._borrower.last_child, 0
        if not tid:
            return None
        if self._tracees.first_stops.pop(tid, None) is None:
            while _waitpid(tid, self._tracees.status_address, WALL) < 0:
                if ctypes.get_errno() != errno.EINTR:
                    return None
            if decode(self._tracees.status.value).kind in (Kind.EXITED, Kind.KILLED):
                return None
        return Thread(tid, tid, State.STOPPED, self._group)
