"""Threads and text as they would be without the breakpoints of one address space."""

from __future__ import annotations

from typing import Final

from dprobed.arch.x86_64.paging import WORD
from dprobed.arch.x86_64.registers import RIP, RSP
from dprobed.arch.x86_64.relocation import Where
from dprobed.engine.positions import move_to
from dprobed.engine.trap.sites import Sites
from dprobed.tracee.ptrace import Registers


class OriginalView:
    """The original registers and text, for debuggers, core dumps and other engines."""

    def __init__(self, sites: Sites) -> None:
        self._sites: Final = sites

    def leave(self, registers: Registers) -> bool:
        """See Engine."""
        found = self._sites.slot_at(registers.words[RIP])
        if found is None:
            return False
        move_to(registers, found[0].position(found[1]))
        return True

    def hit_in_slot(self, registers: Registers) -> tuple[int, int] | None:
        """Address and rsp of a hit whose instruction a thread in a slot has yet to execute."""
        found = self._sites.slot_at(registers.words[RIP])
        if found is None:
            return None
        position = found[0].position(found[1])
        if position.where is Where.AFTER:
            return None
        return found[0].address, registers.words[RSP] + position.rsp_delta & WORD

    def enter_slot(self, registers: Registers) -> bool:
        """Move loaded registers that are at a site into its slot; false: there is no site."""
        site = self._sites.by_trap.get(registers.words[RIP] + 1)
        if site is not None:
            registers.words[RIP] = site.slot
        return site is not None

    def original_place(self, rip: int) -> int:
        """The original place of a thread's rip."""
        found = self._sites.slot_at(rip)
        return rip if found is None else found[0].position(found[1]).address

    def may_have_hit(self, registers: Registers) -> bool:
        """Whether loaded registers are behind a breakpoint, whose SIGTRAP may yet come."""
        return registers.words[RIP] in self._sites.by_trap

    def breakpoints(self) -> dict[int, int]:
        """The original byte under each breakpoint that may be in memory, by address."""
        return {site.address: site.original[0] for site in self._sites.all() if not site.gone}

    def displaces(self, address: int, length: int) -> bool:
        """Whether an instruction there runs in a slot, so that what stands in memory does not."""
        return any(
            site.address < address + length and address < site.address + site.displaced.length
            for site in self._sites.by_trap.values()
        )

    def original(self, address: int, data: bytearray) -> None:
        """See Engine."""
        end = address + len(data)
        for site in self._sites.by_trap.values():
            if address <= site.address < end and not site.gone:
                data[site.address - address] = site.original[0]
