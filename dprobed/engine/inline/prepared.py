"""A site that is to be armed, and what it is to lead to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from dprobed.arch.x86_64.function_exits import Exit, ExitsError
from dprobed.arch.x86_64.jump import JUMP_SIZE
from dprobed.arch.x86_64.placeable import LONGEST
from dprobed.arch.x86_64.relocation import RelocationError, instruction_length
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.breakpoints import BreakpointSite, NativeSites
from dprobed.engine.inline.clock import SIZE as CLOCK_SIZE
from dprobed.engine.inline.code import ALIGN
from dprobed.engine.inline.executor import InlineExecutor
from dprobed.engine.inline.placing import Placer, code_bytes, makes_records
from dprobed.engine.inline.sites import JumpAttachment, JumpSite, JumpTrampoline, Role
from dprobed.engine.interface import Plan, Refusal
from dprobed.wire.engines import SIGNAL
from dprobed.wire.protocol import State


class Prepared:
    """A site that is to be armed, and what it is to lead to."""

    def __init__(self, site: JumpSite) -> None:
        self.site: Final = site
        self.made: JumpTrampoline | None = None
        #: What is to be added there.
        self.new: Final[list[JumpAttachment]] = []


class Reserved:
    """What is prepared: sites by their addresses, and the place of each plan."""

    def __init__(self) -> None:
        self.sites: Final[dict[int, Prepared]] = {}
        #: By what ``id`` gives for a plan, which lives as long: plans need not be hashable.
        self._places: Final[dict[int, JumpAttachment]] = {}

    def clear(self) -> None:
        """It was used, or is not needed."""
        self.sites.clear()
        self._places.clear()

    def place(self, plan: Plan) -> JumpAttachment:
        """The place of a plan's probe."""
        return self._places[id(plan)]

    def has(self, plan: Plan) -> bool:
        """Whether anything is prepared for a plan."""
        return id(plan) in self._places

    def add(self, placer: Placer, plan: Plan, breakpoints: NativeSites) -> None:
        """Prepare the sites of a plan; raises RelocationError, ExitsError and SpaceError."""
        location, returns = plan.location, plan.probe.definition.returns
        led = breakpoints if plan.engine == SIGNAL else None
        sites = [self._site(placer, each, led) for each in sites_of(placer, plan)]
        for site in sites:
            if site.engine != plan.engine:
                raise SpaceError(f"the {site.engine} engine is about to be at {site.address:#x}")
        role = Role.ENTRY if returns else Role.PLACE
        place = JumpAttachment(plan.probe, location, sites[0], role)
        for site in sites[1:]:
            place.leaves_by(site)
        for each in place.whole:
            self.sites.setdefault(each.site.address, Prepared(each.site)).new.append(each)
        self._places[id(plan)] = place

    def _site(self, placer: Placer, where: Exit, breakpoints: NativeSites | None) -> JumpSite:
        address = where.address
        ready = self.sites.get(address)
        known = placer.sites.by_address.get(address) if ready is None else ready.site
        if known is not None:
            return known
        text = placer.text(address, LONGEST)
        length = instruction_length(text, address)
        if breakpoints is not None:
            return BreakpointSite(address, text[:length], breakpoints)
        # Of what is never run as much as a jump needs.
        longer = min(length + where.free, max(length, JUMP_SIZE))
        return JumpSite(address, placer.text(address, longer))

    def drop(self, plan: Plan) -> None:
        """One of its sites is impossible: what else was to lead to it is to be made again."""
        for each in self._places.pop(id(plan)).whole:
            prepared = self.sites[each.site.address]
            prepared.new.remove(each)
            prepared.made = None
            if not prepared.new:
                del self.sites[each.site.address]


def sites_of(placer: Placer, plan: Plan) -> tuple[Exit, ...]:
    """Where a plan needs sites: at its place, and at all returns of a function that is to be
    followed; raises ExitsError."""
    returns = plan.probe.definition.returns
    exits = placer.exits_of(plan.location) if returns else ()
    return (Exit(plan.location.address, 0), *exits)


#: Bytes of data that a probe takes at most, besides its variables, and that a program does.
_DATA: Final = 1024


def has_records(plan: Plan) -> bool:
    """Whether its program makes records."""
    native = plan.probe.native
    return isinstance(native, InlineExecutor) and makes_records(native, plan.probe)


def make_room(placer: Placer, plans: Sequence[Plan], *, records: bool) -> None:
    """Have the target map what these need; raises SpaceError and Gone."""
    natives = {each.probe.native for each in plans}
    executors = [each for each in natives if isinstance(each, InlineExecutor)]
    code = sum(each.size + ALIGN * each.parts for each in executors)
    words = sum(len(each.locals) + len(each.symbols) for each in executors)
    data = _DATA * (len(plans) + len(executors)) + 8 * words + CLOCK_SIZE
    new: Counter[int] = Counter()
    for plan in plans:
        new[plan.location.address] += 1
        if plan.probe.definition.returns:
            new.update(each.address for each in placer.exits_of(plan.location))
    known = placer.sites.by_address
    places = {
        address: code_bytes(count + len(known[address].attachments if address in known else ()))
        for address, count in new.items()
    }
    calls = any(plan.probe.definition.returns for plan in plans)
    placer.reserve(places, executors, code, data, records=records, calls=calls)


def prepare(
    placer: Placer, plans: Sequence[Plan], reserved: Reserved, breakpoints: NativeSites
) -> list[tuple[Plan, Refusal]]:
    """Make what the sites of these plans are to lead to; those that are impossible. Raises
    SpaceError and Gone."""
    refused: dict[int, tuple[Plan, Refusal]] = {}

    def refuse(plan: Plan, why: object) -> None:
        refused[id(plan)] = plan, Refusal(State.FAILED, str(why))

    impossible = _reserve(placer, plans, breakpoints)
    for plan in plans:
        try:
            if plan.engine == SIGNAL:
                wrong = [impossible.get(each.address, "") for each in sites_of(placer, plan)]
                if reason := next(filter(None, wrong), ""):
                    refuse(plan, reason)
                    continue
            reserved.add(placer, plan, breakpoints)
        except (RelocationError, ExitsError, SpaceError) as error:
            refuse(plan, error)
    placer.pun(each.site for each in reserved.sites.values())
    while failed := _build(placer, reserved):
        for plan in plans:
            if reserved.has(plan):
                sites = {each.site.address for each in reserved.place(plan).whole}
                at = sorted(sites & failed.keys())
                if at:
                    reserved.drop(plan)
                    refuse(plan, failed[at[0]])
    return list(refused.values())


def _reserve(placer: Placer, plans: Sequence[Plan], breakpoints: NativeSites) -> dict[int, str]:
    """Prepare the breakpoints of these plans; where none can be, and why."""
    led: list[int] = []
    for plan in plans:
        if plan.engine == SIGNAL:
            with suppress(ExitsError):
                led += [each.address for each in sites_of(placer, plan)]
    return breakpoints.reserve(list(dict.fromkeys(led))) if led else {}


def _build(placer: Placer, reserved: Reserved) -> dict[int, SpaceError]:
    """Make what is still missing; those of which it is impossible, and why."""
    failed = {}
    for address, prepared in reserved.sites.items():
        site = prepared.site
        if prepared.made is not None:
            continue
        try:
            if site.needs_pun:
                raise SpaceError(placer.why_no_pun(site))
            # While the target still runs: nothing leads there yet.
            prepared.made = placer.build(site, site.attachments + prepared.new)
        except SpaceError as error:
            failed[address] = error
    return failed
