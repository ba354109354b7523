"""Takes over the breakpoints and pages that a tracer which was killed has left in a target.

What there is, the change journal of that tracer says; the target's threads have run since. The
watch engine leaves nothing: the debug registers of a thread end with its tracer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dprobed.change_journal import Change, Kind
from dprobed.engine.errors import SpaceError
from dprobed.engine.trap.engine import TrapEngine
from dprobed.engine.trap.sites import Sites
from dprobed.engine.trap.slots import give_back_mask
from dprobed.tracee.ptrace import Gone

if TYPE_CHECKING:
    from dprobed.engine.inline.engine import InlineEngine

#: Seconds for which threads are waited for that are in the guard's handler, and between two looks.
_IN_HANDLER: Final = 10.0
_PAUSE: Final = 0.01


def adopt(trap: TrapEngine, inline: Callable[[], InlineEngine]) -> None:
    """Make what is left these engines'; no stop was served yet. Raises Gone and SpaceError.

    ``inline`` makes the inline engine, where that one has left something.
    """
    space = trap.sites.space
    found = space.changes.adopt()
    _take_over_sites(trap.sites, found)
    if any(change.kind in (Kind.JUMP, Kind.CODE) for change in found):
        inline().adopt(found)
    if not found:
        return
    for change in found:
        if change.kind is Kind.GATE:
            space.calls.adopt(change.address)
        elif change.kind is Kind.SEMAPHORE:
            space.semaphores.adopt(change)
    _give_back_masks(trap, found)
    _leave_pages(trap)
    lost = next((each.data for each in found if each.kind is Kind.DISPOSITION), None)
    with trap.group.borrower.borrowed(space.tgid) as thread:
        for change in found:
            if change.kind is Kind.RAW:
                space.raw[change.address] = change.data
                space.remove_raw(change.address)
            elif change.kind is Kind.COPY:
                # Here: dumps are rare, and this one's tracer is no more.
                from dprobed.tracer.dump.copied import reap_lost

                reap_lost(trap.group, space, thread, change)
        trap.sigtrap.adopt(thread, lost)


def _take_over_sites(sites: Sites, found: list[Change]) -> None:
    """Of these sites none has a probe: ``disarm_all`` takes them out, and every thread."""
    order = {Kind.AREA: 0, Kind.GUARD: 1, Kind.SITE: 2}
    for change in sorted(found, key=lambda each: order.get(each.kind, 3)):
        size = int.from_bytes(change.data[:8], "little")
        match change.kind:
            case Kind.AREA:
                sites.space.resident.adopt(change.address, size)
            case Kind.GUARD:
                sites.guard.adopt(change.address, size)
            case Kind.SITE:
                sites.adopt(change)
            case _:
                continue


def _give_back_masks(trap: TrapEngine, found: list[Change]) -> None:
    """Threads that made a step for that tracer get their signal masks back."""
    changes = trap.sites.space.changes
    with trap.group.stopped():
        for change in found:
            if change.kind is Kind.MASK:
                if change.address in trap.group.threads:
                    with contextlib.suppress(Gone):
                        give_back_mask(change.address, change.data)
                changes.forget(Kind.MASK, change.address)


def _leave_pages(trap: TrapEngine) -> None:
    """Send threads back that are in the gate, where they make a system call for that tracer; and
    wait until none is in the handler of the guard. Raises Gone and SpaceError."""
    guard, calls = trap.sites.guard, trap.sites.space.calls
    deadline = time.monotonic() + _IN_HANDLER
    while True:
        with trap.group.stopped():
            places = trap.places_of_threads()
            for thread, rip in places:
                if calls.in_gate(rip):
                    with contextlib.suppress(Gone):
                        calls.send_back(thread)
            if not any(guard.holds(rip) for _, rip in places):
                return
        if time.monotonic() > deadline:
            raise SpaceError("a thread stays in the handler of the guard")
        trap.group.tracees.pause(_PAUSE)
