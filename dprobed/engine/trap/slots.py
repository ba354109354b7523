"""Signals for threads in out-of-line slots: the handler sees the original place.

* Before a signal is delivered the thread is brought out: forward by a single step with the signal
  held back, or, where stepping could block or take long (``syscall``, ``rep``), back to the probed
  instruction with a note (``ThreadNote.skip``) that the hit that follows the handler's return is
  the same one.
* A system call in a slot that a handler interrupts: only the kernel knows whether it restarts. The
  thread is stopped at the handler's first instruction (PTRACE_SINGLESTEP with a signal does that,
  arch/x86/kernel/signal.c) and the answer is read, and put right, in the signal frame.
* A fault of the copied instruction is reported at the original address, and the hit's record is
  withdrawn (unless ``logonfault``).
* Where a slot cannot stand for the place, because the target took its memory away, because the
  kernel judges a system call by its address, or because the place is in a restartable sequence, the
  thread goes back to the place, and the probes there are removed.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Final

from dprobed.arch.x86_64.registers import ORIG_RAX, RAX, RCX, RDI, RIP, RSI, RSP
from dprobed.arch.x86_64.relocation import Position, Where
from dprobed.arch.x86_64.siginfo import address_of, was_sent, with_address
from dprobed.arch.x86_64.signal_frame import (
    FRAME_RCX,
    FRAME_RDI,
    FRAME_RIP,
    FRAME_RSI,
    FRAME_RSP,
    RESTARTS,
)
from dprobed.change_journal import Kind
from dprobed.engine.interface import Listener
from dprobed.engine.positions import move_to
from dprobed.engine.runner import ProgramRunner
from dprobed.engine.trap.notes import ThreadNotes
from dprobed.engine.trap.sigtrap import Sigtrap
from dprobed.engine.trap.sites import Site, Sites
from dprobed.proc import procfs
from dprobed.tracee import memory, ptrace, restartable
from dprobed.tracee.borrower import Asleep
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.signals import SYNCHRONOUS, held_mask
from dprobed.tracee.status import Kind as StopKind
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

_UNMAPPED: Final = "the target took away the memory in which the probed instructions run"
_JUDGED: Final = (
    "the target has system calls trapped (seccomp, SYSCALL_USER_DISPATCH), this one too"
)


def noted_mask(mask: int) -> bytes:
    """A thread's mask as the data of its entry in the change journal."""
    return mask.to_bytes(8, "little")


def give_back_mask(tid: int, data: bytes) -> None:
    """Undo what a tracer that was killed while the thread made a step has left of its own mask.

    The thread may have set another since. Raises Gone.
    """
    mask = int.from_bytes(data, "little")
    if ptrace.get_sigmask(tid) == held_mask(mask):
        ptrace.set_sigmask(tid, mask)


def restarts(registers: Registers) -> bool:
    """Whether loaded registers are those of a system call that a signal interrupted."""
    return registers.words[RAX] in RESTARTS and not registers.words[ORIG_RAX] >> 63


