"""Takes jumps out, and tells of those that cannot be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dprobed.engine.inline.breakpoints import BreakpointSite
from dprobed.engine.inline.placing import Placer
from dprobed.engine.inline.sites import JumpSite
from dprobed.engine.interface import Listener
from dprobed.tracee.thread import Thread

#: Places that a message names.
_NAMED: Final = 5


class JumpRemoval:
    """Of one target."""

    def __init__(self, listener: Listener) -> None:
        #: Sites that are still there, because nothing can be written there; they run no program.
        self.stuck: Final[set[JumpSite]] = set()
        self._listener: Final = listener

    def take_out(
        self, placer: Placer, sites: Iterable[JumpSite], unstoppable: list[Thread]
    ) -> None:
        """Put the instructions back; where that cannot be, it is to be tried again, and is told
        once. All threads are stopped but those ``unstoppable``."""
        jumps = []
        led = []
        for site in sites:
            if isinstance(site, BreakpointSite):
                placer.sites.by_address.pop(site.address, None)
                led.append(site)
            else:
                jumps.append(site)
        if led:
            led[0].breakpoints.take_out([site.address for site in led], unstoppable)
        stuck = {site for site in jumps if not placer.sites.disarm(site)}
        for each in [each for site in stuck for each in site.attachments]:
            placer.end(each.probe)
        if new := sorted(site.address for site in stuck - self.stuck):
            places = ", ".join(f"{address:#x}" for address in new[:_NAMED])
            self._listener.unremoved(
                f"the code at {places}{' …' if len(new) > _NAMED else ''} cannot be written: the "
                "process stays with a jump there, which runs no program"
            )
        self.stuck.clear()
        self.stuck.update(stuck)
