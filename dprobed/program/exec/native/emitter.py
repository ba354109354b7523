"""One function of the intermediate representation as LLVM's: its blocks, its log, its ways out.

How each operation is written is in ``words`` and ``effects``, by its class in ``EMITTERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from llvmlite import ir as llvm

from dprobed.program.exec import ir
from dprobed.program.exec.ir import Base, Raise, Test, Word
from dprobed.program.exec.native import machine, memory  # noqa: F401
from dprobed.program.exec.native import scratch as at
from dprobed.program.exec.native.abi import Hit, Needs, Place
from dprobed.program.exec.native.code import PTR, CodeWriter, Value, word
from dprobed.program.exec.native.library import Library
from dprobed.program.exits import BUDGET, EXCEPTION
from dprobed.program.isa import CALL_FRAMES, STACK_WORDS

_Op = TypeVar("_Op", bound=ir.Op)

#: How each operation is written, by its class.
EMITTERS: Final[dict[type[Any], Callable[[Emitter, Any], None]]] = {}

_LOGS: Final = {
    ir.LogWords, ir.LogValue, ir.LogStack, ir.LogVariables, ir.LogMemory, ir.LogLength,
    ir.LastItem, ir.CutLog,
}  # fmt: skip


def emits(
    kind: type[_Op],
) -> Callable[[Callable[[Emitter, _Op], None]], Callable[[Emitter, _Op], None]]:
    """Register a function for an operation."""

    def register(function: Callable[[Emitter, _Op], None]) -> Callable[[Emitter, _Op], None]:
        assert kind not in EMITTERS, kind
        EMITTERS[kind] = function
        return function

    return register


class Emitter:
    """Writes ``run``; what it found out on the way is what the blob says of itself."""

    def __init__(self, function: ir.Function) -> None:
        self.function: Final = function
        self.header: Final = function.header
        self.module: Final = llvm.Module("program")
        self.c: Final = CodeWriter(self.module, "run", [PTR] * 3)
        self.hit, self.data, self.place = self.c.arguments
        for argument in self.c.arguments:
            argument.add_attribute("noalias")
        self.library: Final = Library(self.module, function)
        self.layout: Final = self.library.scratch
        ops = [op for block in function.blocks for op in block.ops]
        uses = {type(op) for op in ops}
        self.logs: Final = bool(uses & _LOGS) or self.layout.traces
        self.needs = Needs(0)
        self.reads = self.writes = 0
        self.facilities: list[int] = []
        raw = sum(isinstance(op, ir.LogWords) for op in ops)
        most = self.header.logmax // 8
        self.raw_pairs: Final = min(raw, most) if function.acyclic else most if raw else 0
        #: The values of this block.
        self.temps: dict[int, Value] = {}
        self._slots: dict[int, Value] = {}
        self._blocks = [
            self.c.function.append_basic_block(f"block{n}") for n in range(len(function.blocks))
        ]
        self._done = self.c.function.append_basic_block("done")
        self._throw = None if function.static else self.c.function.append_basic_block("throw")
        c, zero = self.c, word(0)
        self.exit: Final = c.variable(zero)
        self.log_size: Final = c.variable(zero)
        self.raw_count: Final = c.variable(zero)
        self.starts: Final = c.variable(zero)
        self.flags: Final = c.variable(zero)
        self.left: Final = c.variable(word(self.function.budget or 0))
        self.jumps: Final = c.variable(word(self.header.jmpmax))
        self.depth: Final = c.variable(zero)
        self.key_size: Final = c.variable(zero)
        self.key_strings: Final = c.variable(zero)
        self._thrown: Final = [c.variable(zero) for _ in range(3)]
        self.log: Final = c.load_pointer(self.hit, Hit.LOG) if self.logs else None
        self.raw: Final = c.load_pointer(self.hit, Hit.RAW) if self.raw_pairs else None
        self.scratch: Final = c.load_pointer(self.hit, Hit.SCRATCH) if self.layout.size else None
        self._begin()

    def _begin(self) -> None:
        """What is there before the first block."""
        if not self.function.static:
            called = self.word(ir.CodeOffset(0))
            machine.begin_machine(self.c, self.library, self.scratch, called)
        if self.layout.has_heap:
            machine.begin_heap(self.c, self.library, self.scratch)
        self.c.b.branch(self._blocks[0])

    # -- values -------------------------------------------------------------------------------

    def word(self, value: Word) -> Value:
        """A word of the representation."""
        c = self.c
        match value:
            case int():
                return word(value)
            case ir.Temp(number):
                return self.temps[number]
            case ir.Slot(number):
                return c.get(self.slot(number))
            case ir.CodeOffset(number):
                base = c.load(self.place, Place.CODE_BASE)
                return c.b.add(base, word(self.function.offsets[number]))
            case ir.Depth(more):
                return c.b.add(c.get(self.depth), word(more))

    def slot(self, number: int) -> Value:
        """The variable of a slot."""
        if number not in self._slots:
            self._slots[number] = self.c.variable()
        return self._slots[number]

    def give(self, temp: ir.Temp, value: Value) -> None:
        """An operation has this result."""
        self.temps[temp.number] = value

    def position(self, base: Base, plus: int, index: Word | None = None) -> Value:
        """The position of a word of the stack in memory."""
        c = self.c
        first = c.get(self.depth) if base is Base.DEPTH else c.load(self.scratch, self.layout.sbp)
        position = c.b.add(first, word(plus))
        return position if index is None else c.b.add(position, self.word(index))

    def load_stack(self, position: Value) -> Value:
        """A word of the stack in memory."""
        return machine.load_stack(self.c, self.library, self.scratch, position)

    def store_stack(self, position: Value, value: Value) -> None:
        """Store a word of the stack in memory."""
        machine.store_stack(self.c, self.library, self.scratch, position, value)

    def frame(self) -> Value:
        """The address of the innermost frame."""
        level = self.c.load(self.scratch, self.layout.level)
        return machine.frame(self.c, self.library, self.scratch, level)

    # -- failing and ending -------------------------------------------------------------------

    def fail(self, fault: Raise) -> None:
        """Raise an exception; nothing behind it runs."""
        c = self.c
        for position, stored in fault.stores:
            self.store_stack(self.position(Base.DEPTH, position), self.word(stored))
        if fault.moved:
            c.add_to(self.depth, word(fault.moved))
        triple = [self.word(each) for each in (fault.code, fault.parm1, fault.parm2)]
        if self._throw is None:
            self.except_(triple)
            return
        for variable, value in zip(self._thrown, triple, strict=True):
            c.set(variable, value)
        c.b.branch(self._throw)

    def except_(self, triple: list[Value]) -> None:
        """End by an exception."""
        self.needs |= Needs.EXCEPTION
        for n, value in enumerate(triple):
            self.c.store(value, self.hit, Hit.EXCEPTION + 8 * n)
        self.end(EXCEPTION)

    def fail_if(self, condition: Value, fault: Raise) -> None:
        """Raise an exception on a condition."""
        with self.c.when(condition, likely=False):
            self.fail(fault)

    def charge(self, amount: Value) -> None:
        """Take it off the instruction budget."""
        if self.function.budget is not None:
            self.c.set(self.left, self.c.b.sub(self.c.get(self.left), amount))

    def end(self, exit_: int, logged: bool = True) -> None:
        """End the program."""
        c = self.c
        c.set(self.exit, word(exit_))
        if not logged:
            c.set(self.log_size, word(0))
            c.set(self.raw_count, word(0))
            if self.layout.traces:
                c.store(0, self.scratch, self.layout.trace_size)
        c.b.branch(self._done)

    # -- the log ------------------------------------------------------------------------------

    def room(self) -> Value:
        """How many bytes the log can still take."""
        return self.c.b.sub(word(self.header.logmax), self.c.get(self.log_size))

    def log_end(self) -> Value:
        """The address behind the log."""
        return self.c.at(self.log, self.c.get(self.log_size))

    def append(
        self, does_not_fit: Value, overflow: Raise | None, write: Callable[[], Value]
    ) -> None:
        """Append an item, or raise (or ignore) that it does not fit; ``write``: gives its size."""
        if overflow is not None:
            self.fail_if(does_not_fit, overflow)
            self._append(write)
            return
        with self.c.when(self.c.b.not_(does_not_fit)):
            self._append(write)

    def _append(self, write: Callable[[], Value]) -> None:
        c = self.c
        if self.layout.cuts_log:
            starts = c.at(self.scratch, self.layout.starts)
            c.store(c.get(self.log_size), starts, c.b.shl(c.get(self.starts), word(3)))
            c.add_to(self.starts, word(1))
        size = write()
        c.add_to(self.log_size, size)

    # -- blocks -------------------------------------------------------------------------------

    def emit(self) -> None:
        """All of it."""
        for number, block in enumerate(self.function.blocks):
            self.c.b.position_at_end(self._blocks[number])
            self.temps = {}
            self._block(block)
        if self._throw is not None:
            self.c.b.position_at_end(self._throw)
            self._catch()
        self.c.b.position_at_end(self._done)
        self._finish()
        self.c.close()

    def _block(self, block: ir.Block) -> None:
        c = self.c
        if self.function.budget is not None:
            with c.when(c.test("s<", c.get(self.left), block.cost), likely=False):
                self.end(BUDGET)
            self.charge(word(block.cost))
        for op in block.ops:
            EMITTERS[type(op)](self, op)
            if c.b.block.is_terminated:
                # It has failed in any case.
                return
        match block.end:
            case ir.Jump(to):
                c.b.branch(self._blocks[to])
            case ir.Branch():
                self._branch(block.end)
            case ir.Call():
                self._call(block.end)
            case ir.Return():
                self._return(block.end)
            case ir.End():
                self.end(block.end.exit, block.end.logged)

    def _branch(self, branch: ir.Branch) -> None:
        c = self.c
        relation = _RELATIONS[branch.test]
        with c.when(c.test(relation, self.word(branch.word), 0)):
            if branch.counted is not None:
                EMITTERS[ir.CountJump](self, branch.counted)
            c.b.branch(self._blocks[branch.block])
        c.b.branch(self._blocks[branch.otherwise])

    def _call(self, call: ir.Call) -> None:
        c = self.c
        level = c.load(self.scratch, self.layout.level)
        self.fail_if(c.test(">=", level, CALL_FRAMES), call.fault)
        level = c.b.add(level, word(1))
        c.store(level, self.scratch, self.layout.level)
        new = machine.frame(c, self.library, self.scratch, level)
        sbp = c.load(self.scratch, self.layout.sbp)
        called, returns = self.word(call.called), self.word(call.returns)
        machine.begin_frame(c, new, word(call.back), called, returns, sbp)
        c.store(c.get(self.depth), self.scratch, self.layout.sbp)
        c.b.branch(self._blocks[call.block])

    def _return(self, ending: ir.Return) -> None:
        c = self.c
        level = c.load(self.scratch, self.layout.level)
        self.fail_if(c.test("==", level, 0), ending.fault)
        left = self.frame()
        c.store(c.load(left, at.FRAME_SBP), self.scratch, self.layout.sbp)
        c.store(c.b.sub(level, word(1)), self.scratch, self.layout.level)
        ends = (block.end for block in self.function.blocks)
        backs = {end.back for end in ends if isinstance(end, ir.Call)}
        self._dispatch(c.load(left, at.FRAME_BLOCK), backs)

    def _dispatch(self, number: Value, blocks: set[int]) -> None:
        """Go on at a block; it is one of these."""
        nowhere = self.c.function.append_basic_block()
        switch = self.c.b.switch(number, nowhere)
        for block in sorted(blocks):
            switch.add_case(word(block), self._blocks[block])
        self.c.b.position_at_end(nowhere)
        self.c.b.unreachable()

    def _catch(self) -> None:
        """Where exceptions are raised."""
        c = self.c
        triple = [c.get(each) for each in self._thrown]
        throw = self.library("throw")
        found = c.call(throw, self.scratch, self.data, *triple, c.get(self.depth))
        c.set(self.depth, c.second(found))
        if self.header.autostacktrace:
            self.charge(c.load(self.scratch, self.layout.spent))
        ops = (op for block in self.function.blocks for op in block.ops)
        handlers = {op.block for op in ops if isinstance(op, ir.SetHandler)}
        with c.when(c.test("s<", c.first(found), 0)):
            self.except_(triple)
        self._dispatch(c.first(found), handlers)

    def _finish(self) -> None:
        """Tell what came of it."""
        c = self.c
        if self.layout.traces:
            size = c.load(self.scratch, self.layout.trace_size)
            c.copy(self.log_end(), c.at(self.scratch, self.layout.trace), size, 1)
            c.add_to(self.log_size, size)
        if self.log is not None:
            c.store(c.get(self.log_size), self.hit, Hit.LOG_SIZE)
        if self.raw is not None:
            c.store(c.get(self.raw_count), self.hit, Hit.RAW_COUNT)
        if self.needs & Needs.FLAGS:
            c.store(c.get(self.flags), self.hit, Hit.FLAGS)
        c.give(c.get(self.exit))

    @property
    def log_bytes(self) -> int:
        """What the log may take: one byte more than fits is read of a string."""
        if not self.logs:
            return 0
        traces = self.header.ex_logmax if self.layout.traces else 0
        return self.header.logmax + max(traces, 1)


_RELATIONS: Final = {
    Test.LT: "s<",
    Test.LE: "s<=",
    Test.GT: "s>",
    Test.GE: "s>=",
    Test.EQ: "==",
    Test.NE: "!=",
}
assert STACK_WORDS & (STACK_WORDS - 1) == 0
