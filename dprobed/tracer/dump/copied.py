"""A copy of a stopped process, made by a remote ``clone``: its memory is read while that runs on.

``clone`` without exit signal: no SIGCHLD, no atfork handlers. The copy is our tracee and never runs
code of the target. Then:

* At once after ``clone`` the copy gives up its descriptors, so that no pipe, lock or port of the
  target stays open because of it. PTRACE_O_EXITKILL ends it with us.
* At the end it unmaps its memory, so that its end takes no time, and is killed and reaped by us.
* It is then a zombie child of the target, which only a ``wait`` with __WALL or __WCLONE would see.
  The target never sees it: we make the target ``wait4`` for it while all its threads are stopped.

It is in the change journal, so that where we are killed another tracer has the target do that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time
from pathlib import Path
from typing import Final

from dprobed import change_journal
from dprobed.arch.x86_64.paging import PAGE, USER_END
from dprobed.arch.x86_64.registers import NO_SYSCALL, ORIG_RAX, RAX, RDI, RIP, RSI
from dprobed.arch.x86_64.syscalls import SYS_CLONE, SYS_CLOSE_RANGE, SYS_MUNMAP, SYS_WAIT4
from dprobed.change_journal import Change
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.remote_calls import note
from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import WALL, Gone, PtraceError, Registers
from dprobed.tracee.status import Kind, Stop, decode
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

_USERFAULTFD: Final = "anon_inode:[userfaultfd]"
#: include/uapi/linux/userfaultfd.h
_EVENT_FORK: Final = 1 << 1
_CLONE_FILES: Final = 0x400
_CLOSE_RANGE_UNSHARE: Final = 2
_ADDRESS_END: Final = USER_END - PAGE
#: Seconds for which its end is waited for, and between looks at that of a lost one.
_END: Final = 1.0
_LOOK: Final = 0.002


class CopiedProcess:
    """The copy, from ``make`` to ``reap``."""

    def __init__(
        self, group: ThreadGroup, space: AddressSpace, thread: Thread, inner_pid: int
    ) -> None:
        """``thread``: its only one; ``inner_pid``: its number in the target's pid namespace."""
        self.tid: Final = thread.tid
        #: It has unmapped its memory, or ended, and can be reaped.
        self.is_over = False
        self._group: Final = group
        self._space: Final = space
        self._inner_pid: Final = inner_pid
        #: Stops of its last system call.
        self._stops = 0

    @classmethod
    def make(cls, group: ThreadGroup, space: AddressSpace, lender: Thread) -> CopiedProcess:
        """Have a stopped thread make a copy of its process; raises SpaceError and Gone."""
        if _hears_of_forks(lender.tid):
            raise SpaceError(
                "the process could not be copied: one of its own threads is to hear of each fork "
                "(userfaultfd), and is stopped"
            )
        inner = space.calls.call(group, lender, SYS_CLONE, _CLONE_FILES, 0, 0, 0, 0)
        thread = group.remote.take_child()
        if inner < 0:
            raise SpaceError(f"the process could not be copied: {os.strerror(-inner)}")
        if thread is None:
            raise SpaceError("the copy of the process was killed at once")
        copy = cls(group, space, thread, inner)
        try:
            note(space.changes, change_journal.Kind.COPY, thread.tid, _named(thread.tid, inner))
            copy._set_up(thread)
        except (Gone, PtraceError) as error:
            copy.reap(lender)
            raise SpaceError(f"the copy of the process was lost: {error}") from error
        except BaseException:  # Also where it cannot be noted.
            copy.reap(lender)
            raise
        group.tracees.others[thread.tid] = copy._stopped
        return copy

    def _set_up(self, thread: Thread) -> None:
        # Not through our own gate, which may not have been in what was copied.
        calls = self._space.calls
        gate = calls.gate(thread.tid)
        # Linux 5.9. Before, the copy shares the descriptors, which then stay open as long.
        arguments = 0, 0xFFFF_FFFF, _CLOSE_RANGE_UNSHARE
        calls.call_at(gate, self._group, thread, SYS_CLOSE_RANGE, arguments)
        found = procfs.status(thread.tid)
        options = ptrace.OPTIONS | ptrace.PTRACE_O_EXITKILL
        if found is not None and found.seccomp:
            options |= ptrace.PTRACE_O_SUSPEND_SECCOMP
        ptrace.set_options(thread.tid, options)

    def unmap_memory(self) -> None:
        """Have it unmap all of its memory: its end then takes no time.

        It stops at the entry and the exit of the call, and runs no further.
        """
        if self.is_over:
            return
        registers = Registers()
        try:
            words = registers.load(self.tid)
            words[RIP] = self._space.calls.gate(self.tid)
            words[RAX], words[ORIG_RAX] = SYS_MUNMAP, NO_SYSCALL
            words[RDI], words[RSI] = 0, _ADDRESS_END
            registers.store(self.tid)
            ptrace.to_syscall(self.tid)
        except (Gone, PtraceError, SpaceError):
            self.is_over = True

    def _stopped(self, stop: Stop) -> None:
        """A stop at its last system call, or its end."""
        if stop.kind is Kind.SYSCALL and not self._stops:
            self._stops = 1
            with contextlib.suppress(Gone, PtraceError):
                ptrace.to_syscall(self.tid)
                return
        self.is_over = True
        self._group.request_attention()

    def reap(self, lender: Thread | None) -> None:
        """Kill and reap it; the target reaps it, too, if a thread can be borrowed."""
        self._group.tracees.others.pop(self.tid, None)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.tid, signal.SIGKILL)
        if not self._collect():
            # It sleeps: collected whenever it ends.
            self._group.tracees.others[self.tid] = self._collected
        elif lender is not None:
            with contextlib.suppress(Gone, SpaceError):
                self._space.calls.call(self._group, lender, SYS_WAIT4, self._inner_pid, 0, WALL, 0)
                self._space.changes.forget(change_journal.Kind.COPY, self.tid)

    def _collected(self, stop: Stop) -> None:
        if stop.kind in (Kind.EXITED, Kind.KILLED):
            self._group.tracees.others.pop(self.tid, None)

    def _collect(self) -> bool:
        """Whether it has ended in time."""
        tracees = self._group.tracees
        while found := tracees.await_stop(self.tid, _END):
            if decode(tracees.status.value).kind in (Kind.EXITED, Kind.KILLED):
                return True
        return found is False


