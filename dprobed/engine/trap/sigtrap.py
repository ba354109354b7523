"""The target's own SIGTRAP disposition and masks, kept although our breakpoints raise SIGTRAP.

The kernel *forces* an int3's SIGTRAP (force_sig_info_to_task, kernel/signal.c): if the thread
blocks or ignores SIGTRAP, it first resets the handler to the default and unblocks the signal. The
tracer only sees what is left. A target that never touches SIGTRAP does not notice and pays nothing
here.
For one that does:

* The *disposition* is known from /proc and a remote ``rt_sigaction`` at attach, and from then on
  from an internal breakpoint on libc's ``sigaction``. When a hit has destroyed it, it is put
  back before anybody can see it: when a SIGTRAP is delivered, at the next ``sigaction``, in a
  forked child, at ``exec`` and at detach.
* Whether a thread *blocks* SIGTRAP is known from its mask at attach or when it begins, and, once
  the target has a disposition, from an internal breakpoint on ``pthread_sigmask``. A mask that
  changed otherwise tells by itself: one that has everything but SIGTRAP has lost SIGTRAP to us. The
  bit is put back at each hit.

* A disposition set by a system call of the program's own is seen 0.1 s later, by its status. To
  be ignored is lost at a hit before that; so the default is *marked* at attach: it gets a restorer,
  which nobody looks at. Where the mark is gone, and the default is there, it was ignored. That is
  looked for when a SIGTRAP was sent, in a forked child, and at detach; and the mark is taken back.

A child that shares the memory (``vfork``) has handlers of its own, about which nothing is done.

Left over: a program that by a system call of its own ignores SIGTRAP and executes another, or sets
the default; a mask with SIGTRAP but not everything, set by a system call of its own, is not seen.
"""

from __future__ import annotations

import logging
import signal
from typing import Final

from dprobed.arch.x86_64.paging import WORD
from dprobed.arch.x86_64.registers import RDI, RSI, RSP
from dprobed.arch.x86_64.signal_frame import (
    KERNEL_ACTION_SIZE,
    LIBC_ACTION_FLAGS,
    LIBC_ACTION_MASK,
    SA_RESTORER,
)
from dprobed.arch.x86_64.syscalls import SYS_RT_SIGACTION
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.trap.notes import ThreadNotes
from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

_BIT: Final = 1 << (signal.SIGTRAP - 1)
#: SIGKILL and SIGSTOP cannot be blocked; glibc never lets 32 and 33 be.
_UNDECIDED: Final = 1 << 8 | 1 << 18 | 1 << 31 | 1 << 32
_EVERYTHING: Final = WORD & ~_UNDECIDED
_SIG_DFL: Final = 0
_SIG_IGN: Final = 1
_SIG_BLOCK: Final = 0
_SIG_UNBLOCK: Final = 1
#: The default, marked: flags and restorer. The number is "dprobed" in ASCII, no address.
_MARKED: Final = b"".join(
    word.to_bytes(8, "little") for word in (_SIG_DFL, SA_RESTORER, 0x6470_726F_6265_6400, 0)
)
#: Below the red zone of a borrowed stack (System V ABI, 3.2.2).
_SCRATCH: Final = 512

_log = logging.getLogger(__name__)


