"""The first process of a pid namespace (PID 1 of a container), which the kernel treats otherwise.

It gets no signal that it has no handler for (SIGNAL_UNKILLABLE, kernel/signal.c). Two things about
that are otherwise while it is traced, and are put right here:

* A fault of its own ends it, natively; while it is traced, the kernel leaves it unkillable
  (force_sig_info_to_task), so that it would fault again and again for ever. So we detach from it,
  at the instruction that faults: it faults once more, and dies as it would have without us.
* SIGSTOP that a process of its own namespace sends is dropped natively (sig_task_ignored). To a
  traced process it is shown before (sig_ignored), and would stop it if it were delivered.
"""

from __future__ import annotations

import signal
from typing import Final

from dprobed.arch.x86_64.breakpoint import INT3, SI_KERNEL, SYSCALL
from dprobed.arch.x86_64.registers import RIP
from dprobed.arch.x86_64.siginfo import code_of, sender_of, was_sent
from dprobed.proc import procfs
from dprobed.tracee import memory, ptrace
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.signals import SYNCHRONOUS
from dprobed.tracee.thread import Thread

#: Signals behind whose instruction the thread stands: those that may have raised them.
_BEHIND: Final = {signal.SIGTRAP: (INT3,), signal.SIGSYS: (SYSCALL, b"\xcd\x80")}


class NamespaceInit:
    """What is to be done about the signals of a process that may be the first of a namespace."""

    def __init__(self, pid: int) -> None:
        #: The signal of a fault that the process is to die of once we have detached from it.
        self.fatal = 0
        self._pid: Final = pid
        self._is_init: bool | None = None
        self._registers: Final = Registers()

    def _concerns(self, thread: Thread) -> bool:
        if self._is_init is None:
            found = procfs.status(self._pid)
            self._is_init = found is not None and found.innermost == 1
        return self._is_init and thread.tgid == self._pid

    def leaves(self, thread: Thread) -> bool:
        """Settle the signal on its way to the thread; whether we are to detach at that, so that the
        process dies of it. Raises Gone."""
        if self._drops(thread):
            thread.signal, thread.siginfo = 0, None
            return False
        if not self._dies(thread):
            return False
        self.fatal = self.fatal or thread.signal
        thread.signal, thread.siginfo = 0, None
        thread.pinned = True
        return True

    def _drops(self, thread: Thread) -> bool:
        """Whether the signal on its way to the thread would have been dropped; raises Gone."""
        if thread.signal != signal.SIGSTOP or not self._concerns(thread):
            return False
        info = thread.siginfo or ptrace.get_siginfo(thread.tid)
        # 0: a process of an outer namespace, which may stop it.
        return was_sent(info) and sender_of(info) != 0

    def _dies(self, thread: Thread) -> bool:
        """Whether the signal on its way to the thread is for a fault of its own, and would have
        ended the process; it is at the instruction that faults then. Raises Gone."""
        if thread.signal not in SYNCHRONOUS or not self._concerns(thread):
            return False
        info = thread.siginfo or ptrace.get_siginfo(thread.tid)
        found = procfs.status(thread.tid)
        if was_sent(info) or found is None or found.caught >> (thread.signal - 1) & 1:
            return False
        if thread.signal == signal.SIGTRAP and code_of(info) != SI_KERNEL:
            return False
        words = self._registers.load(thread.tid)
        for instruction in _BEHIND.get(signal.Signals(thread.signal), ()):
            at = words[RIP] - len(instruction)
            if memory.read_present(thread.tid, at, len(instruction)) == instruction:
                words[RIP] = at
                self._registers.store(thread.tid)
                break
        return True