class SlotExits:
    """Moves the threads of one target out of slots when signals require it."""

    def __init__(
        self,
        group: ThreadGroup,
        listener: Listener,
        runner: ProgramRunner,
        sigtrap: Sigtrap,
        notes: ThreadNotes,
        sites: Sites,
    ) -> None:
        #: Of the present address space.
        self.sites = sites
        #: Sites that cannot stay, as a thread's signal has shown, and why.
        self.lost: list[tuple[list[Site], str]] = []
        self._group: Final = group
        self._listener: Final = listener
        self._runner: Final = runner
        self._sigtrap: Final = sigtrap
        self._notes: Final = notes
        self._registers: Final = runner.registers
        self._words: Final = runner.registers.words

    def deliver(self, thread: Thread) -> None:
        """``thread.signal`` is about to be delivered: its handler must not see a slot."""
        try:
            self.deliver_checked(thread)
        except Gone:
            return

    def deliver_checked(self, thread: Thread) -> None:
        """``deliver``, but raises Gone."""
        words = self._registers.load(thread.tid)
        found = self.sites.slot_at(words[RIP])
        if found is None:
            return
        site, offset = found
        position = site.position(offset)
        if thread.signal in SYNCHRONOUS:
            info = thread.siginfo or ptrace.get_siginfo(thread.tid)
            if not was_sent(info):
                self._synchronous(thread, site, position, info)
                return
        self._leave_slot(thread, site, position)

    def restart_mark(self, site: Site) -> tuple[int, ...]:
        """By what the loaded registers are recognised when the instruction restarts.

        A system call leaves rcx behind, a repeated string instruction all three.
        """
        words = self._words
        return site.trap, words[RSP], words[RCX], words[RSI], words[RDI]

    def _take(self, thread: Thread, position: Position) -> None:
        move_to(self._registers, position)
        self._registers.store(thread.tid)

    def _leave_slot(self, thread: Thread, site: Site, position: Position) -> None:
        if position.where is Where.AFTER:
            if site.displaced.is_syscall and restarts(self._registers):
                if self._is_caught(thread):
                    self._notes.set_entering(thread, site)
                return
            self._take(thread, position)
        elif site.displaced.is_syscall or site.displaced.is_rep or site.displaced.saves_flags:
            self._go_back(thread, site, position)
        else:
            self._step_out(thread, site)

    @staticmethod
    def _is_caught(thread: Thread) -> bool:
        found = procfs.status(thread.tid)
        return found is not None and bool(found.caught >> (thread.signal - 1) & 1)

    def _synchronous(self, thread: Thread, site: Site, position: Position, info: bytes) -> None:
        """A synchronous signal for what the thread did in the slot; its siginfo shows where."""
        is_here = address_of(info) == self._words[RIP]
        is_sealed = self.sites.space.sealed
        if thread.signal == signal.SIGSYS:
            if not is_sealed:
                # The system call was not made. Whether it is one to be made can depend on where.
                self._lose(thread, Position(Where.BEFORE, site.address), [site], _JUDGED)
                return
            self._leave_slot(thread, site, position)
        elif thread.signal == signal.SIGTRAP:
            self._leave_slot(thread, site, position)
        elif thread.signal == signal.SIGSEGV and is_here and not is_sealed:
            # What could not be read is the slot.
            self._lose(thread, position, self.sites.lose_area_of(site), _UNMAPPED)
            return
        else:
            # The copied instruction itself faulted: report it at the original address.
            self._take(thread, Position(Where.BEFORE, site.address, position.rsp_delta))
            self._runner.withdraw(thread)
        if is_here:
            info = with_address(info, self._words[RIP])
            if thread.siginfo is not None:
                thread.siginfo = info
            else:
                ptrace.set_siginfo(thread.tid, info)

    def abort_address(self, thread: Thread, site: Site) -> int:
        """Where the restartable sequence that a thread at a site is in begins anew; 0: it is in
        none."""
        peek = self.sites.space.memory.peek
        return restartable.abort_address(peek, ptrace.rseq_address(thread.tid), site.address)

    def is_in_sequence(self, thread: Thread, site: Site) -> bool:
        """Whether a thread at a site is in a restartable sequence: then its probes go, and it
        begins the sequence anew."""
        if not self.abort_address(thread, site):
            return False
        self._lose(thread, Position(Where.BEFORE, site.address), [site], restartable.REASON)
        return True

    def _lose(self, thread: Thread, position: Position, sites: list[Site], reason: str) -> None:
        """Move to the original place, drop the signal, and pin until the sites are removed."""
        thread.signal, thread.siginfo = 0, None
        self._take(thread, position)
        thread.pinned = True
        self.lost.append((sites, reason))
        self._listener.lost(thread)

    def _go_back(self, thread: Thread, site: Site, position: Position) -> None:
        """Move back to the probed instruction; the hit when the handler returns is the same one."""
        move_to(self._registers, position)
        self._words[RIP] = site.address
        self._registers.store(thread.tid)
        self._notes.set_skip(thread, self.restart_mark(site))

    def _step_out(self, thread: Thread, site: Site) -> None:
        """Let the copied instruction finish before the signal is delivered.

        All others are held back meanwhile, for good if we were killed: so the mask is noted. Where
        it cannot be, the risk is taken: the thread must not stay in the slot.
        """
        changes = self.sites.space.changes
        with suppress(OSError):
            changes.note(Kind.MASK, thread.tid, noted_mask(ptrace.get_sigmask(thread.tid)))
        try:
            self._step_to_end(thread, site)
        finally:
            if thread.unfinished is None:  # else its mask is put back when it stops
                changes.forget(Kind.MASK, thread.tid)

    def _step_to_end(self, thread: Thread, site: Site) -> None:
        for _ in range(len(site.displaced.positions) + 1):
            try:
                stop = self._group.borrower.step(thread)
            except Asleep:
                if thread.unfinished is None:
                    self._go_back_from_slot(thread, site)
                raise
            self._sigtrap.was_forced()
            words = self._registers.load(thread.tid)
            found = self.sites.slot_at(words[RIP])
            if stop.kind is not StopKind.TRAP:
                # It faults: the handler comes first, and the fault again after it.
                if found is not None:
                    self._go_back(thread, site, found[0].position(found[1]))
                return
            if found is None or found[0] is not site:
                return
            position = site.position(found[1])
            if position.where is Where.AFTER:
                self._take(thread, position)
                return

    def _go_back_from_slot(self, thread: Thread, site: Site) -> None:
        """It waits for a page that does not come: the signal comes first, and the rest again."""
        words = self._registers.load(thread.tid)
        found = self.sites.slot_at(words[RIP])
        if found is not None and found[0] is site:
            self._go_back(thread, site, site.position(found[1]))

    def fix_frame(self, thread: Thread, site: Site) -> None:
        """At a handler's first instruction: correct a frame that would return into the slot."""
        frame = self._words[RSP]

        def word(offset: int) -> int:
            data = memory.read_present(thread.tid, frame + offset, 8)
            return int.from_bytes(data, "little")

        found = self.sites.slot_at(word(FRAME_RIP))
        if found is None or found[0] is not site:
            return
        position = site.position(found[1])
        poke = self.sites.space.memory.poke
        poke(frame + FRAME_RIP, position.address.to_bytes(8, "little"))
        if position.where is Where.BEFORE:
            saved = (FRAME_RSP, FRAME_RCX, FRAME_RSI, FRAME_RDI)
            self._notes.set_skip(thread, (site.trap, *map(word, saved)))
        elif position.rcx is not None:
            poke(frame + FRAME_RCX, position.rcx.to_bytes(8, "little"))

    def end_step(self, thread: Thread) -> bool:
        """Registers are loaded after a single step that a debugger asked for; false while the
        thread is still in a slot. Raises Gone."""
        found = self.sites.slot_at(self._words[RIP])
        if found is None:
            return True
        position = found[0].position(found[1])
        if position.where is not Where.AFTER:
            return False
        self._take(thread, position)
        return True
