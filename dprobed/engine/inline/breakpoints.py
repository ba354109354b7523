"""Sites where no jump leads to the native programs, but a breakpoint: those of the signal engine.

The breakpoint is the trap engine's, with all that belongs to it: slot, guard, journal. Only that a
thread does not go on in the slot, but in a trampoline. As long as a tracer is there it is the
tracer that has it go on there, and it is the guard, a handler of SIGTRAP in the target itself, when
none is. So at such a site everything native is as at a jump, and nothing is lost of the programs
when a tracer is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Final, Protocol

from dprobed.engine.inline.sites import JumpSite, JumpSites, JumpTrampoline
from dprobed.engine.probe import Attachment
from dprobed.tracee.thread import Thread
from dprobed.wire.engines import SIGNAL


class NativeSites(Protocol):
    """What is needed of who has breakpoints in the same address space."""

    def displaces(self, address: int, length: int) -> bool:
        """Whether one is at an instruction there."""
        ...

    def original(self, address: int, data: bytearray) -> None:
        """Undo them in bytes that were read from memory."""
        ...

    def why_not(self) -> str:
        """Why there can be none in this target, since it uses SIGTRAP itself; empty: there can."""
        ...

    def reserve(self, addresses: Sequence[int]) -> dict[int, str]:
        """Prepare for some there; where it cannot be, and why. Raises SpaceError and Gone."""
        ...

    def lead(self, address: int, target: int, lose: Callable[[], list[Attachment]]) -> str:
        """Have a prepared one, or one that is there, lead to native programs, with all threads
        stopped; why it cannot. ``lose``: their probes lose the place; which these were."""
        ...

    def take_out(self, addresses: Iterable[int], unstoppable: list[Thread]) -> None:
        """Have these lead to none any more, and take out those that nobody else needs; all threads
        are stopped but those ``unstoppable``."""
        ...

    def unmapped(self, address: int) -> None:
        """What is there now is not ours to touch."""
        ...

    def overwritten(self, addresses: Iterable[int]) -> set[int]:
        """Which of these are gone, because the target changed its code."""
        ...


class BreakpointSite(JumpSite):
    """A place with a breakpoint that leads to native programs."""

    __slots__ = ("breakpoints",)

    engine: ClassVar[str] = SIGNAL

    def __init__(self, address: int, original: bytes, breakpoints: NativeSites) -> None:
        super().__init__(address, original)
        self.breakpoints: Final = breakpoints

    @property
    def needs_pun(self) -> bool:
        """It has no jump."""
        return False

    def lead(self, trampoline: JumpTrampoline) -> str:
        """Have it lead to these; why it cannot. All threads are stopped."""
        reason = self.breakpoints.lead(self.address, trampoline.start, self.lose)
        if not reason:
            self.leads_to(trampoline)
        return reason

    def lose(self) -> list[Attachment]:
        """Its probes lose the place; which these were."""
        # Of a function all, where one of its returns is lost.
        places = {each.entry or each for each in self.attachments}
        for place in places:
            for piece in place.whole:
                piece.site.attachments.remove(piece)
        return list(places)


def led_to_nothing(sites: JumpSites) -> list[JumpSite]:
    """Those that no probe needs any more."""
    return [
        each
        for each in sites.by_address.values()
        if not each.attachments and isinstance(each, BreakpointSite)
    ]


def overwritten(sites: Iterable[JumpSite], breakpoints: NativeSites) -> list[JumpSite]:
    """Those of these whose breakpoints are gone, because the target changed its code."""
    led = {site.address: site for site in sites if isinstance(site, BreakpointSite)}
    return [led[address] for address in breakpoints.overwritten(led)]
