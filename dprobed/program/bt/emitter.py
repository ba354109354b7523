"""Instructions of one probe in the making, before they go to the builder.

Variables live in the words at the bottom of the stack (``slots``; of blocks that are run by whoever
shows: in the local variables, which outlast a suspension). Labels are reached with the same number
of words on the stack on all paths; ``depth`` counts them, above those of the variables.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from dprobed.program.builder import Builder, Label
from dprobed.program.isa import BY_KEY, WORD_MASK, Flow
from dprobed.program.isa import Operand as Kind
from dprobed.program.model import SourcePlace
from dprobed.program.registers import REGISTER_INDEX

Operand: TypeAlias = "int | str | Label | None"


#: The instructions that work on a map.
_ON_MAPS: Final = frozenset(
    key for key, one in BY_KEY.items() if one.operands[:1] in ((Kind.MAP,), (Kind.CELL,))
)


class Op(NamedTuple):
    """An instruction, or (no key) a label."""

    key: str
    operand: Operand
    at: SourcePlace | None


class Emitter:
    """Takes instructions; ``write`` gives them to a builder."""

    def __init__(self, *, locals_from: int | None = None, counter: list[int] | None = None) -> None:
        self.ops: list[Op] = []
        self.at: SourcePlace | None = None
        self.depth = 0
        #: How many words variables have; the body of a loop shares them with what is around it.
        self.counter = [0] if counter is None else counter
        self.locals_from = locals_from
        self.logs = False
        self._free: list[int] = []

    @property
    def slots(self) -> int:
        """Words of variables so far."""
        return self.counter[0]

    # -- instructions ---------------------------------------------------------------------------

    def add(self, key: str, operand: Operand = None) -> None:
        """An instruction."""
        instruction = BY_KEY[key]
        number: tuple[int, ...] = ()
        if isinstance(operand, str) and "register" in key:
            number = (REGISTER_INDEX[operand],)
        elif isinstance(operand, int):
            number = (operand,)
        elif instruction.operands:
            number = (1,) if instruction.operands[0] is Kind.CELL else (0,)
        _, change = instruction.effect(number)
        assert change is not None, key
        self.depth += change
        self.ops.append(Op(key, operand, self.at))
        if instruction.name.startswith("log"):
            self.logs = True

    def cell(self, key: str, part: str, words: int) -> None:
        """Read or set a value of so many words, at the key in this map."""
        if words == 1:
            self.add({"mload cell": "mget map", "mstore cell": "mset map"}[key], part)
            return
        self.add(key, part)
        self.depth += (words - 1) * (1 if key == "mload cell" else -1)

    def push(self, value: int) -> None:
        """A number."""
        self.add("push word", value & WORD_MASK)

    def label(self) -> Label:
        """A label, to be placed."""
        return Label()

    def place(self, label: Label, depth: int | None = None) -> None:
        """A label is here; ``depth``: that of the jumps to it, where nothing falls through."""
        if depth is not None:
            self.depth = depth
        self.ops.append(Op("", label, None))

    def drop(self, count: int = 1) -> None:
        """Drop words."""
        if count:
            self.add("ros count", count)

    def pick(self, below: int) -> None:
        """A copy of the word so far below the top."""
        if below == 0:
            self.add("dup count", 1)
        else:
            self.add("push tsp,slot", -below)

    # -- variables ------------------------------------------------------------------------------

    def reserve(self, count: int) -> int:
        """The first of so many words for a variable."""
        first = self.slots
        self.counter[0] += count
        return first

    def borrow(self, count: int) -> list[int]:
        """So many words for as long as one thing is made; ``give_back`` ends that."""
        found = [self._free.pop() for _ in range(min(count, len(self._free)))]
        return found + [self.reserve(1) for _ in range(count - len(found))]

    def give_back(self, slots: list[int]) -> None:
        """Words that were borrowed are free again."""
        self._free += slots

    def load(self, slot: int) -> None:
        """Push a word of a variable."""
        if self.locals_from is None:
            self.add("push sbp,slot", slot)
        else:
            self.add("push lv,index", self.locals_from + slot)

    def store(self, slot: int) -> None:
        """Pop a word of a variable."""
        if self.locals_from is None:
            self.add("pop sbp,slot", slot)
        else:
            self.add("pop lv,index", self.locals_from + slot)

    def local(self, slot: int) -> int:
        """The index of a variable's word among the local ones."""
        assert self.locals_from is not None
        return self.locals_from + slot

    @property
    def maps(self) -> set[str]:
        """The names of the maps that it uses."""
        return {str(op.operand) for op in self.ops if op.key in _ON_MAPS}

    @property
    def size(self) -> int:
        """Bytes of the code, about."""
        return 16 + sum(BY_KEY[op.key].size for op in self.ops if op.key)

    # -- to the builder -------------------------------------------------------------------------

    def write(self, builder: Builder) -> None:
        """All of it: the variables first, which are 0."""
        first = self.ops[0].at if self.ops else None
        if self.slots and self.locals_from is None:
            builder.add("push word", 0, first)
            rest = self.slots - 1
            while rest:
                builder.add("dup count", min(rest, 255), first)
                rest -= min(rest, 255)
        alive = True
        for key, operand, at in self.ops:
            if not key:
                assert isinstance(operand, Label)
                builder.place(operand)
                alive = True
            elif alive:
                builder.add(key, operand, at)
                alive = BY_KEY[key].flow not in (Flow.JUMP, Flow.END)
