"""Threads in displaced instructions, moved to the original place."""

from __future__ import annotations

from dprobed.arch.x86_64.paging import WORD
from dprobed.arch.x86_64.registers import RCX, RIP, RSP
from dprobed.arch.x86_64.relocation import Position
from dprobed.tracee.ptrace import Registers


def move_to(registers: Registers, position: Position) -> None:
    """Set loaded registers to an original place."""
    words = registers.words
    words[RIP] = position.address
    words[RSP] = words[RSP] + position.rsp_delta & WORD
    if position.rcx is not None:
        words[RCX] = position.rcx
