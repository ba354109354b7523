"""A function of the intermediate representation in the making: its blocks, its stack, its failures.

``Lowering`` has what all instructions need; ``lower`` says what each of them is made of. Within a
block a word of the program's stack is a value of the representation (a ``Temp``, a number), so that
pushing and popping cost nothing; between blocks it lives in a ``Slot`` or in the stack in memory.
Either way an instruction that fails writes the stack back only on the way out to its handler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from dprobed.program.blocks import CodeBlock as CodeBlock
from dprobed.program.blocks import (
    Step,
    find_blocks,
    is_acyclic,
    is_slot,
    slot_position,
    static_depths,
)
from dprobed.program.exceptions import FATAL_EX_MASK, ExCode
from dprobed.program.exec import ir
from dprobed.program.exec.ir import CodeOffset, Depth, Op, Raise, Slot, Temp, Word
from dprobed.program.exits import INSTRUCTION_BUDGET
from dprobed.program.isa import STACK_WORDS
from dprobed.program.map_use import Key, keys_at_blocks, uses_maps
from dprobed.program.model import Diagnostic, Header, Program, ProgramError, SourcePlace

#: Deeper stacks than this are kept in memory, not in variables.
_STATIC_DEPTH: Final = 64
#: Up to so many words of the stack in memory are moved one by one, more by an operation that loops.
UNROLL: Final = 8
#: What an instruction whose cost depends on a value costs at most: `malloc` of 1 MiB.
_VARYING_COST: Final = 1 << 14
#: A frame of a stack costs about as much as so many instructions.
FRAME_COST: Final = 8

#: Made once: values are many, and the same in every program.
_SLOTS: Final = tuple(map(Slot, range(_STATIC_DEPTH)))
_TEMPS: Final = tuple(map(Temp, range(128)))


class Unit(msgspec.Struct, frozen=True):
    """What is lowered: one probe's code and what of the program decides on how it runs.

    ``facilities``: the number behind each index of an `exit n`; ``names``: of values.
    ``static_probe``: whether its arguments are those of a static probe, and not of a function.
    """

    header: Header
    code: bytes
    entry: int
    ex_mask: int
    heap: int
    facilities: tuple[int, ...]
    names: tuple[str, ...] = ()
    static_probe: bool = False


def facility_numbers(program: Program, facilities: Mapping[str, int]) -> tuple[int, ...]:
    """The number of each facility of the program; raises ProgramError for unknown names."""
    unknown = [f for f in program.facilities if isinstance(f, str) and f not in facilities]
    if unknown:
        known = ", ".join(sorted(facilities)) or "none"
        nowhere = (SourcePlace(program.source_name or program.header.name, 0, 0),)
        raise ProgramError(
            tuple(
                Diagnostic(*place, f"no facility is called `{name}`", f"there are: {known}")
                for name in unknown
                for place in program.facility_places(name) or nowhere
            )
        )
    return tuple(f if isinstance(f, int) else facilities[f] for f in program.facilities)


class Lowering:
    """The operations of the present block, and the stack as it is after the last of them.

    ``static`` false keeps the stack in memory also where variables would do.
    """

    def __init__(self, unit: Unit, static: bool) -> None:
        self.unit = unit
        self.header = unit.header
        self.blocks = find_blocks(unit.code, unit.entry)
        self.number = {block.start: n for n, block in enumerate(self.blocks)}
        steps = [step for block in self.blocks for step in block.steps]
        # Words at places that are known beforehand need no stack in memory.
        framed = unit.header.autostacktrace or any(
            step.instruction.frames and not is_slot(step.instruction) for step in steps
        )
        self.depths = None if framed or not static else static_depths(self.blocks, _STATIC_DEPTH)
        self.static = self.depths is not None
        self.acyclic = is_acyclic(self.blocks)
        #: The key that is open: before the present instruction, and at the start of each block.
        self.key: Key = ()
        used = uses_maps(step.instruction for step in steps)
        self._keys = keys_at_blocks(self.blocks) if used else {}
        self.counts_budget = not self.acyclic or self._worst_cost() > INSTRUCTION_BUDGET
        self.counts_jumps = not self.acyclic or len(self.blocks) > self.header.jmpmax
        self.wraps = bool(unit.ex_mask & ExCode.RPN_STACK_WRAP)
        self._offsets = {unit.entry: CodeOffset(0)}
        self._ops: list[Op] = []
        self._end: ir.Ending | None = None
        self._temps = 0
        # The stack within the block: ``_words`` are its topmost ones, above the depth + ``_under``.
        self._words: list[Word] = []
        self._under = 0
        self._home: dict[Word, int] = {}
        self._low = self._high = 0

    def _worst_cost(self) -> int:
        steps = [step for block in self.blocks for step in block.steps]
        varying = sum(step.instruction.varies for step in steps)
        return sum(block.cost for block in self.blocks) + _VARYING_COST * varying

    # -- operations ---------------------------------------------------------------------------

    def add(self, op: Op) -> None:
        """Add an operation to the block."""
        self._ops.append(op)

    def new(self) -> Temp:
        """The name of a new value."""
        self._temps += 1
        return _TEMPS[self._temps] if self._temps < len(_TEMPS) else Temp(self._temps)

    def compute(self, op: ir.WordOp, left: Word, right: Word) -> Temp:
        """The value of an operation on two words."""
        result = self.new()
        self.add(ir.Compute(result, op, left, right))
        return result

    def end(self, ending: ir.Ending) -> None:
        """End the block."""
        self._end = ending

    def code_offset(self, offset: int) -> CodeOffset:
        """A code offset as a value."""
        return self._offsets.setdefault(offset, CodeOffset(len(self._offsets)))

    # -- the stack ----------------------------------------------------------------------------

    @property
    def _relative(self) -> int:
        """The depth now, less the one that the operations so far have made."""
        return self._under + len(self._words)

    def push(self, word: Word) -> None:
        """Push a value."""
        self._words.append(word)

    def pop(self) -> Word:
        """Pop a value."""
        if self._words:
            return self._words.pop()
        self._under -= 1
        word = self.new()
        self.add(ir.StackLoad(word, ir.Base.DEPTH, self._under))
        self._home[word] = self._under
        return word

    def top(self) -> Word:
        """The value on top; it stays."""
        word = self.pop()
        self.push(word)
        return word

    def at_slot(self, step: Step) -> Word:
        """The stack word that an instruction names (static)."""
        return self._words[slot_position(step, len(self._words))]

    def set_slot(self, step: Step, *, pops: bool) -> None:
        """Store the value on top to the stack word that an instruction names (static)."""
        position = slot_position(step, len(self._words))
        word = self.pop() if pops else self.top()
        if position < len(self._words):
            self._words[position] = word

    def drop(self, count: int) -> None:
        """Pop words that nobody wants to see."""
        known = min(count, len(self._words))
        del self._words[len(self._words) - known :]
        self._under -= count - known

    def _stores(self) -> tuple[tuple[int, Word], ...]:
        """What must be written for the stack in memory to be up to date."""
        return tuple(
            (position, word)
            for position, word in enumerate(self._words, self._under)
            if self._home.get(word) != position
        )

    def flush(self) -> None:
        """Bring the stack in memory up to date (not static)."""
        for position, word in self._stores():
            self.add(ir.StackStore(word, ir.Base.DEPTH, position))
        if self._relative:
            self.add(ir.MoveDepth(self._relative))
        self.moved(self._relative)
        self._forget()

    def _forget(self) -> None:
        self._words, self._under, self._home = [], 0, {}

    def moved(self, words: int) -> None:
        """The last operation has added this to the depth."""
        self._low = max(self._low + words, 0)
        self._high = max(self._high - words, 0)

    def depth(self) -> Depth:
        """The depth now (not static)."""
        return Depth(self._relative)

    def depth_is_unknown(self) -> None:
        """The depth was set to something that only run time tells."""
        self._low = self._high = 0

    def check_wrap(self, step: Step) -> None:
        """Raise RPN_STACK_WRAP before an instruction that has too few or too many words."""
        if self.static or not self.wraps:
            return
        need, change = step.instruction.effect(step.operands)
        low: int | None = need - self._relative
        high: int | None = self._relative + (change or 0)
        assert low is not None
        assert high is not None
        low = low if low > self._low else None
        high = high if high > self._high else None
        self._low = self._low if low is None else low
        self._high = self._high if high is None else high
        if low is not None or high is not None:
            most = None if high is None else STACK_WORDS - high
            self.add(ir.Guard(Depth(0), low, most, self.fault(ExCode.RPN_STACK_WRAP, Depth(0))))

    # -- failing ------------------------------------------------------------------------------

    def raises(self, code: ExCode) -> bool:
        """Whether an exception is not simply ignored."""
        return bool(code & (self.unit.ex_mask | FATAL_EX_MASK))

    def fault(self, code: ExCode | Word, parm1: Word = 0, parm2: Word = 0) -> Raise:
        """How to raise an exception with the stack as it is now; ``Depth(0)`` is then its depth."""
        number = int(code) if isinstance(code, ExCode) else code
        if self.static:
            return Raise(number, parm1, parm2)
        return Raise(number, parm1, parm2, self._stores(), self._relative)

    def overflow(self) -> Raise | None:
        """How to raise LOG_OVERFLOW; None where it is ignored."""
        if not self.raises(ExCode.LOG_OVERFLOW):
            return None
        return self.fault(ExCode.LOG_OVERFLOW, self.header.logmax)

    def guard(
        self, word: Word, low: int | None, high: Word | None, code: ExCode, *parms: Word
    ) -> None:
        """Raise an exception unless ``low`` <= ``word`` <= ``high``."""
        self.add(ir.Guard(word, low, high, self.fault(code, *parms)))

    def invalid(self, step: Step) -> None:
        """An instruction that only the kernel's executor has: it always fails."""
        self.add(ir.Fail(self.fault(ExCode.INVALID_OPCODE, step.instruction.opcode)))
        need, change = step.instruction.effect(step.operands)
        self.drop(need)
        for _ in range(need + (change or 0)):
            self.push(0)

    def charge(self, word: Word, shift: int, at_most: int | None = None) -> None:
        """Take a word, divided by a power of two, off the instruction budget."""
        if self.counts_budget:
            self.add(ir.Charge(word, at_most, shift))

    # -- control ------------------------------------------------------------------------------

    def count_jump(self) -> ir.CountJump | None:
        """How a jump that is taken is counted; None where there are never too many."""
        if not self.counts_jumps:
            return None
        return ir.CountJump(self.fault(ExCode.MAX_JMPS, self.header.jmpmax))

    def leave_block(self) -> None:
        """Bring the stack to where the next block looks for it."""
        if not self.static:
            self.flush()
            return
        moves = [(_SLOTS[n], word) for n, word in enumerate(self._words) if word != _SLOTS[n]]
        if moves:
            slots, words = zip(*moves, strict=True)
            self.add(ir.MoveSlots(slots, words))
        self._words = list(_SLOTS[: len(self._words)])

    def leave_block_for_test(self) -> Word:
        """``leave_block``, and the value that is on top of the stack."""
        word = self.top()
        self.leave_block()
        return self._words[-1] if self.static else word

    def begin(self, block: CodeBlock) -> None:
        """Begin a block; what is on the stack is where ``leave_block`` left it."""
        self._ops, self._end, self._temps = [], None, 0
        self.key = self._keys.get(block.start, ())
        self._forget()
        self.depth_is_unknown()
        if self.depths is not None:
            self._words = list(_SLOTS[: self.depths[block.start]])

    def finish(self, block: CodeBlock) -> ir.Block:
        """The block that was begun; it goes on at the following one if no operation ended it."""
        if self._end is None:
            self.leave_block()
            assert block.following is not None
            self._end = ir.Jump(self.number[block.following])
        return ir.Block(block.cost, tuple(self._ops), self._end)

    def function(self, blocks: tuple[ir.Block, ...]) -> ir.Function:
        """All of it."""
        return ir.Function(
            self.header,
            self.unit.ex_mask,
            self.unit.heap,
            blocks,
            tuple(self._offsets),
            self.static,
            self.acyclic,
            INSTRUCTION_BUDGET if self.counts_budget else None,
            self.counts_jumps,
        )
