"""Which probes are to be inserted where: those that are not yet at each of their places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from dprobed.engine.interface import Location
from dprobed.engine.probe import Probe
from dprobed.tracer.inserted import Inserted
from dprobed.tracer.placement import LoadedModule, Placement, Spot, Unplaced
from dprobed.wire.protocol import State

#: States of probes that are not to be inserted, whatever is mapped.
_NOT_WANTED: Final = (State.FAILED, State.THROTTLED)
#: Probes whose places are asked for together.
_AT_ONCE: Final = 1024


class Wanted(msgspec.Struct, frozen=True):
    """A probe with the addresses at which it is not inserted; or why it has none at all."""

    inserted: Inserted
    probe: Probe
    spots: list[Spot]
    unplaced: Unplaced | None = None

    def location(self, spot: Spot, number: int) -> Location:
        """What an engine is asked for. ``number``: of the place, as records give it."""
        definition = self.probe.definition
        if spot.length:
            kind = definition.watchpoint or "w"
            return Location(
                spot.address,
                number,
                spot.place,
                spot.key,
                code=spot.code if kind == "x" else b"",
                kind=kind,
                length=spot.length,
            )
        opcode = (definition.opcode or b"") if self.inserted.check_opcode else b""
        return Location(
            spot.address,
            number,
            spot.place,
            spot.key,
            opcode,
            spot.code,
            size=spot.size,
            semaphore=spot.semaphore,
            goroutine=spot.goroutine,
            arguments=spot.arguments,
        )


def wanted(
    placement: Placement, programs: Iterable[Inserted], among: list[LoadedModule]
) -> Iterator[Wanted]:
    """The probes of these programs that these modules give an address, or a reason for none."""
    for inserted in programs:
        lacking = placement.find_symbols(inserted.program, inserted.executor.symbols, among)
        probes = [
            each for each in inserted.probes if not each.over and each.state not in _NOT_WANTED
        ]
        if lacking is not None:
            for probe in probes:
                if not probe.attachments:
                    yield Wanted(inserted, probe, [], lacking)
            continue
        for first in range(0, len(probes), _AT_ONCE):
            some = probes[first : first + _AT_ONCE]
            placement.learn(inserted.program.header, [each.definition for each in some], among)
            for probe in some:
                yield from _wanted(placement, inserted, probe, among)


def _wanted(
    placement: Placement, inserted: Inserted, probe: Probe, among: list[LoadedModule]
) -> Iterator[Wanted]:
    have = {attachment.address for attachment in probe.attachments}
    spots, unplaced = placement.find(inserted.program, probe.definition, among)
    fresh = {spot.address: spot for spot in spots if spot.address not in have}
    if fresh:
        yield Wanted(inserted, probe, list(fresh.values()))
    elif unplaced is not None and not have:
        yield Wanted(inserted, probe, [], unplaced)
