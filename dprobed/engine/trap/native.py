"""Breakpoints that lead to native programs in the target: what the inline engine asks for here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dprobed.engine.errors import SpaceError
from dprobed.engine.probe import Attachment
from dprobed.engine.trap.engine import TrapEngine
from dprobed.engine.trap.sites import NativePrograms
from dprobed.tracee.thread import Thread


class NativeBreakpoints:
    """Those of one target."""

    def __init__(self, trap: TrapEngine) -> None:
        self._trap: Final = trap

    def displaces(self, address: int, length: int) -> bool:
        """Whether one is at an instruction there."""
        return self._trap.view.displaces(address, length)

    def original(self, address: int, data: bytearray) -> None:
        """Undo them in bytes that were read from memory."""
        self._trap.view.original(address, data)

    def why_not(self) -> str:
        """Why there can be none in this target; empty: there can.

        That threads block SIGTRAP is no reason: libc has them do so now and then, for a moment.
        """
        return self._trap.sigtrap.why_no_guard()

    def reserve(self, addresses: Sequence[int]) -> dict[int, str]:
        """Slots and the guard; where it cannot be, and why. Raises SpaceError and Gone."""
        self._trap.make_room(addresses)
        if reason := self.why_not():
            return dict.fromkeys(addresses, reason)
        failed = {}
        for address in addresses:
            try:
                self._trap.sites.make(address)
            except SpaceError as error:
                failed[address] = str(error)
        return failed

    def lead(self, address: int, target: int, lose: Callable[[], list[Attachment]]) -> str:
        """Have one lead to native programs; why it cannot."""
        sites = self._trap.sites
        site = sites.ready(address)
        if site is None:
            return f"no breakpoint is at {address:#x}"
        former = site.native
        site.lead(NativePrograms(target, lose))
        sites.serve_without_us([site])
        if sites.arm(site):
            return ""
        site.lead(former)
        return f"the code at {address:#x} changed meanwhile"

    def take_out(self, addresses: Iterable[int], unstoppable: list[Thread]) -> None:
        """Have these lead to none any more, and take out those that nobody else needs."""
        sites = self._trap.sites
        led = [site for each in addresses if (site := sites.ready(each)) and site.native]
        for site in led:
            site.lead(None)
        sites.serve_without_us(led)
        if unneeded := [site for site in led if site.is_empty]:
            self._trap.removal.remove(unneeded, unstoppable)

    def unmapped(self, address: int) -> None:
        """What is there now is not ours to touch."""
        if (site := self._trap.sites.ready(address)) is not None:
            site.gone = True

    def overwritten(self, addresses: Iterable[int]) -> set[int]:
        """Which of these are gone, because the target changed its code."""
        sites = self._trap.sites
        led = [site for each in addresses if (site := sites.ready(each)) is not None]
        return {site.address for site in sites.overwritten(led)}
