"""Which engine serves a place: those that a probe is offered to are asked in turn."""

from __future__ import annotations

from typing import NamedTuple

from dprobed.engine.interface import Location, Plan, Refusal
from dprobed.engine.probe import Probe
from dprobed.tracer.engines import Engines
from dprobed.wire.protocol import State as ProbeState


class Asked(NamedTuple):
    """A place that a probe is to be at, and the engines that are asked for it, in turn."""

    probe: Probe
    location: Location
    engines: tuple[str, ...]


def prepared(
    engines: Engines, asked: list[Asked]
) -> tuple[list[Plan], list[tuple[Probe, Refusal]]]:
    """Plans that are reserved for these, each by the first engine that can, and what none can.
    Raises SpaceError and Gone."""
    plans: list[Plan] = []
    refused: list[tuple[Probe, Refusal]] = []
    while asked:
        offered: list[tuple[Plan, Asked]] = []
        again: list[Asked] = []
        for each in asked:
            found = engines.offer(each.probe, each.location, each.engines[0])
            if isinstance(found, Plan):
                offered.append((found, each))
            else:
                _ask_next(each, found, again, refused)
        impossible = {
            id(plan): refusal for plan, refusal in engines.reserve([plan for plan, _ in offered])
        }
        for plan, each in offered:
            if id(plan) in impossible:
                _ask_next(each, impossible[id(plan)], again, refused)
            else:
                plans.append(plan)
        asked = again
    return plans, refused


def _ask_next(
    asked: Asked, refusal: Refusal, again: list[Asked], refused: list[tuple[Probe, Refusal]]
) -> None:
    """An engine has refused: the next one is to be asked, if there is one."""
    others = asked.engines[1:]
    if others and refusal.state is ProbeState.FAILED:
        asked.probe.slower = refusal.reason
        again.append(Asked(asked.probe, asked.location, others))
    else:
        refused.append((asked.probe, refusal))


def note_refused(refused: list[tuple[Probe, Refusal]]) -> dict[Probe, str]:
    """Have these probes say why they are not at a place. Of those that run in the target, where no
    engine can have that: why."""
    for probe, refusal in refused:
        if probe.attachments:
            probe.set(probe.state, f"not at each of its places: {refusal.reason}")
        else:
            probe.set(refusal.state, refusal.reason)
    return {
        probe: refusal.reason
        for probe, refusal in refused
        if probe.native is not None and refusal.state is ProbeState.FAILED
    }
