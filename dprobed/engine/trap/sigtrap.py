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

Where the target has SIGTRAP's default, the *guard* (``guard``) is the handler in truth: threads do
not die at breakpoints when the tracer does. It is taken away before the target could see it: at the
entry of ``sigaction`` (for a second), before a SIGTRAP of its own is delivered, in a released
child, at detach. What is there then in its place a system call of the program's own has set; to be
ignored among it, which a hit makes the default.

A child that shares the memory (``vfork``) has handlers of its own, about which nothing is done.

Left over: a handler set by a system call of the program's own is seen 0.1 s later, or after up to a
minute where it takes the place of the guard; a program that by a system call of its own ignores
SIGTRAP and executes another, or sets the default; a mask with SIGTRAP but not everything, set by a
system call of its own, is not seen.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from typing import Final

from dprobed.arch.x86_64.breakpoint import SI_KERNEL
from dprobed.arch.x86_64.paging import WORD
from dprobed.arch.x86_64.registers import RDI, RIP, RSI
from dprobed.arch.x86_64.siginfo import code_of
from dprobed.arch.x86_64.signal_frame import KERNEL_ACTION_SIZE
from dprobed.change_journal import Kind
from dprobed.engine.errors import SpaceError
from dprobed.engine.trap.installed_guard import InstalledGuard
from dprobed.engine.trap.notes import ThreadNotes
from dprobed.engine.trap.sigaction import SIG_IGN, Sigaction, action_of_libc, handler_of
from dprobed.engine.trap.sites import Sites
from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

_BIT: Final = 1 << (signal.SIGTRAP - 1)
#: SIGKILL and SIGSTOP cannot be blocked; glibc never lets 32 and 33 be.
_UNDECIDED: Final = 1 << 8 | 1 << 18 | 1 << 31 | 1 << 32
_EVERYTHING: Final = WORD & ~_UNDECIDED
_SIG_BLOCK: Final = 0
_SIG_UNBLOCK: Final = 1

_log = logging.getLogger(__name__)


def _blocks(tid: int) -> bool:
    found = procfs.status(tid)
    return found is not None and bool(found.blocked & _BIT)


