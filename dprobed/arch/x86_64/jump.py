"""Jumps in place of instructions: plain where these have five bytes, else *punned*.

A punned jump's last bytes are the first ones of the instructions behind, left as they are: only the
probed instruction's own bytes change, and code that jumps behind it finds what was there. So where
it leads to is given by these bytes, but for as many low bits as the instruction has bytes to spare.
(B. Chamith et al., Instruction punning, PLDI 2017; G. J. Duck et al., E9Patch, PLDI 2020.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

#: Bytes of ``jmp rel32``.
JUMP_SIZE: Final = 5
_JMP_REL32: Final = b"\xe9"
#: A prefix that means nothing before a near jump (Intel SDM vol. 2, 2.1.1: ES, in 64-bit mode).
_NOTHING: Final = b"\x26"
_JMP_ABSOLUTE: Final = bytes.fromhex("ff25 00000000")  # jmp [rip]
_NEAR: Final = 1 << 31


def jump(address: int, target: int) -> bytes:
    """``jmp target``, at an address; raises OverflowError out of reach."""
    return _JMP_REL32 + (target - address - JUMP_SIZE).to_bytes(4, "little", signed=True)


def target_of(code: bytes, address: int) -> int | None:
    """Where the jump leads to that ``code`` at an address begins with, as they are made here; None:
    it is none."""
    size = len(code) - len(code.lstrip(_NOTHING)) + JUMP_SIZE
    if len(code) < size or code[size - JUMP_SIZE] != _JMP_REL32[0]:
        return None
    return address + size + int.from_bytes(code[size - 4 : size], "little", signed=True)


def far_jump(address: int, target: int) -> bytes:
    """A jump to anywhere."""
    if -_NEAR <= target - address - JUMP_SIZE < _NEAR:
        return jump(address, target)
    return _JMP_ABSOLUTE + target.to_bytes(8, "little")


#: Bytes that it takes at most.
FAR_JUMP: Final = len(_JMP_ABSOLUTE) + 8


class Window(msgspec.Struct, frozen=True):
    """Where a punned jump may lead: to ``start`` and up to before ``end``. ``prefixes``: how many
    it has; ``length``: bytes of the instruction; ``behind``: those behind that it needs as they
    are."""

    start: int
    end: int
    prefixes: int
    length: int
    behind: bytes

    @property
    def tail(self) -> int:
        """How many of those."""
        return len(self.behind)

    def bytes_for(self, target: int, address: int) -> bytes:
        """The bytes of the instruction at ``address`` that lead to ``target``."""
        relative = target - (address + self.prefixes + JUMP_SIZE)
        whole = _NOTHING * self.prefixes + _JMP_REL32 + relative.to_bytes(4, "little", signed=True)
        return whole[: self.length]


def windows(code: bytes, address: int, length: int) -> Iterator[Window]:
    """The windows of an instruction of ``length`` bytes, less than a jump's, with what is behind
    it in ``code``; the widest first."""
    for prefixes in range(length):
        size = prefixes + JUMP_SIZE
        behind = code[length:size]
        free = size - 4  # where the displacement begins
        spare = length - free
        if len(behind) != size - length or spare < 0:
            continue
        lowest = int.from_bytes(bytes(spare) + behind, "little", signed=True)
        start = address + size + lowest
        yield Window(start, start + (1 << 8 * spare), prefixes, length, behind)
