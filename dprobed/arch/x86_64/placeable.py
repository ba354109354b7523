"""Whether an instruction can become a jump, or have a breakpoint, as its bytes alone tell.

Whether memory is free where a punned jump has to lead to is a matter of the process: here it is
taken for free outside of the module itself, and away from what grows behind an executable.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic

from dprobed.arch.x86_64.jump import JUMP_SIZE, windows
from dprobed.arch.x86_64.paging import NEAR, PAGE
from dprobed.arch.x86_64.relocation import RelocationError, displace

#: No instruction is longer.
LONGEST: Final = 15
#: What stands before the abort handler of each restartable sequence (rseq.h of glibc):
#: ``ud1`` with the signature.
ABORTS: Final = bytes.fromhex("0fb93d 53300553")
#: Of these some cannot be displaced, though they go on behind themselves.
_LOOKED_AT: Final = frozenset((Mnemonic.POPFQ, Mnemonic.POPF, Mnemonic.INVALID))
_KERNEL: Final = frozenset((Mnemonic.SYSCALL, Mnemonic.INT))
_SAVE_FLAGS: Final = frozenset((Mnemonic.PUSHFQ, Mnemonic.PUSHF))


class Way(StrEnum):
    """How a probe can be there: by a plain jump, by a punned one, by a breakpoint that leads to the
    same native code, by one at which the tracer runs the program, or not."""

    JUMP = "jump"
    PUN = "pun"
    SIGNAL = "signal"
    TRAP = "trap"
    NONE = "none"


class ModuleSpan(NamedTuple):
    """A module's addresses; ``lowest``: the first that a process may map, seen from there;
    ``grows``: bytes behind it in which nothing may be mapped."""

    start: int
    end: int
    lowest: int
    grows: int


def way(code: bytes, instruction: Instruction, span: ModuleSpan) -> tuple[Way, str]:
    """How a probe can be at an instruction, with what is behind it in ``code``; and why not."""
    address = instruction.ip
    if instruction.flow_control != FlowControl.NEXT or instruction.mnemonic in _LOOKED_AT:
        try:
            displace(code, address, address)
        except RelocationError as error:
            return Way.NONE, error.reason
    if reason := _unserved(instruction):
        return Way.TRAP, reason
    length = instruction.len
    if length >= JUMP_SIZE:
        return Way.JUMP, ""
    if any(_is_free(each.start, each.end, span) for each in windows(code, address, length)):
        return Way.PUN, ""
    return Way.SIGNAL, "it is shorter than a jump, and none can lead anywhere from there"


def unserved(code: bytes, address: int) -> str:
    """Why an instruction cannot run in a trampoline; empty: it can."""
    return _unserved(Decoder(64, code, ip=address).decode())


def _unserved(instruction: Instruction) -> str:
    if instruction.mnemonic in _KERNEL:
        return "it is a system call, which the kernel restarts where it was"
    if instruction.mnemonic in _SAVE_FLAGS:
        return "it stores the flags"
    repeats = instruction.has_rep_prefix or instruction.has_repne_prefix
    if instruction.is_string_instruction and repeats:
        return "it is repeated, and a signal may come in between"
    return ""


def calls(code: bytes, address: int) -> bool:
    """Whether an instruction is a call."""
    flow = Decoder(64, code, ip=address).decode().flow_control
    return flow in (FlowControl.CALL, FlowControl.INDIRECT_CALL)


def _is_free(start: int, end: int, span: ModuleSpan) -> bool:
    low, high = max(start, span.lowest), min(end, span.start + NEAR)
    if low >= high:
        return False
    return low < span.start - 2 * PAGE or high > span.end + span.grows + 2 * PAGE
