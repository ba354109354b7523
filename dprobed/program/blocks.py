"""A probe's code as basic blocks, and the depth of the stack at the start of each.

A *basic block* is a straight run of instructions: it is entered only at its first one and left only
at its last one (or by an exception). Lowering starts from these; the instruction budget is charged
by the block.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dprobed.program.isa import Flow, Instruction, Operand, decode_at


class Step(msgspec.Struct, frozen=True):
    """One instruction of a block; ``next`` is the code offset of the one after it."""

    instruction: Instruction
    operands: tuple[int, ...]
    offset: int
    next: int


class CodeBlock(msgspec.Struct, frozen=True):
    """A basic block; ``following``: where it goes on when it does not jump, or None."""

    start: int
    steps: tuple[Step, ...]
    following: int | None

    @property
    def target(self) -> int | None:
        """Where its last instruction jumps to or calls."""
        last = self.steps[-1]
        if last.instruction.flow in (Flow.JUMP, Flow.BRANCH, Flow.CALL):
            return last.operands[0]
        return None

    @property
    def cost(self) -> int:
        """What it takes of the instruction budget, as far as that is known before it runs."""
        return sum(map(step_cost, self.steps))


_COUNTS: Final = (Operand.COUNT8, Operand.COUNT16)


def step_cost(step: Step) -> int:
    """An instruction counts as one, and as one more for each full 8 words that it moves."""
    kinds = step.instruction.operands
    return 1 + (step.operands[0] >> 3 if kinds and kinds[0] in _COUNTS else 0)


def _reachable(code: bytes, entry: int) -> tuple[dict[int, Step], set[int]]:
    """The instructions that can be reached, and the offsets at which blocks begin."""
    steps: dict[int, Step] = {}
    leaders = {entry}
    todo = [entry]
    while todo:
        offset = todo.pop()
        if offset in steps:
            continue
        instruction, operands, following = decode_at(code, offset)
        steps[offset] = Step(instruction, operands, offset, following)
        if Operand.LABEL in instruction.operands:
            leaders.add(operands[0])
            todo.append(operands[0])
        if instruction.flow.falls_through:
            todo.append(following)
        if instruction.flow not in (Flow.NEXT, Flow.HANDLER):
            leaders.add(following)
    return steps, leaders


def find_blocks(code: bytes, entry: int) -> list[CodeBlock]:
    """The blocks that can be reached from ``entry``, the one at ``entry`` first.

    The code is verified: no instruction goes on past its end.
    """
    steps, leaders = _reachable(code, entry)
    blocks = []
    for start in sorted(leaders & steps.keys(), key=lambda offset: (offset != entry, offset)):
        run = [steps[start]]
        while run[-1].next not in leaders and run[-1].instruction.flow in (Flow.NEXT, Flow.HANDLER):
            run.append(steps[run[-1].next])
        falls = run[-1].instruction.flow.falls_through
        blocks.append(CodeBlock(start, tuple(run), run[-1].next if falls else None))
    return blocks


def successors(block: CodeBlock) -> list[int]:
    """The code offsets at which the same frame can go on after the block."""
    found = [] if block.following is None else [block.following]
    if block.target is not None:
        found.append(block.target)
    return found


def is_acyclic(blocks: list[CodeBlock]) -> bool:
    """Whether no instruction can run twice in one hit: no way back, no call, no handler."""
    for block in blocks:
        if any(s.instruction.flow in (Flow.HANDLER, Flow.CALL) for s in block.steps):
            return False
        # The code is laid out in order, so that a way back goes to a lower offset.
        if any(to <= block.start for to in successors(block)):
            return False
    return True


def is_slot(instruction: Instruction) -> bool:
    """Whether an instruction is about a stack word at a place that it names."""
    return Operand.SLOT in instruction.operands


def slot_position(step: Step, depth: int) -> int:
    """The stack word that such an instruction is about, from the bottom on, where nothing has
    moved SBP; ``depth``: how many words there are before it."""
    (slot,) = step.operands
    return slot if step.instruction.name.endswith("sbp") else depth - 1 + slot


def static_depths(blocks: list[CodeBlock], limit: int) -> dict[int, int] | None:
    """The depth of the stack at the start of each block, if it is one number on every path.

    None where it is not, where an instruction's effect is known only when it runs, or where it
    leaves 0..``limit``.
    """
    by_start = {block.start: block for block in blocks}
    depths = {blocks[0].start: 0}
    todo = [blocks[0].start]
    while todo:
        start = todo.pop()
        depth = depths[start]
        for step in by_start[start].steps:
            need, change = step.instruction.effect(step.operands)
            if change is None or depth < need or depth + change > limit:
                return None
            if is_slot(step.instruction) and not 0 <= slot_position(step, depth) < depth:
                return None
            depth += change
        for to in successors(by_start[start]):
            if to not in depths:
                depths[to] = depth
                todo.append(to)
            elif depths[to] != depth:
                return None
    return depths
