"""Puts jumps, or breakpoints, in: looks, prepares what they are to lead to, and writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dprobed.engine.errors import SpaceError
from dprobed.engine.inline.breakpoints import NativeSites
from dprobed.engine.inline.offers import why_no_records
from dprobed.engine.inline.placing import Placer
from dprobed.engine.inline.prepared import Prepared, Reserved, has_records, make_room, prepare
from dprobed.engine.inline.records import RecordReader
from dprobed.engine.inline.sites import JumpAttachment, JumpSite
from dprobed.engine.interface import Plan, Refusal
from dprobed.engine.probe import Attachment
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.wire.protocol import State

#: What became of a plan.
Armed = tuple[Plan, Attachment | Refusal]


class JumpInsertion:
    """Of one target."""

    def __init__(self, group: ThreadGroup, breakpoints: NativeSites) -> None:
        self._group: Final = group
        self._breakpoints: Final = breakpoints
        self._ready: Final = Reserved()

    def reserve(
        self, placer: Placer, reader: RecordReader, plans: Sequence[Plan]
    ) -> list[tuple[Plan, Refusal]]:
        """See Engine: room, code and data."""
        if not plans:
            return []
        makes_some = any(map(has_records, plans))
        if makes_some and (reason := why_no_records()):
            return [(plan, Refusal(State.FAILED, reason)) for plan in plans]
        make_room(placer, plans, records=makes_some)
        if makes_some:
            with self._group.stopped():
                reader.note_stopped(list(self._group.threads.values()))
        return prepare(placer, plans, self._ready, self._breakpoints)

    def arm(
        self, placer: Placer, plans: Sequence[Plan]
    ) -> tuple[list[Armed], list[JumpAttachment]]:
        """See Engine; and what was armed, but belongs to a place that cannot be."""
        wrong: dict[int, str] = {}
        needed = [each.site.address for plan in plans for each in self._ready.place(plan).whole]
        shared = placer.space.in_shared(needed) if needed else {}
        for address in needed:
            if address not in wrong:
                prepared = self._ready.sites[address]
                wrong[address] = shared.get(address) or self._arm(placer, prepared)
        results: list[Armed] = []
        whole: set[JumpAttachment] = set()
        for plan in plans:
            place = self._ready.place(plan)
            reasons = [wrong[each.site.address] for each in place.whole]
            reason = next(filter(None, reasons), "")
            if not reason:
                whole.update(place.whole)
            results.append((plan, Refusal(State.FAILED, reason) if reason else place))
        armed = (self._ready.sites[address] for address, why in wrong.items() if not why)
        return results, [each for site in armed for each in site.new if each not in whole]

    def _arm(self, placer: Placer, prepared: Prepared) -> str:
        """Have a site lead to what was prepared for it; why it cannot."""
        site = prepared.site
        assert prepared.made is not None
        try:
            reason = placer.lead(site, prepared.made, self._breakpoints.displaces)
        except SpaceError as error:
            reason = str(error)
        if not reason:
            site.attachments += prepared.new
            placer.resume(site)
        return reason

    def rewrite(self, placer: Placer, site: JumpSite) -> str:
        """Have a site lead to the programs that are there now; why it cannot. Raises SpaceError."""
        return placer.lead(site, placer.build(site, site.attachments), self._breakpoints.displaces)

    def abandon(self) -> None:
        """What was prepared is not needed any more."""
        self._ready.clear()
