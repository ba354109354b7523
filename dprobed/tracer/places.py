"""Inserts the probes of a target's programs as modules are mapped, and removes them."""

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
from dprobed.tracer.choices import Choices
from dprobed.tracer.engines import Engines
from dprobed.tracer.inserted import Inserted
from dprobed.tracer.internal_breakpoints import InternalBreakpoints
from dprobed.tracer.native import by_program, hand_back, to_be_run_here
from dprobed.tracer.offers import Asked, note_refused, prepared
from dprobed.tracer.placement import LoadedModule, Placement, Spot
from dprobed.tracer.reporter import Reporter
from dprobed.tracer.stacks.target_stacks import TargetStacks
from dprobed.tracer.static_probes import count_down
from dprobed.tracer.wanted import wanted
from dprobed.wire import protocol
from dprobed.wire.notices import NoticeKind
from dprobed.wire.protocol import State as ProbeState

_log = logging.getLogger(__name__)

_NOT_MAPPED: Final = "no mapped module of that name yet"


#: Probes whose state changed; and what no engine serves that runs code in the target, and why.
Placed = tuple[list[Probe], dict[Probe, str]]


class Places:
    """The places of one target's probes. ``tell`` sends a notice to the daemon: kind, text."""

    def __init__(
        self,
        pid: int,
        group: ThreadGroup,
        engines: Engines,
        reporter: Reporter,
        resolver: Resolver,
        stacks: TargetStacks,
        inserted: dict[int, Inserted],
        tell: Callable[[NoticeKind, str], None],
    ) -> None:
        """``inserted``: the target's programs, by number; kept up to date by ``Programs``."""
        #: Whether the list of modules was read.
        self.is_prepared = False
        self._pid: Final = pid
        self._group: Final = group
        self._engines: Final = engines
        self._reporter: Final = reporter
        self._resolver: Final = resolver
        self._stacks: Final = stacks
        self._inserted: Final = inserted
        self._tell: Final = tell
        self._numbers: Final[dict[tuple[str, str], int]] = {}
        self._placement = Placement(pid, engines.space, resolver)
        self._internal = self._internal_breakpoints()
        self._choices = Choices(engines, self._choice_made)

    def _internal_breakpoints(self) -> InternalBreakpoints:
        return InternalBreakpoints(self._engines, self._placement, self._modules_changed)

    def probes(self) -> Iterable[Probe]:
        """All probes of all programs."""
        return (probe for inserted in self._inserted.values() for probe in inserted.probes)

    def tell_changed(self, probes: Iterable[Probe]) -> None:
        """Report the states of these probes to the daemon."""
        statuses = [probe.status() for probe in probes]
        if statuses:
            self._reporter.send(protocol.Changed(self._pid, statuses))

    # --- address spaces ---

    def begin(self) -> None:
        """Start in an address space that has none of our changes."""
        self.is_prepared = False
        self._placement = Placement(self._pid, self._engines.space, self._resolver)
        self._internal = self._internal_breakpoints()
        self._choices = Choices(self._engines, self._choice_made)

    def prepare(self) -> None:
        """Before the first probe of an address space: read its modules, and set the loader's
        breakpoint."""
        if self.is_prepared:
            return
        sigtrap, group = self._engines.sigtrap, self._group
        with group.borrower.borrowed(self._pid) as lender:
            self._placement.refresh(lender.tid)
            sigtrap.observe_process(lender)
            for thread in list(group.threads.values()):
                if thread.state in (State.STOPPED, State.HELD):
                    sigtrap.observe_thread(thread)
        self.is_prepared = True
        reason = self._internal.set_loader()
        if reason is not None:
            self._report_unprobed(f"later modules get no probes: {reason}")
        self._internal.set_signals(self.modules())
        self._internal.are_set = True

    def modules(self) -> list[LoadedModule]:
        """The mapped modules."""
        return list(self._placement.loaded.values())

    def _modules_changed(self, thread: Thread) -> None:
        """The loader's notification: follow what was mapped and unmapped since the last look."""
        self._stacks.forget()
        try:
            new, gone = self._placement.refresh(thread.tid)
            if gone:
                self._choices.forget(self._placement.holds_code)
                self._internal.forget(self._placement.holds_code)
                self._engines.unmapped(())  # functions may have returned to there
                self._lose(gone)
            if new:
                self._internal.set_signals(new)
                self.tell_changed(self.place(self._inserted.values(), new))
                if any(probe.retry for probe in self.probes()):
                    self._reporter.arm()  # the loader is about to know: look at the next tick
        except (SpaceError, MapsError, LocationError) as error:
            self._report_unprobed(f"a new module got no probes: {' '.join(str(error).split())}")

    def _report_unprobed(self, text: str) -> None:
        """Report that modules are not probed, unless the process is about to end."""
        if not procfs.has_ended(self._pid):
            self._tell(NoticeKind.LOADER, text)

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

    # --- inserting ---

    def place_again(self, programs: Iterable[Inserted]) -> list[Probe]:
        """Try again to place probes that have no place; returns those whose state changed."""
        if not self.is_prepared:
            return []
        try:
            return self.place(programs, self.modules())
        except (SpaceError, MapsError, LocationError, Gone) as error:
            _log.warning("process %d: %s", self._pid, error)
            return []

    def place(self, programs: Iterable[Inserted], among: list[LoadedModule]) -> list[Probe]:
        """Insert probes of these programs into these modules; returns those whose state changed.

        Raises SpaceError and Gone when the target has no room for slots; nothing is changed then.
        """
        chosen = list(programs)
        changed, unserved = self._place(chosen, among)
        for number, its in by_program(chosen, unserved).items():
            inserted = self._inserted[number]
            moved = to_be_run_here(inserted, its)
            self.remove(moved)
            self._engines.left(moved)
            hand_back(inserted, self._engines.quiet)
            changed += self._place([inserted], self.modules())[0]
        self._expect_choices()
        return changed

    def _place(self, programs: Iterable[Inserted], among: list[LoadedModule]) -> Placed:
        """``place``, but with what no engine serves that runs code in the target, and why."""
        asked: list[Asked] = []
        spots: dict[tuple[Probe, int], Spot] = {}
        changed: list[Probe] = []
        for each in wanted(self._placement, programs, among):
            probe, inserted = each.probe, each.inserted
            if each.unplaced is not None:
                probe.set(each.unplaced.state, each.unplaced.reason)
                probe.retry = each.unplaced.retry
            changed.append(probe)
            for spot in each.spots:
                spots[probe, spot.address] = spot
                where = each.location(spot, self._number(spot.module, spot.place))
                asked.append(Asked(probe, where, inserted.engines_of(probe)))
        try:
            plans, refused = prepared(self._engines, asked)
            refused += self._arm(plans, spots)
        finally:
            self._engines.abandon_reserved()
        return changed, note_refused(refused)

    def _expect_choices(self) -> None:
        """Have those IFUNCs watched for which nothing has been chosen yet."""
        unchosen, self._placement.unchosen = self._placement.unchosen, {}
        for address, place in unchosen.items():
            try:
                self._choices.expect(Location(address, place=place.name, code=place.code))
            except (SpaceError, Gone) as error:
                _log.info("process %d: %s", self._pid, error)

    def _choice_made(self, thread: Thread, resolver: int, chosen: int) -> None:
        """An IFUNC's resolver function has just returned what it chose."""
        self._placement.chosen[resolver] = chosen
        changed = self.place_again(self._inserted.values())
        self.tell_changed(changed)

    def _arm(
        self, plans: list[Plan], spots: dict[tuple[Probe, int], Spot]
    ) -> list[tuple[Probe, Refusal]]:
        """Insert these; returns the probes that could not be at one of their places, and why."""
        refused: list[tuple[Probe, Refusal]] = []
        with self._group.stopped() as unstoppable:
            for plan, result in self._engines.arm(plans, unstoppable):
                probe = plan.probe
                if isinstance(result, Refusal):
                    refused.append((probe, result))
                    continue
                probe.attachments.append(result)
                spot = spots[probe, plan.location.address]
                probe.module, probe.place = spot.module, spot.place
                probe.set(ProbeState.ACTIVE)
                probe.retry = False
            if any(plan.location.kind for plan in plans):
                self.note_unwatched(self._engines.unwatched_reason)
        return refused

    def _number(self, module: str, place: str) -> int:
        number = self._numbers.get((module, place))
        if number is None:
            number = self._reporter.place(protocol.Place(self._pid, module, place))
            self._numbers[module, place] = number
        return number

    def note_unwatched(self, reason: str) -> None:
        """Show at watchpoints why not all threads have them; empty: they have."""
        watching = {each.probe for each in self._engines.watchpoints()}
        changed = [probe for probe in self.probes() if probe in watching and probe.reason != reason]
        for probe in changed:
            probe.set(probe.state, reason)
        self.tell_changed(changed)

    # --- a fork child ---

    def take_over(self, other: Places, twins: dict[Probe, Probe]) -> None:
        """Take over the parent's places in a copy of its address space. ``twins``: our probe by
        the parent's."""
        self.begin()
        self._placement.take_over(other._placement)
        self.is_prepared = other.is_prepared and other._internal.are_set
        self._internal.take_over(other._internal)

        def twin(old: Attachment) -> tuple[Probe, int] | None:
            probe = twins.get(old.probe)  # none: it does not follow, or is a debugger's
            return None if probe is None else (probe, self._number(probe.module, old.place))

        for attachment in other._engines.forked(self._engines, twin):
            attachment.probe.attachments.append(attachment)
        for probe in twins.values():
            if probe.state is ProbeState.ACTIVE and not probe.attachments:
                probe.set(ProbeState.PENDING, "not yet placed in this process")

    # --- removing ---

    def remove(self, probes: Iterable[Probe]) -> None:
        """Remove probes from their places, and from the target places without probes."""
        attachments: list[Attachment] = []
        for probe in probes:
            attachments += probe.attachments
            probe.attachments.clear()
        watchpoints = set(self._engines.watchpoints())
        watched = any(each in watchpoints for each in attachments)
        self._engines.release(attachments)
        if watched:
            self.note_unwatched(self._engines.unwatched_reason)

    def _lose(self, keys: set[Hashable]) -> None:
        """Modules were unmapped, or one of several times that they were mapped: forget the sites
        that were there, without writing."""

        def is_lost(each: Attachment) -> bool:
            return each.module_key in keys and not (
                each.module_key in self._placement.loaded and self._is_mapped(each)
            )

        lost: list[Probe] = [
            probe for probe in self.probes() if any(map(is_lost, probe.attachments))
        ]
        kept: list[tuple[Probe, list[Attachment]]] = []
        for probe in lost:
            kept.append((probe, [each for each in probe.attachments if not is_lost(each)]))
            probe.attachments = [each for each in probe.attachments if is_lost(each)]
            self._engines.unmapped(probe.attachments)
        self.remove(lost)
        for probe, rest in kept:
            probe.attachments = rest
            if not rest and not probe.over:
                probe.set(ProbeState.PENDING, "its module was unmapped")
        self.tell_changed(lost)

    def _is_mapped(self, attachment: Attachment) -> bool:
        """Whether there is still what a probe was put on: code, or data that is watched."""
        if self._placement.holds_code(attachment.address):
            return True
        at_data = attachment.may_be_at_data
        return at_data and bool(self._engines.space.memory.peek(attachment.address, 1))

    def fail_lost(self) -> None:
        """Fail probes whose places have become impossible, as stops have shown."""
        self._fail(self._engines.lost())

    def fail_overwritten(self) -> None:
        """Fail probes whose breakpoints are gone, because the target changed its code."""
        if self.is_prepared:
            attachments = [each for probe in self.probes() for each in probe.attachments]
            self._fail(self._engines.overwritten(attachments))

    def _fail(self, losses: list[Loss]) -> None:
        for loss in losses:
            count_down(self._engines.space, loss.attachments)
            probes = {each.probe for each in loss.attachments}
            for attachment in loss.attachments:
                attachment.probe.attachments.remove(attachment)
            for probe in probes:
                if not probe.attachments and not probe.over:
                    probe.set(ProbeState.FAILED, loss.reason)
            if loss.internal:
                self._report_unprobed(f"later modules get no probes: {loss.reason}")
            self._engines.disarm()
            self.tell_changed(probe for probe in self.probes() if probe in probes)
