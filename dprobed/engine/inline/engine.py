"""The inline engine: a hit is a jump to native code, without a stop and without a system call.

The probed instruction becomes a jump to a *trampoline* in the target, which runs the programs and
the displaced instruction (``arch.x86_64.trampoline``). What programs count stands in memory that
the target shares with us, and is read when it is asked for. So the target needs no tracer to go on:
if we are killed, its probes count on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from dprobed.arch.x86_64.registers import FS_BASE
from dprobed.change_journal import Change, Kind
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.breakpoints import (
    BreakpointSite,
    NativeSites,
    led_to_nothing,
    overwritten,
)
from dprobed.engine.inline.calls import FollowedPlace
from dprobed.engine.inline.copies import do_without, take_over, undo_in_copy
from dprobed.engine.inline.counting import InlineCounts
from dprobed.engine.inline.exits import TrampolineExits
from dprobed.engine.inline.inserting import JumpInsertion
from dprobed.engine.inline.offers import makes_calls, offered
from dprobed.engine.inline.placing import Placer
from dprobed.engine.inline.records import RecordReader, ThreadPointers
from dprobed.engine.inline.removal import JumpRemoval
from dprobed.engine.inline.sites import JumpAttachment, JumpSite
from dprobed.engine.interface import Listener, Location, Loss, Plan, Refusal, TrapStop, Twin
from dprobed.engine.probe import Attachment, Probe
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.wire.engines import INLINE, NATIVE, SIGNAL


class InlineEngine:
    """The inline engine of one target."""

    names: Final = NATIVE

    def __init__(
        self,
        group: ThreadGroup,
        listener: Listener,
        registers: Registers,
        breakpoints: NativeSites,
    ) -> None:
        """``registers``: of all targets of this tracer."""
        self._group: Final = group
        self._breakpoints: Final = breakpoints
        self._listener: Final = listener
        self._exits: Final = TrampolineExits(group, registers)
        self._registers: Final = registers
        self._counting: Final = InlineCounts(listener)
        space = AddressSpace.unopened(0)
        self.placer = Placer(space, group, breakpoints)
        self._reader = self._reader_of(space)
        self._insertion: Final = JumpInsertion(group, breakpoints)
        self._released: Final[set[JumpSite]] = set()
        #: Places whose calls are not to be followed any more.
        self._left: Final[set[FollowedPlace]] = set()
        self._removal: Final = JumpRemoval(listener)

    def use(self, space: AddressSpace) -> None:
        """See Engine."""
        self.placer = Placer(space, self._group, self._breakpoints)
        self._reader = self._reader_of(space)
        self._exits.use(self.placer.sites)
        self._insertion.abandon()
        self._released.clear()
        self._left.clear()
        self._removal.stuck.clear()

    def _reader_of(self, space: AddressSpace) -> RecordReader:
        pointers = ThreadPointers(space.tgid, self._registers)
        return RecordReader(space.tgid, self._listener.records, pointers)

    # --- putting in ---

    def offer(self, probe: Probe, location: Location) -> Plan | Refusal | None:
        """See Engine: by a jump."""
        return offered(probe, location, INLINE, self.placer, self._breakpoints)

    def offer_breakpoint(self, probe: Probe, location: Location) -> Plan | Refusal | None:
        """Whether it can serve this probe there by a breakpoint."""
        return offered(probe, location, SIGNAL, self.placer, self._breakpoints)

    def reserve(self, plans: Sequence[Plan]) -> list[tuple[Plan, Refusal]]:
        """See Engine: room, code and data."""
        return self._insertion.reserve(self.placer, self._reader, plans)

    def arm(
        self, plans: Sequence[Plan], unstoppable: list[Thread]
    ) -> list[tuple[Plan, Attachment | Refusal]]:
        """See Engine."""
        armed, in_vain = self._insertion.arm(self.placer, plans)
        if in_vain:
            self._let_go(in_vain)
            self.disarm(unstoppable)
        return armed

    def _let_go(self, pieces: Iterable[JumpAttachment]) -> None:
        """These run no program any more."""
        for each in pieces:
            each.site.attachments.remove(each)
            self._released.add(each.site)

    def abandon_reserved(self) -> None:
        """See Engine."""
        self._insertion.abandon()
        # By the next time there may be other code.
        self.placer.looked_at.clear()
        self.placer.exits.clear()

    # --- taking out ---

    def attachments(self) -> list[Attachment]:
        """See Engine."""
        sites = self.placer.sites.by_address.values()
        return [each for site in sites for each in site.attachments if each.entry is None]

    def release(self, attachments: Iterable[Attachment]) -> bool:
        """See Engine."""
        released: list[Probe] = []
        for each in attachments:
            assert isinstance(each, JumpAttachment)
            self._let_go(each.whole)
            released.append(each.probe)
            if each.exits:
                self._left.add((each.probe, each.address))
        left = {each.probe for each in self.attachments()} if released else set()
        for probe in released:
            if probe not in left:
                self.placer.end(probe)
        return bool(self._released)

    def disarm(self, unstoppable: list[Thread]) -> None:
        """See Engine."""
        # The trap engine may have found that some breakpoints are lost.
        self._released.update(led_to_nothing(self.placer.sites))
        unneeded = [site for site in self._released if not site.attachments]
        self._removal.take_out(self.placer, unneeded, unstoppable)
        for site in self._released:
            if site.attachments:
                # Else what was built before goes on, without those that ended.
                with suppress(SpaceError):
                    self._insertion.rewrite(self.placer, site)
        self._released.clear()
        self._released.update(self._removal.stuck)
        self.sync()
        if self.placer.calls is not None:
            self.placer.calls.drop_of(self._left)
        self._left.clear()
        if not self.placer.sites.by_address and not unstoppable and self._exits.are_all_out():
            self.placer.start_anew()

    def unmapped(self, attachments: Iterable[Attachment]) -> None:
        """See Engine."""
        for each in attachments:
            assert isinstance(each, JumpAttachment)
            for piece in each.whole:
                piece.site.gone = True
                if isinstance(piece.site, BreakpointSite):
                    self._breakpoints.unmapped(piece.site.address)

    def lost(self) -> list[Loss]:
        """See Engine: no stop shows anything."""
        return []

    def overwritten(self, attachments: Iterable[Attachment]) -> list[Loss]:
        """See Engine."""
        mine = [each for each in attachments if isinstance(each, JumpAttachment)]
        sites = {part.site for each in mine for part in each.whole}
        lost = {*self.placer.sites.lost(sites), *overwritten(sites, self._breakpoints)}
        # Of a function all, where one of its returns is gone.
        places = {each.entry or each for site in lost for each in site.attachments}
        for each in places:
            self._let_go(each.whole)
        self._released.update(lost)
        gone: list[Attachment] = list(places)
        return [Loss(gone, "the target changed its code there", False)] if gone else []

    def left(self, probes: Iterable[Probe]) -> None:
        """These are run by another engine from now on, which counts their hits on."""
        self.sync()
        for probe in probes:
            self.placer.counters.pop(probe, None)

    def disarm_all(self, unstoppable: list[Thread]) -> None:
        """See Engine."""
        self._released.clear()
        sites = list(self.placer.sites.by_address.values())
        self._removal.take_out(self.placer, sites, unstoppable)
        self.sync()

    # --- what was counted ---

    @property
    def has_records(self) -> bool:
        """Whether records may come at any time, without a stop."""
        return self.placer.rings is not None

    @property
    def is_polled(self) -> bool:
        """See Engine: for records, budgets, filters of system calls, or the clock."""
        return (
            self.has_records
            or self.placer.told_clock is not None
            or any(probe.accounts or makes_calls(probe) for probe in self.placer.counters)
        )

    def sync(self, *, final: bool = False) -> None:
        """See Engine."""
        self._counting.sync(self.placer, self._reader, final=final)
        if final and self.placer.calls is not None:
            self.placer.calls.unwind_all()

    def tick(self) -> None:
        """See Engine."""
        if self._counting.is_rested:
            self.sync()

    # --- threads and their stops ---

    def begin(self, thread: Thread) -> None:
        """See Engine."""
        if self.has_records and self._reader.is_to_read(thread):
            self.sync()
        self._reader.note(thread)

    def forget(self, thread: Thread) -> None:
        """See Engine."""
        if self.has_records and self._reader.shares(thread.tid):
            self.sync()
        self._reader.forget(thread.tid)

    def serve(self, thread: Thread, stop: TrapStop, now: int) -> bool:
        """See Engine: no stop is this engine's."""
        return False

    def leave(self, registers: Registers) -> bool:
        """See Engine."""
        return self.placer.sites.leave(registers)

    def original(self, address: int, data: bytearray) -> None:
        """See Engine."""
        self.placer.sites.original(address, data)

    def changed(self) -> dict[int, int]:
        """See Engine."""
        return self.placer.sites.changed()

    def deliver(self, thread: Thread) -> None:
        """See Engine."""
        self._exits.deliver(thread)

    def leave_code(self) -> bool:
        """See Engine."""
        return self._exits.leave_all()

    # --- other address spaces ---

    def pages(self) -> list[tuple[int, int]]:
        """See Engine."""
        return self.placer.pages()

    def unmap(self, thread: Thread) -> None:
        """See Engine; pages stay where a thread may get there."""
        # What a jump that is still there leads to stays.
        left = self._exits.leave_all() and not self.placer.sites.by_address
        self._counting.sync(self.placer, self._reader, final=left)
        self.placer.keep_values()
        if left:
            self.placer.unmap(thread)

    def adopt(self, found: Iterable[Change]) -> None:
        """Take over what another tracer left here when it was killed: jumps are taken out with
        ``disarm_all``; what they led to stays, since a thread may be there."""
        for change in found:
            if change.kind is Kind.JUMP:
                self.placer.sites.adopt(change)
            elif change.kind is Kind.CODE:
                self.placer.sites.pages.adopt(change.address, change.data)
                self._exits.may_come_back = True

    def release_child(self, thread: Thread) -> None:
        """See Engine."""
        if self.placer.sites.pages.areas:
            undo_in_copy(self.placer, thread, unmap=not self._exits.may_come_back)

    def forked(self, child: InlineEngine, twin: Twin) -> list[Attachment]:
        """See Engine."""
        if not self.placer.sites.pages.areas:
            return []
        child._exits.may_come_back = self._exits.may_come_back
        try:
            pointer = child._pointer()
            sites = take_over(child.placer, self.placer, twin, child._breakpoints, pointer)
        except SpaceError as error:
            breakpoints = child._breakpoints
            do_without(child.placer, self.placer, twin, child._group, breakpoints, str(error))
            child.use(child.placer.space)
            child._listener.untaken(str(error))
            return []
        for thread in child._group.threads.values():
            child._reader.note(thread)
        for site, armed in sites:
            site_has = len(site.attachments)
            if not site_has:
                child._removal.take_out(child.placer, [site], [])
            elif site_has != armed:
                child._insertion.rewrite(child.placer, site)
        return child.attachments()

    def _pointer(self) -> int:
        """Where the only thread of a ``fork`` child has its variables; raises Gone."""
        (thread,) = self._group.threads.values()
        return self._registers.load(thread.tid)[FS_BASE]

    def exec(self) -> None:
        """See Engine."""
        self.sync(final=True)
        self.placer.keep_values()
        self._insertion.abandon()
        self._released.clear()
        self._left.clear()
        self._removal.stuck.clear()
