"""Which programs have no native code, and why: asked before anything is compiled."""

from __future__ import annotations

from typing import Final, NamedTuple

from dprobed.program.blocks import find_blocks
from dprobed.program.exec.lowering import Unit
from dprobed.program.isa import Instruction, Operand

_WHY: Final = {
    "log ustack": "the stack of a thread is walked by the tracer",
    "key ustack": "the stack of a thread is walked by the tracer",
    "vfy rw": "whether memory may be written is known to the tracer",
}


class NotNative(NamedTuple):
    """An instruction without native code: its code offset in the unit, itself, and why."""

    offset: int
    instruction: Instruction
    reason: str

    def __str__(self) -> str:
        return f"`{self.instruction.spelling}`: {self.reason}"


def why_not(unit: Unit) -> NotNative | None:
    """The first instruction of a unit that cannot be compiled; None: all can."""
    for block in find_blocks(unit.code, unit.entry):
        for step in block.steps:
            reason = _WHY.get(step.instruction.name)
            if Operand.MAP in step.instruction.operands:
                one = unit.header.map[step.operands[0]]
                reason = "a `tseries` is kept by the tracer" if one.kind == "tseries" else reason
            if reason is not None:
                return NotNative(step.offset, step.instruction, reason)
    return None
