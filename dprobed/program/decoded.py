"""The instructions of a program's code one by one, and what data flow analysis finds wrong."""

from __future__ import annotations

from collections.abc import Container, Iterator

import msgspec

from dprobed.program.isa import Flow, Instruction, Operand, decode_at


class Decoded(msgspec.Struct, frozen=True):
    """One instruction of the code. ``broken``: it is refused already, its effect is unknown."""

    offset: int
    instruction: Instruction
    operands: tuple[int, ...]
    next: int
    broken: bool = False

    @property
    def target(self) -> int | None:
        """The code offset of its label, if it has one."""
        if self.broken or Operand.LABEL not in self.instruction.operands:
            return None
        return self.operands[0]

    @property
    def called(self) -> int | None:
        """The code offset of the subroutine that it calls, if it is a call."""
        return self.target if self.instruction.flow is Flow.CALL else None

    def next_in_frame(self) -> Iterator[int]:
        """The code offsets at which it can go on within the same subroutine."""
        flow = self.instruction.flow
        if self.broken or flow.falls_through:
            yield self.next
        if self.target is not None and flow is not Flow.CALL:
            yield self.target


def decoded_code(code: bytes, broken: Container[int] = ()) -> list[Decoded]:
    """All instructions of a code; ``broken``: the offsets of those that are refused already."""
    found = []
    offset = 0
    while offset < len(code):
        instruction, operands, following = decode_at(code, offset)
        found.append(Decoded(offset, instruction, operands, following, offset in broken))
        offset = following
    return found


class FlowFinding(msgspec.Struct, frozen=True):
    """Something provably wrong at the instruction at ``offset``. ``depth``: show the depths."""

    offset: int
    message: str
    hint: str
    depth: bool = False
