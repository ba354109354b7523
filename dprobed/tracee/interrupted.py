"""System calls that end with EINTR because their thread was stopped, and nothing else happened.

The kernel restarts most calls that a stop interrupts, but some never (signal(7)): ``epoll_wait``,
``semop``, ``sigtimedwait``, ``io_getevents``, sockets with a time limit. For these the error is
replaced, while the thread is stopped, by that with which the kernel restarts others
(ERESTARTNOHAND): it looks at it after the stop, begins the call again, and makes it EINTR after all
if a handler runs first. So nothing can come in between unseen.

The same where a signal ends such a call that the target ignores: of an untraced process the kernel
drops it before anybody wakes; of a traced one it tells the tracer first (sig_ignored,
kernel/signal.c).

A restarted call has its whole time again.

Calls with a time limit that the kernel does restart are restarted as another call, which knows what
is left (``restart_syscall``: ``nanosleep``, ``poll``, ``futex``). Where a seccomp filter of the
target does not allow that one, it is the call itself again.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

from dprobed.arch.x86_64.registers import ORIG_RAX, RAX, RDI
from dprobed.arch.x86_64.signal_frame import EINTR, ERESTART_RESTARTBLOCK, ERESTARTNOHAND
from dprobed.arch.x86_64.syscalls import (
    NEVER_RESTARTED,
    NEVER_RESTARTED_ON_SOCKETS,
    SYS_RESTART_SYSCALL,
)
from dprobed.proc import procfs
from dprobed.tracee import seccomp
from dprobed.tracee.ptrace import Registers

#: What is ignored by default (sig_kernel_ignore, include/linux/signal.h).
_IGNORED: Final = frozenset((signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH))


def restart(tid: int, registers: Registers, number: int = 0) -> None:
    """Have the call of a stopped thread restarted if the stop is all that ended it; raises Gone.

    ``number``: of the signal that it stopped for; 0: it stopped for us.
    """
    words = registers.load(tid)
    if words[RAX] == ERESTART_RESTARTBLOCK:
        if not seccomp.allows(tid, words, SYS_RESTART_SYSCALL):
            words[RAX] = ERESTARTNOHAND
            registers.store(tid)
        return
    if words[RAX] != EINTR or not _is_never_restarted(tid, words[ORIG_RAX], words[RDI]):
        return
    if number and not _is_ignored(tid, number):
        return
    words[RAX] = ERESTARTNOHAND
    registers.store(tid)


def _is_never_restarted(tid: int, call: int, descriptor: int) -> bool:
    if call in NEVER_RESTARTED:
        return True
    if call not in NEVER_RESTARTED_ON_SOCKETS:
        return False
    try:
        target = Path(f"/proc/{tid}/fd/{descriptor & 0xFFFF_FFFF}").readlink()
    except OSError:
        return False
    return str(target).startswith("socket:")


def _is_ignored(tid: int, number: int) -> bool:
    found = procfs.status(tid)
    if found is None:
        return False
    bit = 1 << (number - 1)
    return bool(found.ignored & bit) or (number in _IGNORED and not found.caught & bit)
