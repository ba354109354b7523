"""Where the probes of a target's programs are: put in as modules come, taken out as they go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable
from typing import Final

from dprobed.engine.errors import SpaceError
from dprobed.engine.interface import Location, Loss, Plan, Refusal
from dprobed.engine.probe import Attachment, Probe
from dprobed.proc import procfs
from dprobed.proc.maps import MapsError
from dprobed.resolver.client import Resolver
from dprobed.resolver.errors import LocationError
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.engines import Engines
from dprobed.tracer.inserted import Inserted
from dprobed.tracer.internal_breakpoints import InternalBreakpoints
from dprobed.tracer.placement import Loaded, Placement, Spot, Unplaced
from dprobed.tracer.reporter import Reporter
from dprobed.wire import protocol
from dprobed.wire.protocol import State as ProbeState

_log = logging.getLogger(__name__)

_NOT_MAPPED: Final = "no mapped module of that name yet"


class Places:
    """Of one target, in its present address space. ``tell`` the daemon: kind, text."""

    def __init__(
        self,
        pid: int,
        group: ThreadGroup,
        engines: Engines,
        reporter: Reporter,
        resolver: Resolver,
        inserted: dict[int, Inserted],
        tell: Callable[[str, str], None],
    ) -> None:
        """``inserted``: the programs, as they come and go."""
        #: Whether modules were looked at.
        self.is_prepared = False
        self._pid: Final = pid
        self._group: Final = group
        self._engines: Final = engines
        self._reporter: Final = reporter
        self._resolver: Final = resolver
        self._inserted: Final = inserted
        self._tell: Final = tell
        self._numbers: Final[dict[tuple[str, str], int]] = {}
        self._placement = Placement(pid, engines.space, resolver)
        self._internal = self._internal_breakpoints()

    def _internal_breakpoints(self) -> InternalBreakpoints:
        return InternalBreakpoints(self._engines, self._placement, self._modules_changed)

    def probes(self) -> Iterable[Probe]:
        """All probes of all programs."""
        return (probe for inserted in self._inserted.values() for probe in inserted.probes)

    def tell_changed(self, probes: Iterable[Probe]) -> None:
        """Tell the daemon the states of these."""
        statuses = [probe.status() for probe in probes]
        if statuses:
            self._reporter.send(protocol.Changed(self._pid, statuses))

    # --- address spaces ---

    def begin(self) -> None:
        """The engines have an address space in which nothing is yet."""
        self.is_prepared = False
        self._placement = Placement(self._pid, self._engines.space, self._resolver)
        self._internal = self._internal_breakpoints()

    def prepare(self) -> None:
        """Before the first probe of an address space: its modules, and to hear of new ones."""
        if self.is_prepared:
            return
        sigtrap, group = self._engines.trap.sigtrap, self._group
        with group.borrower.borrowed(self._pid) as lender:
            self._placement.refresh(lender.tid)
            sigtrap.observe_process(lender)
            for thread in list(group.threads.values()):
                if thread.state in (State.STOPPED, State.HELD):
                    sigtrap.observe_thread(thread)
        self.is_prepared = True
        trouble = self._internal.set_loader()
        if trouble is not None:
            self._tell_trouble(f"later modules get no probes: {trouble}")
        self._internal.set_signals(self.modules())

    def modules(self) -> list[Loaded]:
        """Those that are mapped."""
        return list(self._placement.loaded.values())

    def _modules_changed(self, thread: Thread) -> None:
        """The loader's notification: follow what was mapped and unmapped since the last look."""
        try:
            new, gone = self._placement.refresh(thread.tid)
            if gone:
                self._lose(gone)
            if new:
                self._internal.set_signals(new)
                self.tell_changed(self.place(self._inserted.values(), new))
        except (SpaceError, MapsError, LocationError) as error:
            self._tell_trouble(f"a new module got no probes: {' '.join(str(error).split())}")

    def _tell_trouble(self, text: str) -> None:
        """Modules are not probed; of a process that is on its way out that is nobody's concern."""
        if not procfs.has_ended(self._pid):
            self._tell("loader", text)

    def forget(self) -> None:
        """The address space is gone: all probes wait for their module."""
        for probe in self.probes():
            probe.attachments.clear()
            if not probe.over:
                probe.set(ProbeState.PENDING, _NOT_MAPPED)

    def exclude(self, reason: str) -> None:
        """No program can be put into this image."""
        for probe in self.probes():
            if not probe.attachments and not probe.over:
                probe.set(ProbeState.EXCLUDED, reason)

    # --- in ---

    def place_again(self, programs: Iterable[Inserted]) -> list[Probe]:
        """Look once more for places of probes that have none; those whose state changed."""
        if not self.is_prepared:
            return []
        try:
            return self.place(programs, self.modules())
        except (SpaceError, MapsError, LocationError, Gone) as error:
            _log.warning("process %d: %s", self._pid, error)
            return []

    def place(self, programs: Iterable[Inserted], among: list[Loaded]) -> list[Probe]:
        """Put probes of these programs into these modules; those whose state changed.

        Raises SpaceError and Gone when the target has no room for slots; nothing is changed then.
        """
        plans: list[Plan] = []
        refused: list[tuple[Probe, Refusal]] = []
        spots: dict[tuple[Probe, int], Spot] = {}
        changed: list[Probe] = []
        for inserted, probe, found, trouble in self._found(programs, among):
            if trouble is not None:
                self._excuse(probe, trouble)
            changed.append(probe)
            for spot in found:
                spots[probe, spot.address] = spot
                plan = self._engines.offer(probe, self._location(inserted, probe, spot))
                if isinstance(plan, Refusal):
                    refused.append((probe, plan))
                else:
                    plans.append(plan)
        try:
            impossible = self._engines.reserve(plans)
            refused += [(plan.probe, refusal) for plan, refusal in impossible]
            for probe, refusal in refused:
                probe.set(refusal.state, refusal.reason)
            not_ready = {id(plan) for plan, _ in impossible}
            self._arm([plan for plan in plans if id(plan) not in not_ready], spots)
        finally:
            self._engines.abandon_reserved()
        return changed

    def _found(
        self, programs: Iterable[Inserted], among: list[Loaded]
    ) -> Iterable[tuple[Inserted, Probe, list[Spot], Unplaced | None]]:
        """Probes with places where they are not yet; or why they have none at all."""
        for inserted in programs:
            for probe in inserted.probes:
                if probe.over or probe.state in (ProbeState.FAILED, ProbeState.THROTTLED):
                    continue
                have = {attachment.address for attachment in probe.attachments}
                spots, trouble = self._placement.find(
                    inserted.program.header, probe.definition, among
                )
                fresh = {spot.address: spot for spot in spots if spot.address not in have}
                if fresh:
                    yield inserted, probe, list(fresh.values()), None
                elif trouble is not None and not have:
                    yield inserted, probe, [], trouble

    @staticmethod
    def _excuse(probe: Probe, trouble: Unplaced) -> None:
        probe.set(trouble.state, trouble.reason)
        probe.retry = trouble.retry

    def _location(self, inserted: Inserted, probe: Probe, spot: Spot) -> Location:
        number = self._number(spot.module, spot.place)
        if spot.length:
            kind = probe.definition.watchpoint or "w"
            return Location(
                spot.address, number, spot.place, spot.key, kind=kind, length=spot.length
            )
        opcode = (probe.definition.opcode or b"") if inserted.check_opcode else b""
        return Location(spot.address, number, spot.place, spot.key, opcode)

    def _arm(self, plans: list[Plan], spots: dict[tuple[Probe, int], Spot]) -> None:
        with self._group.stopped() as late:
            for plan, result in self._engines.arm(plans, late):
                probe = plan.probe
                if isinstance(result, Refusal):
                    if not probe.attachments:
                        probe.set(result.state, result.reason)
                    continue
                probe.attachments.append(result)
                spot = spots[probe, plan.location.address]
                probe.module, probe.place = spot.module, spot.place
                probe.set(ProbeState.ACTIVE)
                probe.retry = False
            if any(plan.location.kind for plan in plans):
                self.note_unwatched(self._engines.watch.trouble)

    def _number(self, module: str, place: str) -> int:
        number = self._numbers.get((module, place))
        if number is None:
            number = self._reporter.place(protocol.Place(self._pid, module, place))
            self._numbers[module, place] = number
        return number

    def note_unwatched(self, trouble: str) -> None:
        """Watchpoints are not in all threads; empty: they are."""
        watching = {each.probe for each in self._engines.watch.attachments()}
        changed = [
            probe for probe in self.probes() if probe in watching and probe.reason != trouble
        ]
        for probe in changed:
            probe.set(probe.state, trouble)
        self.tell_changed(changed)

    # --- a child ---

    def take_over(self, other: Places, twins: dict[Probe, Probe]) -> None:
        """The engines have a copy of the parent's address space: there the probes are as they are
        in the parent. ``twins``: by the parent's."""
        self.begin()
        self._placement.take_over(other._placement)
        self.is_prepared = other.is_prepared
        self._internal.take_over(other._internal)

        def twin(old: Attachment) -> tuple[Probe, int] | None:
            probe = twins.get(old.probe)  # none: it does not follow, or is a debugger's
            return None if probe is None else (probe, self._number(probe.module, old.place))

        for attachment in other._engines.forked(self._engines, twin):
            attachment.probe.attachments.append(attachment)
        for probe in twins.values():
            if probe.state is ProbeState.ACTIVE and not probe.attachments:
                probe.set(ProbeState.PENDING, "not yet placed in this process")

    # --- out ---

    def take_out(self, probes: Iterable[Probe]) -> None:
        """Take probes off their places, and places without probes out of the target."""
        attachments: list[Attachment] = []
        for probe in probes:
            attachments += probe.attachments
            probe.attachments.clear()
        watched = any(each.engine == self._engines.watch.name for each in attachments)
        self._engines.release(attachments)
        if watched:
            self.note_unwatched(self._engines.watch.trouble)

    def _lose(self, keys: set[Hashable]) -> None:
        """Modules that are not mapped any more: their sites are not ours to touch."""
        lost: list[Probe] = [
            probe
            for probe in self.probes()
            if any(each.module_key in keys for each in probe.attachments)
        ]
        kept: list[tuple[Probe, list[Attachment]]] = []
        for probe in lost:
            kept.append((probe, [e for e in probe.attachments if e.module_key not in keys]))
            probe.attachments = [e for e in probe.attachments if e.module_key in keys]
            self._engines.unmapped(probe.attachments)
        self.take_out(lost)
        for probe, rest in kept:
            probe.attachments = rest
            if not rest and not probe.over:
                probe.set(ProbeState.PENDING, "its module was unmapped")
        self.tell_changed(lost)

    def give_up_lost(self) -> None:
        """Places at which no probe can be any more, as threads have found out."""
        self._give_up(self._engines.lost())

    def give_up_overwritten(self) -> None:
        """Places whose breakpoints are there no more, because the target changed its code."""
        if self.is_prepared:
            attachments = [each for probe in self.probes() for each in probe.attachments]
            self._give_up(self._engines.overwritten(attachments))

    def _give_up(self, losses: list[Loss]) -> None:
        for loss in losses:
            probes = {each.probe for each in loss.attachments}
            for attachment in loss.attachments:
                attachment.probe.attachments.remove(attachment)
            for probe in probes:
                if not probe.attachments and not probe.over:
                    probe.set(ProbeState.FAILED, loss.reason)
            if loss.internal:
                self._tell_trouble(f"later modules get no probes: {loss.reason}")
            self._engines.disarm()
            self.tell_changed(probe for probe in self.probes() if probe in probes)
