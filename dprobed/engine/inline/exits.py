"""Threads in trampolines: brought out before they get a signal, or our pages go.

A handler never sees our code: the thread finishes it first, step by step, with the signal held
back. So a fault of a displaced instruction is reported at the original place, and who unwinds from
the handler finds the probed function.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from dprobed.arch.x86_64.registers import RIP
from dprobed.arch.x86_64.relocation import Position, Where
from dprobed.arch.x86_64.siginfo import address_of, was_sent, with_address
from dprobed.engine.inline.sites import JumpSites
from dprobed.engine.positions import move_to
from dprobed.tracee import ptrace
from dprobed.tracee.borrower import Asleep
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.signals import SYNCHRONOUS
from dprobed.tracee.status import Kind
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

#: Instructions of a trampoline that a thread is made to finish; with more it stays where it is.
_MOST_STEPS: Final = 20_000


class TrampolineExits:
    """Moves the threads of one target out of trampolines."""

    def __init__(self, group: ThreadGroup, registers: Registers) -> None:
        #: A thread may come back from where we do not see it, such as a signal handler.
        self.may_come_back = False
        self._group: Final = group
        self._registers: Final = registers
        self._sites: JumpSites | None = None

    def use(self, sites: JumpSites) -> None:
        """The sites of another address space."""
        self._sites = sites
        self.may_come_back = False

    def deliver(self, thread: Thread) -> None:
        """``thread.signal`` is about to be delivered to it."""
        sites = self._sites
        if sites is None or not sites.pages.areas:
            return
        try:
            self._deliver(thread, sites)
        except Asleep:
            self.may_come_back = True
        except Gone:
            pass

    def _deliver(self, thread: Thread, sites: JumpSites) -> None:
        rip = self._registers.load(thread.tid)[RIP]
        if not sites.pages.hold(rip):
            return
        if thread.signal in SYNCHRONOUS:
            info = thread.siginfo or ptrace.get_siginfo(thread.tid)
            if not was_sent(info):
                self._report_fault(thread, sites, rip, info)
                return
        if not self.step_out(thread, sites):
            self.may_come_back = True

    def _report_fault(self, thread: Thread, sites: JumpSites, rip: int, info: bytes) -> None:
        """The displaced instruction faulted: its fault is reported at the original place."""
        found = sites.trampoline_at(rip)
        position = found[1].position(rip) if found is not None else None
        if found is None or position is None:
            self.may_come_back = True
            return
        if position.where is not Where.AFTER:
            position = Position(Where.BEFORE, found[0].address, position.rsp_delta)
        self._take(thread, position)
        if address_of(info) == rip:
            info = with_address(info, position.address)
            if thread.siginfo is not None:
                thread.siginfo = info
            else:
                ptrace.set_siginfo(thread.tid, info)

    def _take(self, thread: Thread, position: Position) -> None:
        move_to(self._registers, position)
        self._registers.store(thread.tid)

    def step_out(self, thread: Thread, sites: JumpSites) -> bool:
        """Have a stopped thread finish what it does in our code; false: it cannot. Raises Gone,
        and Asleep where it sleeps there, and goes on later."""
        for _ in range(_MOST_STEPS):
            rip = self._registers.load(thread.tid)[RIP]
            if not sites.pages.hold(rip):
                return True
            found = sites.trampoline_at(rip)
            position = found[1].position(rip) if found is not None else None
            if position is not None and position.where is Where.AFTER:
                self._take(thread, position)
                return True
            if self._group.borrower.step(thread).kind is not Kind.TRAP:
                return False  # The displaced instruction faults: that comes when it goes on.
        return False

    def are_all_out(self) -> bool:
        """Whether no thread is, or will be, in our code; all are stopped."""
        sites = self._sites
        if sites is None or self.may_come_back:
            return False
        for thread in list(self._group.threads.values()):
            if thread.state in (State.STOPPED, State.HELD):
                with suppress(Gone):
                    if sites.pages.hold(self._registers.load(thread.tid)[RIP]):
                        return False
            elif thread.state is not State.ENDED:
                return False
        return True

    def leave_all(self) -> bool:
        """Bring all stopped threads out; whether no thread is, or will be, in our code. One that
        falls asleep there is, until it is tried again."""
        sites = self._sites
        if sites is None or self.may_come_back:
            return False
        left = True
        for thread in list(self._group.threads.values()):
            if thread.state in (State.STOPPED, State.HELD):
                try:
                    left = self.step_out(thread, sites) and left
                except Asleep:
                    left = False
                except Gone:
                    pass
        return left
