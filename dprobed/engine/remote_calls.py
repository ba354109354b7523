"""Remote system calls: the target makes them for us, at a ``syscall`` instruction of its own."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from dprobed.arch.x86_64.breakpoint import SYSCALL
from dprobed.arch.x86_64.gate_code import CLONE, GATE, SIZE, WHOLE, WORDS, back, way_back
from dprobed.arch.x86_64.paging import PAGE
from dprobed.arch.x86_64.registers import RIP, SYSCALL_ARGUMENTS
from dprobed.arch.x86_64.syscalls import SYS_CLONE, SYS_RT_SIGPROCMASK, SYS_RT_SIGRETURN
from dprobed.change_journal import Changes, Kind
from dprobed.engine.errors import SpaceError
from dprobed.proc import maps, procfs, refusals
from dprobed.tracee import ptrace, restartable, seccomp
from dprobed.tracee.memory import Memory
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.remote_syscall import RemoteSyscallError
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

#: The calls by which a thread goes on without us: behind the gate, and from the guard.
_WAY_BACK: Final = {"rt_sigprocmask": SYS_RT_SIGPROCMASK, "rt_sigreturn": SYS_RT_SIGRETURN}
#: The arguments of the first: SIG_SETMASK, where the mask is, and its size.
_SETS_MASK: Final = (2, 0, 0, 8)
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


def note(changes: Changes, kind: Kind, address: int, data: bytes) -> None:
    """Note a change before it is made; raises SpaceError, and then it must not be made."""
    try:
        changes.note(kind, address, data)
    except OSError as error:
        raise SpaceError(
            f"nothing is changed, because its undo cannot be noted: {error.strerror}"
        ) from error


class RemoteCalls:
    """Makes remote system calls in one address space.

    They go through a *gate* of ours (``arch.x86_64.gate_code``), from which a thread finds its way
    back without us. It is in zeros behind the code of a module, at the end of its last page.
    """

    def __init__(self, memory: Memory, changes: Changes, gate: int = 0, own: int = 0) -> None:
        """``gate``: address of a ``syscall`` instruction, if that is known already; ``own``: where
        our own gate is."""
        self._memory: Final = memory
        self._changes: Final = changes
        self._gate = gate
        self._registers: Final = Registers()
        self._own = own
        #: Why a thread would not find its way back from a call without us; empty: it would.
        self.obstacle = ""
        #: Seccomp filters of the thread whose filters were looked at for that.
        self._filters = 0
        #: There is no place for one.
        self._has_no_place = False

    def of_copy(self, memory: Memory, changes: Changes) -> RemoteCalls:
        """The same for a copy of this address space."""
        return RemoteCalls(memory, changes, self._gate, self._own)

    # --- our gate ---

    def own_gate(self, tid: int) -> int:
        """Where our gate is, which is made; 0: there is no place for it. Raises SpaceError and
        Gone."""
        if self._own and self._memory.peek(self._own, len(GATE)) == GATE:
            return self._own
        if self._own:
            self._changes.forget(Kind.GATE, self._own)  # the target has put something else there
            self._own = 0
        if self._has_no_place:
            return 0
        for line in sorted(mappings(tid), key=lambda each: each.name != b"[vdso]"):
            if line.perms[:1] != b"r" or line.perms[2:] != b"xp" or line.name == b"[vsyscall]":
                continue
            place = line.end - (SIZE + 63) // 64 * 64
            if place // PAGE != (line.end - 1) // PAGE or any(self._memory.peek(place, SIZE)):
                continue
            note(self._changes, Kind.GATE, place, bytes(8))
            if self._memory.poke(place, WHOLE):
                self._own = place
                return place
            self._changes.forget(Kind.GATE, place)
        self._has_no_place = True
        return 0

    def note_copy(self) -> None:
        """Note the gate in a copy that is a target of its own; raises SpaceError."""
        if self._own:
            note(self._changes, Kind.GATE, self._own, bytes(8))

    def adopt(self, place: int) -> None:
        """Take over the gate that another tracer left."""
        self._own = place

    def in_gate(self, address: int) -> bool:
        """Whether a thread is on its way through our gate."""
        return self._own != 0 and self._own <= address < self._own + SIZE

    def send_back(self, thread: Thread) -> None:
        """Give a stopped thread in our gate what it would give itself behind the call, which it
        makes no more. Raises Gone."""
        data = self._memory.peek(self._own + WORDS, CLONE - WORDS)
        if len(data) == CLONE - WORDS:
            mask = back(self._registers.load(thread.tid), data)
            self._registers.store(thread.tid)
            ptrace.set_sigmask(thread.tid, mask)

    def remove_gate(self) -> None:
        """Take our gate out: no thread is in it, and no call is made any more."""
        if self._own and self._memory.peek(self._own, len(GATE)) == GATE:
            self._memory.poke(self._own, bytes(SIZE))
        if self._own:
            self._changes.forget(Kind.GATE, self._own)
            self._own = 0

    # --- calls ---

    def call(self, group: ThreadGroup, thread: Thread, number: int, *arguments: int) -> int:
        """A remote system call, past a seccomp filter where that is allowed.

        Raises SpaceError and Gone.
        """
        # A copy has no gate that was made later; and there is one way back, which a thread that
        # sleeps in our gate may still need.
        is_taken = any(each.unfinished is not None for each in group.threads.values())
        is_copy = thread.tid not in group.threads
        own = 0 if is_taken or is_copy else self.own_gate(thread.tid)
        if own and number == SYS_CLONE:
            own += CLONE
        return self.call_at(own or self.gate(thread.tid), group, thread, number, arguments)

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
        self._look_at_filters(thread.tid, gate)
        try:
            return self._inject(group, thread, gate, number, arguments)
        finally:
            if thread.unfinished is None:
                ptrace.set_options(thread.tid, ptrace.OPTIONS)

    def _look_at_filters(self, tid: int, gate: int) -> None:
        """Whether the filters, which are suspended while we are there, allow the way back."""
        count = procfs.seccomp_filters(tid)
        if count == self._filters and count:
            return
        self._filters = count
        words = list(self._registers.load(tid))
        words[RIP] = gate
        for index, value in zip(SYSCALL_ARGUMENTS, _SETS_MASK, strict=False):
            words[index] = value
        forbidden = [
            name for name, number in _WAY_BACK.items() if not seccomp.allows(tid, words, number)
        ]
        self.obstacle = ""
        if forbidden:
            self.obstacle = f"its seccomp filter does not allow {' and '.join(forbidden)}"

    def _inject(
        self, group: ThreadGroup, thread: Thread, gate: int, number: int, arguments: tuple[int, ...]
    ) -> int:
        before = self._prepare if gate in (self._own, self._own + CLONE) else None
        try:
            return group.remote.make(thread, gate, number, *arguments, before=before)
        except RemoteSyscallError as error:
            raise SpaceError(str(error)) from error

    def _prepare(self, words: Sequence[int], mask: int) -> None:
        if not self._memory.poke(self._own + WORDS, way_back(words, mask)):
            raise RemoteSyscallError("the way back from the remote system call cannot be written")

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
