"""The trap engine: a breakpoint fires, the tracer runs the program, the thread goes on in a slot.

The plain way is int3 → program → slot, without a single step and without the breakpoint ever
leaving the text. Signals for threads in slots: ``slots``; the target's own use of SIGTRAP:
``sigtrap``. An int3's SIGTRAP can still be pending when our interrupt stops the thread first,
or the signal of a fault in a slot: before a site is removed, such a thread is resumed until it
reports that; else the SIGTRAP would kill the target later, and the fault be reported elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.interface import (
    AtStops,
    Listener,
    Location,
    Loss,
    Plan,
    Refusal,
    TrapStop,
    Twin,
)
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.runner import ProgramRunner
from dprobed.engine.trap import copies
from dprobed.engine.trap.attachments import (
    SiteAttachment,
    attach,
    attach_twins,
    detach,
    site_of,
)
from dprobed.engine.trap.removal import SiteRemoval
from dprobed.engine.trap.sigtrap import Sigtrap
from dprobed.engine.trap.sites import Site, Sites
from dprobed.engine.trap.stops import TrapStops
from dprobed.engine.trap.view import OriginalView
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.wire.engines import TRAP
from dprobed.wire.protocol import State as ProbeState

#: Of a hit, with a short program, where tracer and thread are on one CPU.
_COST_NS: Final = 17_000


class TrapEngine(AtStops):
    """The trap engine of one target."""

    names: Final = (TRAP,)

    def __init__(
        self,
        group: ThreadGroup,
        listener: Listener,
        runner: ProgramRunner,
        is_watched: Callable[[int], bool],
    ) -> None:
        """``is_watched``: whether the execution of an instruction is; its stop shows the same
        address as a breakpoint of one byte before it."""
        self.group: Final = group
        sites = Sites(AddressSpace.unopened(0))
        made = TrapStops(group, listener, runner, sites, self.make_room, self._classify)
        self.stops: Final = made
        self.view = OriginalView(sites)
        self.removal: Final = SiteRemoval(group, runner.registers, made.notes, made.exits)
        #: The rule that refuses breakpoints where the target is not guarded; empty: none does.
        self.only_guarded = ""
        #: Sites that ``disarm`` removes if no attachment is left.
        self._released: set[Site] = set()
        self._is_watched: Final = is_watched

    def use(self, space: AddressSpace) -> None:
        """See Engine."""
        self.use_sites(Sites(space))

    def use_sites(self, sites: Sites) -> None:
        """Start in an address space that has these sites."""
        self.stops.use(sites)
        self.view = OriginalView(sites)
        self.removal.not_freed.clear()
        self._released.clear()

    # --- threads and their stops ---

    @property
    def sites(self) -> Sites:
        """The sites of the present address space."""
        return self.stops.sites

    @property
    def by_trap(self) -> dict[int, Site]:
        """The armed sites, by the rip of a thread behind the breakpoint."""
        return self.stops.by_trap

    @property
    def sigtrap(self) -> Sigtrap:
        """The target's own use of SIGTRAP."""
        return self.stops.sigtrap

    def serve(self, thread: Thread, stop: TrapStop, now: int) -> bool:
        """See Engine: a breakpoint of ours, or the entry of a signal handler."""
        return self.stops.serve(thread, stop, now)

    def begin(self, thread: Thread) -> None:
        """See Engine."""
        self.stops.notes.forget(thread)
        self.sigtrap.observe_thread(thread)

    def forget(self, thread: Thread) -> None:
        """See Engine."""
        self.stops.notes.forget(thread)
        self.stops.returns.calls.ended(thread.tid, last=not thread.group.threads)

    def deliver(self, thread: Thread) -> None:
        """See Engine."""
        self.stops.deliver(thread)

    def leave(self, registers: Registers) -> bool:
        """See Engine."""
        return self.view.leave(registers)

    def original(self, address: int, data: bytearray) -> None:
        """See Engine."""
        self.view.original(address, data)

    # --- putting in ---

    def offer(self, probe: Probe, location: Location) -> Plan | Refusal | None:
        """See Engine; whether the instruction can be displaced, ``reserve`` finds out."""
        if location.kind:
            return None
        opcode = location.opcode
        if opcode:
            actual = self.sites.text(location.address, len(opcode))
            if actual != opcode:
                found = actual.hex(" ") or "nothing"
                return Refusal(ProbeState.MISMATCH, f"expected {opcode.hex(' ')}, found {found}")
        return Plan(TRAP, probe, location, _COST_NS)

    def reserve(self, plans: Sequence[Plan]) -> list[tuple[Plan, Refusal]]:
        """See Engine: a slot for each site."""
        if plans:
            self.make_room([plan.location.address for plan in plans])
        refused = []
        for plan in plans:
            try:
                self.sites.make(plan.location.address)
            except SpaceError as error:
                refused.append((plan, Refusal(ProbeState.FAILED, str(error))))
        return refused

    def make_room(self, addresses: Sequence[int]) -> None:
        """Room for sites at these addresses, and a guard for them; raises SpaceError and Gone."""
        sites, sigtrap = self.sites, self.sigtrap
        sites.reserve(self.group, addresses)
        sigtrap.prepare_guard(len(addresses))
        if self.only_guarded and (reason := self._would_be_unguarded()):
            raise SpaceError(f"it would be unguarded: {reason}; {self.only_guarded} refuses that")

    def why_unguarded(self) -> str:
        """Why a breakpoint of ours would end the target if we were killed; empty: none would."""
        return self._would_be_unguarded() if self.by_trap else ""

    def _would_be_unguarded(self) -> str:
        return self.sigtrap.why_unguarded() or self.sites.space.calls.obstacle

    def arm(
        self, plans: Sequence[Plan], unstoppable: list[Thread]
    ) -> list[tuple[Plan, Attachment | Refusal]]:
        """See Engine."""
        results: list[tuple[Plan, Attachment | Refusal]] = []
        armed: list[Site] = []
        places = [plan.location.address for plan in plans]
        shared = self.sites.space.in_shared(places) if places else {}
        ready = [self.sites.ready(place) for place in places]
        self.sites.serve_without_us(site for site in ready if site is not None)
        for plan, site in zip(plans, ready, strict=True):
            if reason := shared.get(plan.location.address):
                results.append((plan, Refusal(ProbeState.FAILED, reason)))
                continue
            if site is None or not self.sites.arm(site):
                reason = f"the code at {plan.location.address:#x} changed meanwhile"
                results.append((plan, Refusal(ProbeState.FAILED, reason)))
                continue
            attachment = attach(plan.probe, plan.location, site)
            results.append((plan, attachment))
            armed.append(site)
        self.removal.redirect_restarts(armed)
        return results

    def abandon_reserved(self) -> None:
        """See Engine."""
        self.sites.discard_unarmed()

    def insert_internal(self, address: int, callback: Callable[[Thread], None]) -> None:
        """Insert an internal breakpoint, called at each hit; raises SpaceError and Gone."""
        self.make_room([address])
        site = self.sites.make(address)
        site.callback = callback
        try:
            with self.group.stopped():
                if reason := self.sites.space.in_shared([address]).get(address):
                    raise SpaceError(reason)
                self.sites.serve_without_us([site])
                self.sites.arm(site)
                self.classify()
        finally:
            self.sites.discard_unarmed()

    def adopt_internal(self, address: int, callback: Callable[[Thread], None]) -> bool:
        """Make a site of a copied address space an internal breakpoint; false: there is none."""
        site = self.by_trap.get(address + 1)
        if site is not None:
            site.callback = callback
        return site is not None

    def forget_internal(self, address: int) -> None:
        """Forget an internal breakpoint in memory that is not mapped any more."""
        site = self.by_trap.get(address + 1)
        if site is not None:
            site.callback, site.gone = None, True
            self._released.add(site)

    def places_of_threads(self) -> list[tuple[Thread, int]]:
        """Where the stopped threads are."""
        return self.removal.places()

    def classify(self) -> None:
        """Set ``Site.simple``: whether a SIGTRAP behind a site can only be its breakpoint's.

        Not if it has a callback; nor if the instruction behind its one byte is watched.
        """
        for site in self.by_trap.values():
            self._classify(site)

    def _classify(self, site: Site) -> None:
        site.simple = site.callback is None and not (
            site.displaced.length == 1 and self._is_watched(site.trap)
        )
        site.plain = site.simple and site.seen

    # --- taking out ---

    def attachments(self) -> list[Attachment]:
        """See Engine."""
        return [each for site in self.sites.all() for each in site.attachments + site.entered]

    def release(self, attachments: Iterable[Attachment]) -> bool:
        """See Engine."""
        released = list(attachments)
        self._released.update(detach(attachment) for attachment in released)
        self._released.update(self.stops.returns.released(released))
        return any(site.is_empty for site in self._released)

    def disarm(self, unstoppable: list[Thread]) -> None:
        """See Engine."""
        released, self._released = self._released, set()
        self.removal.remove([site for site in released if site.is_empty], unstoppable)

    def remove_empty(self) -> None:
        """Remove unneeded sites of a copied address space; all threads are stopped."""
        self.removal.remove([site for site in self.sites.all() if site.is_empty], [])

    def unmapped(self, attachments: Iterable[Attachment]) -> None:
        """See Engine."""
        for attachment in attachments:
            site_of(attachment).gone = True
        self._released.update(self.stops.returns.forget_overwritten())

    def pages(self) -> list[tuple[int, int]]:
        """See Engine: the guard. Areas with slots belong to the address space."""
        return [(start, start + size) for start, size in self.sites.guard.mappings()]

    def changed(self) -> dict[int, int]:
        """See Engine."""
        return self.view.breakpoints()

    def unmap(self, thread: Thread) -> None:
        """See Engine."""
        self.sigtrap.remove_guard(thread)
        self.sigtrap.restore(thread)
        self.sites.guard.unmap(self.group, thread)

    def lost(self) -> list[Loss]:
        """See Engine."""
        lost, self.stops.exits.lost = self.stops.exits.lost, []
        there = set(self.sites.all())
        return [
            self._lose([site for site in sites if site in there], reason) for sites, reason in lost
        ]

    def overwritten(self, attachments: Iterable[Attachment]) -> list[Loss]:
        """See Engine."""
        sites = {each.site for each in attachments if isinstance(each, SiteAttachment)}
        lost = self.sites.overwritten(sites)
        return [self._lose(lost, "the target changed its code there")] if lost else []

    def _lose(self, sites: list[Site], reason: str) -> Loss:
        loss = Loss([], reason, any(site.callback is not None for site in sites))
        self.stops.returns.lost(sites, reason)
        for site in sites:
            loss.attachments.extend(site.attachments + site.entered)
            loss.attachments.extend(site.lose_native())
            self._released.update(self.stops.returns.released(site.entered))
            site.attachments.clear()
            site.entered.clear()
            site.callback = None
            self._released.add(site)
        return loss

    def disarm_all(self, unstoppable: list[Thread]) -> None:
        """See Engine."""
        self._released.clear()
        self.stops.returns.use(self.sites)
        self.removal.remove(self.sites.all(), unstoppable)

    # --- other address spaces ---

    def forked(self, child: TrapEngine, twin: Twin) -> list[Attachment]:
        """See Engine."""
        found = attach_twins(self.sites.all(), child.by_trap, twin)
        child.stops.returns.take_over(self.stops.returns, child.sites.space.tgid, found)
        return list(found.values())

    def release_child(self, thread: Thread) -> None:
        """See Engine."""
        try:
            copy = copies.undone(self.sites, self.group, thread)
        except OSError:
            raise Gone(thread.tid) from None
        self.removal.clean_child(thread, copy, self.sigtrap)

    def is_fork_copy(self, thread: Thread) -> bool:
        """Whether an unknown process's memory is a fork copy of the target's."""
        try:
            return copies.are_in(self.sites, self.group, thread)
        except (Gone, SpaceError):
            return False

    def exec(self) -> None:
        """See Engine."""
        self._released.clear()
        self.stops.returns.calls.unwind(list(self.stops.returns.calls))
        self.stops.returns.use(self.sites)
        self.sites.clear()