_NAMED: Final = struct.Struct("<QI")


def _named(tid: int, inner: int) -> bytes:
    return _NAMED.pack(procfs.start_time(tid) or 0, inner)


def reap_lost(group: ThreadGroup, space: AddressSpace, lender: Thread, change: Change) -> None:
    """Have the target reap a copy whose tracer was killed; raises Gone and SpaceError.

    It has ended with that one, or does now.
    """
    start, inner = _NAMED.unpack(change.data.ljust(_NAMED.size, b"\0")[: _NAMED.size])
    deadline = time.monotonic() + _END
    while procfs.start_time(change.address) == start and start:
        if procfs.parent(change.address) != lender.tgid:
            break
        if procfs.run_state(change.address) == "Z":
            space.calls.call(group, lender, SYS_WAIT4, inner, 0, WALL | os.WNOHANG, 0)
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(change.address, signal.SIGKILL)
        if time.monotonic() > deadline:
            return  # It sleeps in the kernel; it stays noted.
        time.sleep(_LOOK)
    space.changes.forget(change_journal.Kind.COPY, change.address)


def _hears_of_forks(tid: int) -> bool:
    """Whether a process has asked to be told of its forks (UFFD_FEATURE_EVENT_FORK).

    The kernel makes ``fork`` wait until it has read that.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for each in Path(f"/proc/{tid}/fd").iterdir():
            if os.readlink(each) == _USERFAULTFD:  # noqa: PTH115
                lines = Path(f"/proc/{tid}/fdinfo/{each.name}").read_text().splitlines()
                api = next(line for line in lines if line.startswith("API:"))
                # userfaultfd_show_fdinfo (fs/userfaultfd.c): version, features, ioctls.
                if int(api.split(":")[2], 16) & _EVENT_FORK:
                    return True
    return False
