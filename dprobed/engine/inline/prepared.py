"""A site that is to be armed, and what it is to lead to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from dprobed.arch.x86_64.placeable import LONGEST
from dprobed.arch.x86_64.relocation import RelocationError, instruction_length
from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.breakpoints import BreakpointSite, NativeSites
from dprobed.engine.inline.clock import SIZE as CLOCK_SIZE
from dprobed.engine.inline.code import ALIGN
from dprobed.engine.inline.executor import InlineExecutor
from dprobed.engine.inline.placing import Placer, code_bytes, makes_records
from dprobed.engine.inline.sites import JumpAttachment, JumpSite, JumpTrampoline
from dprobed.engine.interface import Plan, Refusal
from dprobed.wire.engines import SIGNAL
from dprobed.wire.protocol import State


class Prepared:
    """A site that is to be armed, and what it is to lead to."""

    def __init__(self, site: JumpSite) -> None:
        self.site: Final = site
        self.made: JumpTrampoline | None = None
        self._plans: Final[list[tuple[Plan, JumpAttachment]]] = []

    def add(self, plan: Plan) -> None:
        """It is for this, too."""
        self._plans.append((plan, JumpAttachment(plan.probe, plan.location, self.site)))

    @property
    def new(self) -> list[JumpAttachment]:
        """The places of probes that are to be added."""
        return [attachment for _, attachment in self._plans]

    def has(self, plan: Plan) -> bool:
        """Whether it is for this."""
        return any(each is plan for each, _ in self._plans)

    def attachment(self, plan: Plan) -> JumpAttachment:
        """The place of a plan's probe."""
        return next(attachment for each, attachment in self._plans if each is plan)


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
    new = Counter(plan.location.address for plan in plans)
    known = placer.sites.by_address
    places = {
        address: code_bytes(count + len(known[address].attachments if address in known else ()))
        for address, count in new.items()
    }
    placer.reserve(places, executors, code, data, records=records)


def prepare(
    placer: Placer,
    plans: Sequence[Plan],
    ready: dict[int, Prepared],
    breakpoints: NativeSites,
) -> list[tuple[Plan, Refusal]]:
    """Make what the sites of these plans are to lead to; those that are impossible. Raises
    SpaceError and Gone."""
    refused = []
    led = [plan.location.address for plan in plans if plan.engine == SIGNAL]
    impossible = breakpoints.reserve(led) if led else {}
    for plan in plans:
        address = plan.location.address
        if plan.engine == SIGNAL and address in impossible:
            refused.append((plan, Refusal(State.FAILED, impossible[address])))
            continue
        try:
            if address not in ready:
                ready[address] = Prepared(_site(placer, plan, breakpoints))
            if ready[address].site.engine != plan.engine:
                raise SpaceError(f"the {ready[address].site.engine} engine is about to be there")
            ready[address].add(plan)
        except (RelocationError, SpaceError) as error:
            refused.append((plan, Refusal(State.FAILED, str(error))))
    placer.pun(each.site for each in ready.values())
    for address, prepared in list(ready.items()):
        site = prepared.site
        try:
            if site.needs_pun:
                raise SpaceError(placer.why_no_pun(site))
            # While the target still runs: nothing leads there yet.
            prepared.made = placer.build(site, site.attachments + prepared.new)
        except SpaceError as error:
            refusal = Refusal(State.FAILED, str(error))
            refused += [(plan, refusal) for plan in plans if prepared.has(plan)]
            # Another engine may be asked for it next.
            del ready[address]
    return refused


def _site(placer: Placer, plan: Plan, breakpoints: NativeSites) -> JumpSite:
    address = plan.location.address
    known = placer.sites.by_address.get(address)
    if known is not None:
        return known
    text = placer.text(address, LONGEST)
    original = text[: instruction_length(text, address)]
    if plan.engine == SIGNAL:
        return BreakpointSite(address, original, breakpoints)
    return JumpSite(address, original)