class Sigtrap:
    """SIGTRAP as one target has set it: disposition, and the masks of its threads."""

    def __init__(self, group: ThreadGroup, space: AddressSpace, notes: ThreadNotes) -> None:
        """``notes`` hold the signal masks of threads that block SIGTRAP."""
        self._group: Final = group
        self._notes: Final = notes
        self._registers: Final = Registers()
        #: The target's present one.
        self.space = space
        #: What the target set; None is the default.
        self.disposition: bytes | None = None
        #: A hit has reset it in the kernel.
        self._stale = False
        #: What the kernel had in place of the mark; None: there is no mark.
        self._unmarked: bytes | None = None
        #: ``__restore_rt`` of libc, which every handler's frame returns to.
        self.restorer = 0

    def take_over(self, other: Sigtrap) -> None:
        """Inherit the disposition of the parent, in a ``fork`` child."""
        self.disposition, self._stale = other.disposition, other._stale
        self._unmarked = other._unmarked

    @property
    def calm(self) -> bool:
        """Whether the target has SIGTRAP's default: one sent to it would kill it.

        So a SIGTRAP that comes where a breakpoint is, is the breakpoint's.
        """
        return self.disposition is None

    @property
    def is_marked(self) -> bool:
        """Whether there is a mark to be taken back."""
        return self._unmarked is not None

    # --- learning ---

    def is_meant_by(self, found: procfs.Status) -> bool:
        """Whether the kernel has SIGTRAP caught or ignored."""
        return bool((found.caught | found.ignored) & _BIT)

    def observe_process(self, thread: Thread) -> None:
        """Learn the disposition; ``thread`` is stopped and can be borrowed. Raises Gone."""
        found = procfs.status(thread.tid)
        if found is None or self._stale or not self._concerns(thread):
            return
        if self.is_meant_by(found):
            self.disposition = self._query(thread)
            self._unmarked = None
            return
        self.disposition = None
        # A seccomp filter may not like another system call of ours.
        if self._unmarked is None and not found.seccomp:
            self._mark(thread)

    def _mark(self, thread: Thread) -> None:
        action = self._query(thread)
        if action is not None and action[:8] == _MARKED[:8]:
            self._store(thread, _MARKED, self.space)
            self._unmarked = action

    def _unmark(self, thread: Thread, space: AddressSpace) -> bytes | None:
        """Take the mark back; the disposition that the target has set since. Raises Gone."""
        before, now = self._unmarked, self._query(thread, space)
        if before is None or now is None:
            return None
        if now == _MARKED:
            self._store(thread, before, space)
            return None
        # The default without the mark: "ignored", until a hit.
        return now if now[:8] != _MARKED[:8] else _SIG_IGN.to_bytes(8, "little") + now[8:]

    def learn(self, thread: Thread) -> None:
        """A SIGTRAP was sent to the thread, or is looked for: learn a disposition that a system
        call of the target's own has set. Raises Gone."""
        if self._unmarked is None or not self._concerns(thread):
            return
        set_since = self._unmark(thread, self.space)
        self._unmarked = None
        if set_since is not None:
            self.disposition, self._stale = set_since, True

    def _concerns(self, thread: Thread) -> bool:
        return thread.tgid == self.space.tgid

    def observe_thread(self, thread: Thread) -> None:
        """Learn whether a stopped thread blocks SIGTRAP; raises Gone."""
        mask = ptrace.get_sigmask(thread.tid)
        self._notes.set_trap_mask(thread, mask if mask & _BIT else None)

    def identified(self, thread: Thread, found: procfs.Status) -> None:
        """A thread's status was read: learn a disposition set since. Raises Gone."""
        if self.calm and self.is_meant_by(found):
            self.observe_process(thread)

    def changes(self, thread: Thread) -> None:
        """At the entry of ``sigaction``: note the disposition it will set. Raises Gone."""
        words = self._registers.load(thread.tid)
        if words[RDI] != signal.SIGTRAP or not self._concerns(thread):
            return
        new = words[RSI]
        self.learn(thread)
        self.restore(thread)
        if not new:
            return

        def word(offset: int, size: int = 8) -> int:
            return int.from_bytes(self.space.memory.peek(new + offset, size), "little")

        handler = word(0)
        if handler == _SIG_DFL:
            self.disposition = None
        else:
            flags = word(LIBC_ACTION_FLAGS, 4) | SA_RESTORER
            parts = (handler, flags, self.restorer, word(LIBC_ACTION_MASK))
            self.disposition = b"".join(part.to_bytes(8, "little") for part in parts)

    def masks(self, thread: Thread) -> None:
        """At the entry of ``pthread_sigmask``: note the mask that the thread will have."""
        words = self._registers.load(thread.tid)
        how, where = words[RDI] & 0xFFFF_FFFF, words[RSI]
        data = self.space.memory.peek(where, 8) if where else b""
        if len(data) != 8:
            return
        change = int.from_bytes(data, "little")
        mask = ptrace.get_sigmask(thread.tid)
        if how == _SIG_BLOCK:
            mask |= change
        elif how == _SIG_UNBLOCK:
            mask &= ~change
        else:
            mask = change
        self._notes.set_trap_mask(thread, mask if mask & _BIT else None)

    # --- repairing ---

    def after_hit(self, thread: Thread) -> bool:
        """Put back what a breakpoint's SIGTRAP changed; whether the thread blocks SIGTRAP.

        Raises Gone.
        """
        mask = ptrace.get_sigmask(thread.tid)
        if mask & _BIT:
            # The kernel found it pending and blocked, and left the mask alone; or it was put back.
            return True
        was = self._notes.of(thread).trap_mask
        same = was is not None and not (mask ^ was) & _EVERYTHING & ~_BIT
        blocks = same or not ~mask & _EVERYTHING & ~_BIT
        if self.disposition is not None and (blocks or self.is_ignored) and self._concerns(thread):
            self._stale = True
        if not blocks:
            self._notes.set_trap_mask(thread, None)
            return False
        self._notes.set_trap_mask(thread, mask | _BIT)
        ptrace.set_sigmask(thread.tid, mask | _BIT)
        return True

    def was_forced(self) -> None:
        """A single step of ours ended with a forced SIGTRAP."""
        if self.is_ignored:
            self._stale = True

    @property
    def is_ignored(self) -> bool:
        """Whether the target ignores SIGTRAP."""
        return (
            self.disposition is not None
            and self.disposition[0] == _SIG_IGN
            and not any(self.disposition[1:8])
        )

    def would_kill(self, thread: Thread) -> bool:
        """Whether an int3 of the target's own ends it: it blocks or ignores SIGTRAP."""
        return self._notes.of(thread).trap_mask is not None or self.is_ignored

    def restore(self, thread: Thread) -> None:
        """Give the kernel the target's disposition again; ``thread`` is borrowed. Raises Gone."""
        if self._stale and self._concerns(thread):
            self._stale = False
            if self.disposition is not None:
                self._store(thread, self.disposition, self.space)

    def restore_in_child(self, thread: Thread, space: AddressSpace) -> None:
        """``restore`` in a ``fork`` child, whose memory is ``space``; the parent's state stays.
        Raises Gone."""
        disposition = self.disposition if self._stale else None
        if self._unmarked is not None:
            disposition = self._unmark(thread, space)
        if disposition is not None:
            self._store(thread, disposition, space)

    def new_image(self, thread: Thread) -> None:
        """``exec``: handlers are gone, "ignored" stays. Raises Gone."""
        ignored, stale = self.is_ignored, self._stale
        self.disposition, self._stale, self._unmarked = None, False, None
        if ignored:
            self.disposition = _SIG_IGN.to_bytes(KERNEL_ACTION_SIZE, "little")
            if stale:
                self._store(thread, self.disposition, self.space)

    # --- system calls of a borrowed thread ---

    def _query(self, thread: Thread, space: AddressSpace | None = None) -> bytes | None:
        space = space or self.space
        scratch, saved = self._scratch(thread, space)
        try:
            result = self._sigaction(thread, 0, scratch, space)
            action = space.memory.peek(scratch, KERNEL_ACTION_SIZE)
        finally:
            space.memory.poke(scratch, saved)
        return action if result == 0 and len(action) == KERNEL_ACTION_SIZE else None

    def _store(self, thread: Thread, action: bytes, space: AddressSpace) -> None:
        scratch, saved = self._scratch(thread, space)
        try:
            space.memory.poke(scratch, action)
            self._sigaction(thread, scratch, 0, space)
        finally:
            space.memory.poke(scratch, saved)

    def _scratch(self, thread: Thread, space: AddressSpace) -> tuple[int, bytes]:
        address = (self._registers.load(thread.tid)[RSP] - _SCRATCH) & ~15
        return address, space.memory.peek(address, KERNEL_ACTION_SIZE)

    def _sigaction(self, thread: Thread, new: int, old: int, space: AddressSpace) -> int:
        try:
            return space.calls.call(
                self._group, thread, SYS_RT_SIGACTION, signal.SIGTRAP, new, old, 8
            )
        except SpaceError as error:
            _log.warning("process %d: SIGTRAP's handler: %s", space.tgid, error)
            return -1
