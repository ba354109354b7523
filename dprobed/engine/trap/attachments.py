"""Places of probes at breakpoint sites: an ordinary one, and one at the entry of a function whose
returns are the probe's hits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dprobed.arch.x86_64.function_code import leaves_by_jump
from dprobed.engine.interface import Location, Twin
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.trap.sites import Site, Sites
from dprobed.wire.engines import TRAP

#: Bytes of a function whose code is looked at for tail calls.
_MOST_CODE: Final = 1 << 16


class SiteAttachment(Attachment):
    """A place of a probe at a breakpoint site."""

    __slots__ = ("site",)

    def __init__(self, probe: Probe, location: Location, site: Site) -> None:
        super().__init__(probe, TRAP, location)
        self.site: Final = site


class EntryAttachment(SiteAttachment):
    """A place of a return probe: at the entry of a function. ``size``: bytes of its code.

    ``goroutine``: it is in Go's code.
    """

    __slots__ = ("_leaves_by_jump", "goroutine", "size")

    def __init__(self, probe: Probe, location: Location, site: Site) -> None:
        super().__init__(probe, location, site)
        self.size: Final = location.size
        self.goroutine: Final = location.goroutine
        self._leaves_by_jump: bool | None = None

    def leaves_by_jump(self, sites: Sites) -> bool:
        """Whether the function may leave its frame to another one."""
        if self._leaves_by_jump is None:
            code = sites.text(self.address, min(self.size, _MOST_CODE))
            self._leaves_by_jump = leaves_by_jump(code, self.address)
        return self._leaves_by_jump


def attach(probe: Probe, where: Location, site: Site) -> SiteAttachment:
    """Have a probe at a site."""
    if probe.definition.returns:
        entered = EntryAttachment(probe, where, site)
        site.entered.append(entered)
        return entered
    attachment = SiteAttachment(probe, where, site)
    site.attachments.append(attachment)
    return attachment


def detach(attachment: Attachment) -> Site:
    """Have a probe at a site no more; the site."""
    site = site_of(attachment)
    among = site.entered if isinstance(attachment, EntryAttachment) else site.attachments
    among.remove(attachment)
    return site


def site_of(attachment: Attachment) -> Site:
    """The site that a place of the trap engine is at."""
    assert isinstance(attachment, SiteAttachment)
    return attachment.site


def attach_twins(
    sites: Iterable[Site], child: dict[int, Site], twin: Twin
) -> dict[Attachment, SiteAttachment]:
    """Attach the twins of these sites' probes in a ``fork`` child, whose sites are given by the rip
    of a thread behind them; by those of the parent."""
    found: dict[Attachment, SiteAttachment] = {}
    for site in sites:
        there = child.get(site.trap)
        for old in site.attachments + site.entered:
            new = twin(old)
            if new is None or there is None:
                continue  # it does not follow, or is a debugger's
            entered = old if isinstance(old, EntryAttachment) else None
            location = Location(
                old.address,
                new[1],
                old.place,
                old.module_key,
                size=entered.size if entered else 0,
                semaphore=old.semaphore,
                arguments=old.arguments,
                goroutine=entered is not None and entered.goroutine,
            )
            found[old] = attach(new[0], location, there)
    return found
