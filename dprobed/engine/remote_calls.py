"""Remote system calls: the target makes them for us, at a ``syscall`` instruction of its own."""

from __future__ import annotations

import errno
from typing import Final

from dprobed.arch.x86_64.breakpoint import SYSCALL
from dprobed.engine.errors import SpaceError
from dprobed.proc import maps, procfs, refusals
from dprobed.tracee import ptrace, restartable
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.remote_syscall import RemoteSyscallError
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

#: Bytes of code that are looked at in one go.
_CHUNK: Final = 1 << 20


def mappings(tid: int) -> list[maps.Line]:
    """A thread's mappings; raises Gone and SpaceError."""
    try:
        return maps.lines(procfs.mappings(tid))
    except PermissionError:
        raise SpaceError(
            "the target has made itself not dumpable, so its list of mappings is root's; ask root"
        ) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise SpaceError(f"its list of mappings is {error.strerror}") from None
        raise Gone(tid) from None


class RemoteCalls:
    """Makes remote system calls in one address space."""

    def __init__(self, memory: Memory, gate: int = 0) -> None:
        """``gate``: address of a ``syscall`` instruction, if that is known already."""
        self._memory: Final = memory
        self._gate = gate
        self._registers: Final = Registers()

    def of_copy(self, memory: Memory) -> RemoteCalls:
        """The same for a copy of this address space."""
        return RemoteCalls(memory, self._gate)

    def call(self, group: ThreadGroup, thread: Thread, number: int, *arguments: int) -> int:
        """A remote system call, past a seccomp filter where that is allowed.

        Raises SpaceError and Gone.
        """
        return self.call_at(self.gate(thread.tid), group, thread, number, arguments)

    def call_at(
        self, gate: int, group: ThreadGroup, thread: Thread, number: int, arguments: tuple[int, ...]
    ) -> int:
        """A remote system call at the ``syscall`` instruction ``gate``."""
        memory = self._memory
        restartable.abort(thread.tid, self._registers, memory.peek, memory.poke)
        found = procfs.status(thread.tid)
        if found is None or not found.seccomp:
            return self._inject(group, thread, gate, number, arguments)
        if not refusals.may_suspend_seccomp():
            raise SpaceError(
                "the target has a seccomp filter, which may kill it for a system call of ours; "
                "as root it can be suspended for that moment"
            )
        try:
            ptrace.set_options(thread.tid, ptrace.OPTIONS | ptrace.PTRACE_O_SUSPEND_SECCOMP)
        except ptrace.PtraceError as error:
            raise SpaceError(f"the target's seccomp filter cannot be suspended: {error}") from error
        try:
            return self._inject(group, thread, gate, number, arguments)
        finally:
            if thread.unfinished is None:
                ptrace.set_options(thread.tid, ptrace.OPTIONS)

    @staticmethod
    def _inject(
        group: ThreadGroup, thread: Thread, gate: int, number: int, arguments: tuple[int, ...]
    ) -> int:
        try:
            return group.remote.make(thread, gate, number, *arguments)
        except RemoteSyscallError as error:
            raise SpaceError(str(error)) from error

    def gate(self, tid: int) -> int:
        """The address of a ``syscall`` instruction: in the vDSO, else in any code there is.

        Not one with a breakpoint of ours: its first byte is another one. Raises SpaceError and
        Gone.
        """
        peek = self._memory.peek
        if self._gate and peek(self._gate, len(SYSCALL)) == SYSCALL:
            return self._gate
        for line in sorted(mappings(tid), key=lambda each: each.name != b"[vdso]"):
            if b"x" not in line.perms or line.name == b"[vsyscall]":
                continue
            start, end = line.start, line.end
            while start < end:
                chunk = peek(start, min(end - start, _CHUNK))
                at = chunk.find(SYSCALL)
                if at >= 0:
                    self._gate = start + at
                    return self._gate
                if not chunk:
                    break
                start += len(chunk)
        if self._memory.is_gone():
            raise Gone(tid)
        raise SpaceError("the target has no syscall instruction to borrow")
