"""The rights over a process, and which of them a program needs.

What a program needs is read off its instructions by the one table (program/isa.py), in the code
of those of its probes that are selected. It cannot be got around: what no instruction of a program
says, the program cannot do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from dprobed.program.exits import DEBUGGER, DUMP
from dprobed.program.isa import Instruction, Operand
from dprobed.program.model import Program


class Right(StrEnum):
    """A right over a process; none of them includes another.

    OBSERVE: have probes in it, and read with them. ALTER: change its registers and memory.
    DUMP: write a core of it. DEBUG: make its threads stand still, hand it to a debugger.
    """

    OBSERVE = "observe"
    ALTER = "alter"
    DUMP = "dump"
    DEBUG = "debug"


ALL: Final = frozenset(Right)
#: Facilities with effects on the process itself, by name and by number.
_FACILITIES: Final[Mapping[int | str, Right]] = {
    "dump": Right.DUMP,
    DUMP: Right.DUMP,
    "debugger": Right.DEBUG,
    DEBUGGER: Right.DEBUG,
}


def needs(program: Program) -> dict[Right, str]:
    """The rights that a verified program needs, each with the first instruction that asks."""
    found = {Right.OBSERVE: ""}
    for probe in program.probes:
        for offset, instruction, operands in program.instructions(probe):
            right = right_of(instruction, operands, program.facilities)
            if right is not Right.OBSERVE and right not in found:
                place = program.code_place(offset)
                where = f" in {place}" if place is not None else ""
                found[right] = f"`{instruction.spelling}`{where}"
    return found


def right_of(
    instruction: Instruction, operands: tuple[int, ...], facilities: tuple[int | str, ...]
) -> Right:
    """The right that one instruction needs; ``facilities``: those of its program."""
    if instruction.writes:
        return Right.ALTER
    if instruction.holds:
        return Right.DEBUG
    if Operand.FACILITY in instruction.operands:
        return _FACILITIES.get(facilities[operands[0]], Right.OBSERVE)
    return Right.OBSERVE


def words(rights: Iterable[Right]) -> str:
    """Rights as people read them, in their fixed order."""
    chosen = set(rights)
    return ", ".join(right for right in Right if right in chosen) or "nothing"
