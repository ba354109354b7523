"""Removes breakpoint sites, and threads from their slots, while all threads are stopped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import Final

from dprobed.arch.x86_64.registers import RIP
from dprobed.engine.positions import move_to
from dprobed.engine.trap.notes import ThreadNotes
from dprobed.engine.trap.sigtrap import Sigtrap
from dprobed.engine.trap.sites import Site, Sites
from dprobed.engine.trap.slots import SlotExits, restarts
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

_log = logging.getLogger(__name__)


class SiteRemoval:
    """Removes the sites of one target."""

    def __init__(
        self, group: ThreadGroup, registers: Registers, notes: ThreadNotes, exits: SlotExits
    ) -> None:
        #: Disarmed sites whose slots a thread that could not be stopped may be in.
        self.not_freed: set[Site] = set()
        self._group: Final = group
        self._registers: Final = registers
        self._notes: Final = notes
        self._exits: Final = exits

    @property
    def _sites(self) -> Sites:
        return self._exits.sites

    def remove(self, sites: list[Site], unstoppable: list[Thread]) -> None:
        """Remove sites from the text and every thread from their slots.

        ``unstoppable``: their slots stay for as long as these threads may be in one.
        """
        removing = self.not_freed | set(sites)
        for thread in self._stopped_threads():
            self._collect_pending(thread, removing)
        for site in sites:
            self._sites.disarm(site)
        for thread in self._stopped_threads():
            try:
                self.leave_slots(thread, removing)
            except Gone:
                continue
        if unstoppable or any(each.unfinished is not None for each in self._group.threads.values()):
            self.not_freed = removing
            return
        self.not_freed = set()
        self._sites.free(removing)

    def redirect_restarts(self, sites: Iterable[Site]) -> None:
        """Have system calls that our stop interrupted at these new sites restart in the slot.

        The restart is not another hit.
        """
        behind = {
            site.address + site.displaced.length: site
            for site in sites
            if site.displaced.is_syscall
        }
        if not behind:
            return
        for thread in self._stopped_threads():
            with contextlib.suppress(Gone):
                words = self._registers.load(thread.tid)
                site = behind.get(words[RIP])
                if site is not None and restarts(self._registers):
                    words[RIP] = site.slot + site.displaced.length
                    self._registers.store(thread.tid)
                    if thread.signal:  # on its way since before the thread was in a slot
                        self._exits.deliver_checked(thread)

    def leave_slots(self, thread: Thread, removing: set[Site]) -> None:
        """Take a stopped thread out of the slots of these sites; raises Gone."""
        words = self._registers.load(thread.tid)
        found = self._sites.slot_at(words[RIP])
        if found is not None and found[0] in removing:
            move_to(self._registers, found[0].position(found[1]))
            self._registers.store(thread.tid)
        note = self._notes.of(thread)
        if note.entering in removing:
            self._notes.set_entering(thread, None)
        if note.skip is not None and self._sites.by_trap.get(note.skip[0]) is None:
            self._notes.set_skip(thread, None)

    def clean_child(self, thread: Thread, copy: Sites, sigtrap: Sigtrap) -> None:
        """Undo what is not text in a ``fork`` child: rip, our pages, SIGTRAP. Closes ``copy``;
        raises Gone."""
        try:
            self._registers.load(thread.tid)
            found = copy.slot_at(self._registers.words[RIP])
            if found is not None:
                move_to(self._registers, found[0].position(found[1]))
                self._registers.store(thread.tid)
            try:
                copy.space.resident.unmap(self._group, thread)
            except Exception as error:
                # It keeps a few pages that nothing refers to.
                _log.warning("child %d keeps our pages: %s", thread.tid, error)
            sigtrap.restore_in_child(thread, copy)
            try:
                copy.guard.unmap(self._group, thread)
            except Exception as error:
                _log.warning("child %d keeps our pages: %s", thread.tid, error)
            copy.space.calls.remove_gate()
        finally:
            copy.space.close()

    def places(self) -> list[tuple[Thread, int]]:
        """Where the stopped threads are."""
        found = []
        for thread in self._stopped_threads():
            with contextlib.suppress(Gone):
                found.append((thread, self._registers.load(thread.tid)[RIP]))
        return found

    def _stopped_threads(self) -> list[Thread]:
        return [
            thread
            for thread in list(self._group.threads.values())
            if thread.state in (State.STOPPED, State.HELD)
        ]

    def _collect_pending(self, thread: Thread, removing: set[Site]) -> None:
        """Serve a breakpoint or a fault in a slot that this thread has not reported yet."""
        try:
            rip = self._registers.load(thread.tid)[RIP]
            found = self._sites.slot_at(rip)
            site = self._sites.by_trap.get(rip) if found is None else found[0]
            if site in removing and not thread.signal:
                self._group.borrower.collect(thread)
        except Gone:
            return