class Sigtrap:
    """SIGTRAP as one target has set it: disposition, and the masks of its threads."""

    def __init__(self, group: ThreadGroup, sites: Sites, notes: ThreadNotes) -> None:
        """``notes`` hold the signal masks of threads that block SIGTRAP."""
        self._group: Final = group
        self._notes: Final = notes
        self._registers: Final = Registers()
        #: The target's present one, and the guard in it.
        self.space = sites.space
        self.guard = sites.guard
        self._by_trap = sites.by_trap
        self._kernel: Final = Sigaction(group)
        self.installed: Final = InstalledGuard(sites, self._kernel)
        #: Why the target cannot have the guard; empty: it can.
        self.obstacle = ""
        #: What the target set; None is the default.
        self.disposition: bytes | None = None
        #: A hit has reset it in the kernel.
        self._stale = False
        #: ``__restore_rt`` of libc, which every handler's frame returns to.
        self.restorer = 0

    def use(self, sites: Sites) -> None:
        """Start in an address space that has these sites."""
        self.space, self.guard = sites.space, sites.guard
        self._by_trap = sites.by_trap
        self.installed.use(sites)

    def take_over(self, other: Sigtrap) -> None:
        """Inherit the disposition of the parent, in a ``fork`` child."""
        self.disposition, self._stale = other.disposition, other._stale
        self.installed.is_there = other.installed.is_there

    @property
    def calm(self) -> bool:
        """Whether the target has SIGTRAP's default: one sent to it would kill it.

        So a SIGTRAP that comes where a breakpoint is, is the breakpoint's.
        """
        return self.disposition is None

    # --- learning ---

    def is_meant_by(self, found: procfs.Status) -> bool:
        """Whether the kernel has SIGTRAP caught or ignored."""
        return bool((found.caught | found.ignored) & _BIT)

    def observe_process(self, thread: Thread) -> None:
        """Learn the disposition; ``thread`` is stopped and can be borrowed. Raises Gone."""
        found = procfs.status(thread.tid)
        if found is None or self._stale or not self._concerns(thread):
            return
        meant = self.is_meant_by(found)
        action = self._kernel.exchange(thread, self.space, 0) if meant else None
        self._learn(action)

    def _learn(self, action: bytes | None) -> None:
        """Note what the kernel has as SIGTRAP's disposition; None: the default."""
        # A guard that another tracer left behind when it was killed is none of the target's.
        self.disposition = None if self.installed.learn(handler_of(action)) else action

    def _concerns(self, thread: Thread) -> bool:
        return thread.tgid == self.space.tgid

    def observe_thread(self, thread: Thread) -> None:
        """Learn whether a stopped thread blocks SIGTRAP; raises Gone."""
        mask = ptrace.get_sigmask(thread.tid)
        self._notes.set_trap_mask(thread, mask if mask & _BIT else None)

    def identified(self, thread: Thread, found: procfs.Status) -> None:
        """A thread's status was read: learn a disposition set since. Raises Gone."""
        if not self.calm or self._stale or not self._concerns(thread):
            return
        if self._group.borrower.is_waiting:
            return  # Another thread does something for us: there is one gate, and one way back.
        meant = self.is_meant_by(found)
        if not self.installed.is_look_due(meant):
            return
        self._stand_at_site(thread)
        if self.installed.is_there:
            self._learn_set(self.installed.look(thread))
            self.restore(thread)
        elif meant:
            self.observe_process(thread)
        self.install_guard(thread)

    def _stand_at_site(self, thread: Thread) -> None:
        """Before a thread in the middle of a hit makes a system call for us: move it to the
        breakpoint. Its SIGTRAP is gone with that, and let go behind the breakpoint, by our death,
        its instruction would be skipped. Whoever serves the hit sets rip in any case."""
        site = self._by_trap.get(self._registers.load(thread.tid)[RIP])
        if site is not None and code_of(ptrace.get_siginfo(thread.tid)) == SI_KERNEL:
            ptrace.go_to(thread.tid, site.address)

    def _learn_set(self, action: bytes | None) -> None:
        """A system call of the target's own has set this in the guard's place; None: none has."""
        if action is not None:
            self.disposition = action
            self._spoiled()

    # --- the guard ---

    def why_no_guard(self) -> str:
        """Why the target cannot have the guard; empty: it can, as far as is known."""
        if self.is_ignored:
            return "it ignores SIGTRAP"
        if self.disposition is not None:
            return "it has a SIGTRAP handler of its own"
        return self.obstacle

    def why_unguarded(self) -> str:
        """Why a breakpoint would end the target if we were killed; empty: it would not."""
        if reason := self.why_no_guard():
            return reason
        noted = [tid for tid, note in self._notes.by_tid.items() if note.trap_mask is not None]
        blocking = [tid for tid in noted if _blocks(tid)]
        if blocking:
            more = f", and {len(blocking) - 1} more," if len(blocking) > 1 else ""
            return f"thread {min(blocking)}{more} blocks SIGTRAP"
        if not self.installed.is_there:
            return "the handler is away, because the target looked at SIGTRAP's, until the next hit"
        return ""

    def prepare_guard(self, count: int) -> None:
        """Have the guard installed, with room for so many sites more; ``obstacle``: why it cannot
        be. Raises Gone."""
        guard = self.guard
        if guard.has_room(count) and self.installed.is_there:
            return
        try:
            with self._group.borrower.borrowed(self.space.tgid) as thread:
                if not guard.has_room(count):
                    guard.prepare(self._group, thread, count)
                    self.installed.is_there = False
                self.install_guard(thread)
            self.obstacle = ""
        except SpaceError as error:
            self.obstacle = str(error)
            _log.warning("process %d is not guarded: %s", self.space.tgid, error)

    def install_guard(self, thread: Thread) -> None:
        """Make the guard SIGTRAP's handler, where the target has none; ``thread`` is borrowed.

        Raises Gone.
        """
        if self.calm and self._concerns(thread):
            self.disposition = self.installed.install(thread)

    def remove_guard(self, thread: Thread) -> None:
        """Take the guard away, and learn what a system call of the target's own has set in its
        place, which ``restore`` then puts back; ``thread`` is borrowed. Raises Gone."""
        if self._concerns(thread):
            self._learn_set(self.installed.remove(thread))

    # --- at the entry of functions of libc ---

    def changes(self, thread: Thread) -> None:
        """At the entry of ``sigaction``: note the disposition it will set. Raises Gone."""
        words = self._registers.load(thread.tid)
        if words[RDI] != signal.SIGTRAP or not self._concerns(thread):
            return
        new = words[RSI]
        # What it finds there must be its own; the guard comes back later, when it has looked.
        self.remove_guard(thread)
        self.installed.stay_away()
        self.restore(thread)
        if new:
            self.disposition = action_of_libc(self.space, new, self.restorer)

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

    # --- after a tracer that was killed ---

    def adopt(self, thread: Thread, lost: bytes | None) -> None:
        """Take over what another tracer left; ``lost``: the disposition that a hit has reset, if
        nobody has set one since. ``thread`` is borrowed; raises Gone."""
        action = self._kernel.exchange(thread, self.space, 0)
        self.guard.prefer(handler_of(action))
        self._learn(action if handler_of(action) else None)
        if lost is not None and self.disposition is None and not self.installed.is_there:
            self.disposition, self._stale = lost, True
            self.restore(thread)

    # --- repairing ---

    def _spoiled(self) -> None:
        """A hit has reset the target's disposition in the kernel."""
        self._stale = True
        if self.disposition is not None:
            with contextlib.suppress(OSError):  # then it is lost with us, as it was before
                self.space.changes.note(Kind.DISPOSITION, 0, self.disposition)

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
            self._spoiled()
        if not blocks:
            self._notes.set_trap_mask(thread, None)
            if self._notes.of(thread).handles:
                self._after_hit_in_handler(thread, mask)
            return False
        if self._concerns(thread):
            # Such a hit resets it (force_sig_info_to_task, kernel/signal.c).
            self.installed.is_there = False
        self._notes.set_trap_mask(thread, mask | _BIT)
        ptrace.set_sigmask(thread.tid, mask | _BIT)
        return True

    def _after_hit_in_handler(self, thread: Thread, mask: int) -> None:
        """The same where the thread is perhaps in the target's handler of SIGTRAP, while which
        SIGTRAP is blocked: only what the kernel has reset tells, so that is put back at once.

        The mask is no note: it is another one when the handler returns. Raises Gone.
        """
        if self.disposition is None or self.is_ignored or not self._concerns(thread):
            return
        found = procfs.status(thread.tid)
        if found is None or self.is_meant_by(found):
            return
        is_its_own = not self._stale  # else a hit of another thread may have reset it
        self._stand_at_site(thread)
        self._spoiled()
        self.restore(thread)
        if is_its_own:
            ptrace.set_sigmask(thread.tid, mask | _BIT)

    def was_forced(self) -> None:
        """A single step of ours ended with a forced SIGTRAP."""
        if self.is_ignored:
            self._spoiled()

    @property
    def is_ignored(self) -> bool:
        """Whether the target ignores SIGTRAP."""
        return (
            self.disposition is not None
            and self.disposition[0] == SIG_IGN
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
                self._kernel.store(thread, self.space, self.disposition)
            self.space.changes.forget(Kind.DISPOSITION, 0)

    def restore_in_child(self, thread: Thread, copy: Sites) -> None:
        """``restore`` in a ``fork`` child, whose memory is a copy, and remove the guard there; the
        parent's state stays. Raises Gone."""
        disposition = self.disposition if self._stale else None
        if self.installed.is_there:
            disposition = self.installed.remove_in_child(thread, copy)
        if disposition is not None:
            self._kernel.store(thread, copy.space, disposition)

    def new_image(self, thread: Thread) -> None:
        """``exec``: handlers are gone, "ignored" stays. Raises Gone."""
        ignored, stale = self.is_ignored, self._stale
        self.installed.is_there = False
        self.disposition, self._stale = None, False
        if ignored:
            self.disposition = SIG_IGN.to_bytes(KERNEL_ACTION_SIZE, "little")
            if stale:
                # The kernel has the default. In the middle of ``exec`` a thread makes no call for
                # us, so it is put back when we go, as after any hit.
                self._spoiled()
