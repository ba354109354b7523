"""The trap engine: a breakpoint fires, the tracer runs the program, the thread goes on in a slot.

The plain way is int3 → program → slot, without a single step and without the breakpoint ever
leaving the text. What signals ask for besides is in ``slots``, what the target is to believe of
SIGTRAP in ``sigtrap``. An int3's SIGTRAP can still be pending when our interrupt stops the thread
first, or the signal of a fault in a slot: before a site goes, such a thread is let run into it;
otherwise the SIGTRAP would kill the target later, and the fault be reported elsewhere.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dprobed.arch.x86_64.breakpoint import INT3, SI_KERNEL, TRAP_HWBKPT
from dprobed.arch.x86_64.paging import WORD
from dprobed.arch.x86_64.python_ptrace import binding
from dprobed.arch.x86_64.registers import RIP, RSP
from dprobed.arch.x86_64.relocation import Where
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.interface import Listener, Location, Loss, Plan, Refusal, TrapStop, Twin
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.runner import ProgramRunner
from dprobed.engine.trap import copies
from dprobed.engine.trap.notes import ThreadNotes
from dprobed.engine.trap.sigtrap import Sigtrap
from dprobed.engine.trap.sites import Site, Sites
from dprobed.engine.trap.slots import SlotExits, take
from dprobed.engine.trap.takeout import TakeOut
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.wire.protocol import State as ProbeState

#: Of a hit, with a short program, where tracer and thread are on one CPU.
_COST_NS: Final = 17_000

_CONT: Final[int] = binding.PTRACE_CONT
_GETREGS: Final[int] = binding.PTRACE_GETREGS
_POKEUSER: Final[int] = binding.PTRACE_POKEUSER

_call = ptrace.raw_ptrace


class SiteAttachment(Attachment):
    """A place of a probe at a breakpoint site."""

    __slots__ = ("site",)

    def __init__(self, probe: Probe, location: Location, site: Site) -> None:
        super().__init__(
            probe, "trap", location.number, location.place, location.address, location.module_key
        )
        self.site: Final = site


class TrapEngine:
    """Serves the stops of a target's threads; knows sites and programs, not how they got there."""

    name: Final = "trap"

    def __init__(self, group: ThreadGroup, listener: Listener, runner: ProgramRunner) -> None:
        self.group: Final = group
        self.sites = Sites(AddressSpace.nowhere(0))
        #: The present sites' own: by what a thread's rip is after the breakpoint.
        self.by_trap = self.sites.by_trap
        self._notes: Final = ThreadNotes()
        self._noted: Final = self._notes.by_tid
        self.sigtrap: Final = Sigtrap(group, self.sites.space, self._notes)
        self._runner: Final = runner
        self._run: Final = runner.run
        self._registers: Final = runner.registers
        self._registers_at: Final[int] = runner.registers.address
        self._words: Final = runner.registers.words
        self._exits: Final = SlotExits(
            group, listener, runner, self.sigtrap, self._notes, self.sites
        )
        self._take_out: Final = TakeOut(group, self._registers, self._notes, self._exits)
        #: Released places that ``disarm`` is to look at.
        self._released: set[Site] = set()
        #: Whether the instruction at an address is watched, too, which shows as the same place.
        self._is_watched: Callable[[int], bool] = lambda address: False

    def use(self, space: AddressSpace) -> None:
        """See Engine."""
        self.use_sites(Sites(space))

    def use_sites(self, sites: Sites) -> None:
        """Begin with an address space in which these are."""
        self.sites = self._exits.sites = sites
        self.by_trap = sites.by_trap
        self._take_out.limbo.clear()
        self._noted.clear()
        self._released.clear()
        self.sigtrap.space = sites.space

    # --- a hit ---

    def serve_hit(self, thread: Thread, now: int) -> bool:
        """Serve a SIGTRAP stop of a running thread that is a breakpoint and nothing else, and let
        the thread go on; false: it is not, nothing was done."""
        tid = thread.tid
        if _call(_GETREGS, tid, 0, self._registers_at) != 0:
            return False
        site = self.by_trap.get(self._words[RIP])
        if (
            site is None
            or not site.plain
            or tid in self._noted
            or self.sigtrap.disposition is not None
        ):
            return False
        group = self.group
        try:
            self.hit(thread, site, now)
        except BaseException:
            group.tracees.blamed = group
            thread.state = State.STOPPED
            self.abandon(thread)
            raise
        # Before it goes on: on one CPU it runs at once, and we only later.
        group.overhead_ns += time.monotonic_ns() - now
        if thread.held or thread.pinned:
            thread.state = State.HELD
        else:
            _call(_CONT, tid, 0, 0)
        return True

    def hit(self, thread: Thread, site: Site, now: int) -> None:
        """Run the programs of a site for a thread whose registers are loaded, and move it on."""
        words, data = self._words, self._registers.data
        address = words[RIP] = site.address
        before = bytes(data)
        try:
            self._run(thread, site.attachments, site.displaced.may_fault, now)
        except Gone:
            return  # killed; its exit status comes next
        if data == before:
            # Nothing altered: one register is cheaper to store than all.
            _call(_POKEUSER, thread.tid, 8 * RIP, site.slot)
            return
        if words[RIP] == address:
            words[RIP] = site.slot
        with contextlib.suppress(Gone):
            self._registers.store(thread.tid)

    def abandon(self, thread: Thread) -> bool:
        """A defect of ours came between a stop and what it asks for: to the instruction again.

        False: the thread was not at a breakpoint.
        """
        with contextlib.suppress(Gone):
            words = self._registers.load(thread.tid)
            site = self.by_trap.get(words[RIP])
            if site is not None:
                words[RIP] = site.address
                self._registers.store(thread.tid)
                return True
        return False

    def give_up(self) -> None:
        """Run no program any more: ``abandon`` is what is done at a breakpoint from now on."""
        for site in self.by_trap.values():
            site.plain = False

    # --- stops off the fast path ---

    def serve(self, thread: Thread, stop: TrapStop, now: int) -> bool:
        """See Engine: our breakpoint, or a handler entered."""
        words = self._words
        entering = self._notes.of(thread).entering
        if entering is not None:
            self._notes.set_entering(thread, None)
            self._exits.fix_frame(thread, entering)
            return True
        code = stop.code
        site = self.by_trap.get(words[RIP])
        blocks = self._notes.of(thread).trap_mask is not None
        if (
            site is not None
            and code != TRAP_HWBKPT
            and (code == SI_KERNEL or blocks or site.displaced.length > 1)
        ):
            if code != SI_KERNEL:
                # A SIGTRAP that was sent to the thread was pending, and took the place of the
                # breakpoint's: there is only ever one. It is still to be delivered.
                thread.signal, thread.siginfo = signal.SIGTRAP, stop.info
            self._serve_site(thread, site, now)
            if code != SI_KERNEL:
                self.pass_on(thread, code)
            return True
        space = self.sites.space
        if code == SI_KERNEL and not space.sealed and space.memory.peek(words[RIP] - 1, 1) != INT3:
            # A breakpoint of ours that was taken out while this SIGTRAP was on its way.
            words[RIP] -= 1
            self._registers.store(thread.tid)
            return True
        return False

    def pass_on(self, thread: Thread, code: int) -> None:
        """A SIGTRAP of the target's own; raises Gone."""
        if code != SI_KERNEL or not self.sigtrap.would_kill(thread):
            if self.sigtrap.is_ignored and self._notes.of(thread).trap_mask is None:
                thread.signal, thread.siginfo = 0, None
                return
            thread.signal = signal.SIGTRAP
            self.sigtrap.restore(thread)
        thread.signal = signal.SIGTRAP
        if self._notes.of(thread).trap_mask is None:
            self._exits.deliver(thread)

    def repair(self, thread: Thread) -> None:
        """A SIGTRAP of ours may have changed what the target believes of it; raises Gone."""
        if not self.sigtrap.calm or self._notes.of(thread).trap_mask is not None:
            self.sigtrap.after_hit(thread)

    def _serve_site(self, thread: Thread, site: Site, now: int) -> None:
        self.repair(thread)
        skip = self._notes.of(thread).skip
        if skip is not None:
            here = self._exits.restart_mark(site)
            again = skip == here
            # Hits deeper in the stack are of the handler, which is yet to return. One in the same
            # place, but with other registers, says that the handler never will (siglongjmp).
            if again or skip[:2] == here[:2] or skip[1] < here[1]:
                self._notes.set_skip(thread, None)
            if again:
                self._words[RIP] = site.slot
                self._registers.store(thread.tid)
                return
        if site.callback is not None:
            if self.group.is_stopped:
                # What stops it has looked at modules and sites already, and is about to change
                # them: this thread calls again when that is done.
                self._words[RIP] = site.address
                self._registers.store(thread.tid)
                return
            site.callback(thread)
            self._registers.load(thread.tid)
        self.hit(thread, site, now)

    def deliver(self, thread: Thread) -> None:
        """``thread.signal`` is about to be delivered: its handler must not see a slot."""
        self._exits.deliver(thread)

    def end_step(self, thread: Thread) -> bool:
        """Registers are loaded after a single step that a debugger asked for; false while the
        thread is still in a slot. Raises Gone."""
        return self._exits.end_step(thread)

    def stepped(self, thread: Thread) -> None:
        """The SIGTRAP of a debugger's single step came; raises Gone."""
        self.sigtrap.was_forced()
        if self._notes.of(thread).trap_mask is not None:
            self.sigtrap.after_hit(thread)

    # --- threads ---

    def begin(self, thread: Thread) -> None:
        """See Engine."""
        self._notes.forget(thread)
        self.sigtrap.observe_thread(thread)

    def forget(self, thread: Thread) -> None:
        """See Engine."""
        self._notes.forget(thread)

    def moved(self, thread: Thread) -> None:
        """A debugger set another pc or stack: no restart will come."""
        self._notes.set_skip(thread, None)

    def leave(self, registers: Registers) -> bool:
        """See Engine."""
        found = self.sites.slot_at(registers.words[RIP])
        if found is None:
            return False
        take(registers, found[0].position(found[1]))
        return True

    def hit_in_slot(self, registers: Registers) -> tuple[int, int] | None:
        """Of a thread that has yet to carry out a hit in a slot: the site's address and rsp."""
        found = self.sites.slot_at(registers.words[RIP])
        if found is None:
            return None
        position = found[0].position(found[1])
        if position.where is Where.AFTER:
            return None
        return found[0].address, registers.words[RSP] + position.rsp_delta & WORD

    def enter_slot(self, registers: Registers) -> bool:
        """Have loaded registers go on in the slot of the site that they are at, if there is one."""
        site = self.by_trap.get(registers.words[RIP] + 1)
        if site is not None:
            registers.words[RIP] = site.slot
        return site is not None

    def original_place(self, rip: int) -> int:
        """What a thread's rip is equivalent to."""
        found = self.sites.slot_at(rip)
        return rip if found is None else found[0].position(found[1]).address

    def may_have_hit(self, registers: Registers) -> bool:
        """Whether loaded registers are behind a breakpoint, whose SIGTRAP may yet come."""
        return registers.words[RIP] in self.by_trap

    def breakpoints(self) -> dict[int, int]:
        """By address, the byte that stands under each breakpoint of ours that may be in memory."""
        return {site.address: site.original[0] for site in self.sites.all() if not site.gone}

    def displaces(self, address: int, length: int) -> bool:
        """Whether an instruction there runs in a slot, so that what stands in memory does not."""
        return any(
            site.address < address + length and address < site.address + site.displaced.length
            for site in self.by_trap.values()
        )

    def original(self, address: int, data: bytearray) -> None:
        """See Engine."""
        end = address + len(data)
        for site in self.by_trap.values():
            if address <= site.address < end and not site.gone:
                data[site.address - address] = site.original[0]

    # --- putting in ---

    def offer(self, probe: Probe, location: Location) -> Plan | Refusal:
        """See Engine; what the instruction says to being displaced, ``reserve`` finds out."""
        opcode = location.opcode
        if opcode:
            actual = self.sites.text(location.address, len(opcode))
            if actual != opcode:
                found = actual.hex(" ") or "nothing"
                return Refusal(ProbeState.MISMATCH, f"expected {opcode.hex(' ')}, found {found}")
        return Plan(probe, location, _COST_NS)

    def reserve(self, plans: Sequence[Plan]) -> list[tuple[Plan, Refusal]]:
        """See Engine: a slot for each site."""
        if plans:
            self.sites.reserve(self.group, [plan.location.address for plan in plans])
        refused = []
        for plan in plans:
            try:
                self.sites.make(plan.location.address)
            except SpaceError as error:
                refused.append((plan, Refusal(ProbeState.FAILED, str(error))))
        return refused

    def arm(
        self, plans: Sequence[Plan], late: list[Thread]
    ) -> list[tuple[Plan, Attachment | Refusal]]:
        """See Engine."""
        results: list[tuple[Plan, Attachment | Refusal]] = []
        armed: list[Site] = []
        for plan in plans:
            site = self.sites.ready(plan.location.address)
            if site is None or not self.sites.arm(site):
                reason = f"the code at {plan.location.address:#x} changed meanwhile"
                results.append((plan, Refusal(ProbeState.FAILED, reason)))
                continue
            attachment = SiteAttachment(plan.probe, plan.location, site)
            site.attachments.append(attachment)
            results.append((plan, attachment))
            armed.append(site)
        self._take_out.take_in(armed)
        return results

    def abandon_reserved(self) -> None:
        """See Engine."""
        self.sites.discard_unarmed()

    def call_back(self, address: int, callback: Callable[[Thread], None]) -> None:
        """An internal breakpoint, called at each hit; raises SpaceError and Gone."""
        self.sites.reserve(self.group, [address])
        site = self.sites.make(address)
        site.callback = callback
        with self.group.stopped():
            self.sites.arm(site)
            self.classify(self._is_watched)
        self.sites.discard_unarmed()

    def called_back(self, address: int, callback: Callable[[Thread], None]) -> bool:
        """The same for a site that is in a copied address space; false: it is not."""
        site = self.by_trap.get(address + 1)
        if site is not None:
            site.callback = callback
        return site is not None

    def classify(self, is_watched: Callable[[int], bool]) -> None:
        """Tell each site whether a hit may be taken for granted (``Site.plain``).

        Not if it has a callback; nor if the instruction behind its one byte ``is_watched``, which
        shows the same address.
        """
        self._is_watched = is_watched
        for site in self.by_trap.values():
            site.plain = site.callback is None and not (
                site.displaced.length == 1 and is_watched(site.trap)
            )

    # --- taking out ---

    def attachments(self) -> list[Attachment]:
        """See Engine."""
        return [each for site in self.sites.all() for each in site.attachments]

    def release(self, attachments: Iterable[Attachment]) -> bool:
        """See Engine."""
        for attachment in attachments:
            assert isinstance(attachment, SiteAttachment)
            attachment.site.attachments.remove(attachment)
            if attachment.site.is_empty:
                self._released.add(attachment.site)
        return any(site.is_empty for site in self._released)

    def disarm(self, late: list[Thread]) -> None:
        """See Engine."""
        released, self._released = self._released, set()
        self._take_out.remove([site for site in released if site.is_empty], late)

    def remove_empty(self) -> None:
        """Sites that nobody needs in a copied address space: all threads are stopped."""
        self._take_out.remove([site for site in self.sites.all() if site.is_empty], [])

    def unmapped(self, attachments: Iterable[Attachment]) -> None:
        """See Engine."""
        for attachment in attachments:
            assert isinstance(attachment, SiteAttachment)
            attachment.site.gone = True

    def lost(self) -> list[Loss]:
        """See Engine."""
        lost, self._exits.lost = self._exits.lost, []
        there = set(self.sites.all())
        return [
            self._give_up([site for site in sites if site in there], reason)
            for sites, reason in lost
        ]

    def overwritten(self, attachments: Iterable[Attachment]) -> list[Loss]:
        """See Engine."""
        sites = {each.site for each in attachments if isinstance(each, SiteAttachment)}
        lost = self.sites.overwritten(sites)
        return [self._give_up(lost, "the target changed its code there")] if lost else []

    def _give_up(self, sites: list[Site], reason: str) -> Loss:
        loss = Loss([], reason, any(site.callback is not None for site in sites))
        for site in sites:
            loss.attachments.extend(site.attachments)
            site.attachments.clear()
            site.callback = None
            self._released.add(site)
        return loss

    def withdraw(self, late: list[Thread]) -> None:
        """See Engine."""
        self._released.clear()
        self._take_out.remove(self.sites.all(), late)

    # --- other address spaces ---

    def forked(self, child: TrapEngine, twin: Twin) -> list[Attachment]:
        """See Engine."""
        found: list[Attachment] = []
        for site in self.sites.all():
            there = child.by_trap.get(site.trap)
            for old in site.attachments:
                new = twin(old)
                if new is None or there is None:
                    continue  # it does not follow, or is a debugger's
                location = Location(old.address, new[1], old.place, old.module_key)
                attachment = SiteAttachment(new[0], location, there)
                there.attachments.append(attachment)
                found.append(attachment)
        return found

    def release_child(self, thread: Thread) -> None:
        """A ``fork`` child has a copy of our changes: undo them there, and detach from it.

        Raises Gone, and SpaceError when there is no way into its memory.
        """
        try:
            copy = copies.undone(self.sites, self.group, thread)
        except OSError:
            raise Gone(thread.tid) from None
        self._take_out.clean_child(thread, copy, self.sigtrap)
        self.group.detach(thread)

    def left_copy(self, thread: Thread) -> bool:
        """Whether an unknown process's memory is a copy of the target's."""
        try:
            return copies.are_in(self.sites, self.group, thread)
        except (Gone, SpaceError):
            return False

    def exec(self) -> None:
        """See Engine."""
        self._released.clear()
        self.sites.clear()
