"""What is compiled of a probe: each of its parts is a ``Unit``."""

from __future__ import annotations

from typing import NamedTuple

from dprobed.program.exec.lowering import Unit
from dprobed.program.isa import Operand, decode_at
from dprobed.program.model import ProbeDefinition, Program


class UnitPart(NamedTuple):
    """``base``: where in the program's code the code of the unit begins."""

    unit: Unit
    base: int


def part_of(
    program: Program, probe: ProbeDefinition, begins: int, facilities: tuple[int, ...]
) -> UnitPart:
    """The part of a probe that begins at a code offset: its ``start`` or its ``entry``."""
    code, base = program.code, 0
    end = probe.split if begins < probe.split else probe.end
    if not has_labels(code, begins, end):
        # It stands for itself, so that others with the same instructions need no work at all.
        code, base = code[begins:end], begins
    unit = Unit(
        program.header,
        code,
        begins - base,
        probe.ex_mask,
        probe.heap,
        facilities,
        program.names,
        probe.is_static,
    )
    return UnitPart(unit, base)


def has_labels(code: bytes, start: int, end: int) -> bool:
    """Whether an instruction between two code offsets names another one."""
    while start < end:
        instruction, _, start = decode_at(code, start)
        if Operand.LABEL in instruction.operands:
            return True
    return False
