"""The frame of a function in Python source: its blocks, its log, its ways out.

Blocks are the leaves of a tree of ``if b < n`` in a ``while`` loop. The log of a short program is
put together out of a few pieces, that of others grows in a buffer. What the operations look like,
and the names in generated code, are in ``python_source``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from dprobed.program.exec import ir
from dprobed.program.exec.ir import Base, Raise, Test, Word
from dprobed.program.exec.lowering import UNROLL
from dprobed.program.exits import BUDGET, EXCEPTION
from dprobed.program.isa import CALL_FRAMES, STACK_WORDS, WORD_BITS

_INDEX: Final = STACK_WORDS - 1


_Op = TypeVar("_Op", bound=ir.Op)

#: How each operation is written, by its class.
PRINTERS: Final[dict[type[Any], Callable[[Printer, Any], None]]] = {}


def prints(
    *kinds: type[_Op],
) -> Callable[[Callable[[Printer, _Op], None]], Callable[[Printer, _Op], None]]:
    """Register a function for operations."""

    def register(function: Callable[[Printer, _Op], None]) -> Callable[[Printer, _Op], None]:
        for kind in kinds:
            assert kind not in PRINTERS, kind
            PRINTERS[kind] = function
        return function

    return register


class Printer:
    """Writes the function; ``PRINTERS`` says how each operation is written."""

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.header = function.header
        self.static = function.static
        uses = {type(op) for block in function.blocks for op in block.ops}
        self._uses = uses
        self._sets_numbers = ir.SetNumber in uses
        self._traces = function.header.autostacktrace or ir.AppendTrace in uses
        self._cuts_log = bool(uses & {ir.LogLength, ir.LastItem, ir.CutLog})
        #: Whether the log grows in a buffer; else it is made of few constant-size pieces.
        self._log_buffer = not function.static or self._cuts_log or not function.acyclic
        self._lines: list[str] = []
        self._indent = 0
        self._others = 0
        # What is known of the log: the pieces of it so far, or None where it is in ``log``.
        self._pieces: list[str] | None = []
        self._raw: list[int] = []
        self._known_size = 0

    # -- text ---------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """Add a line at the present indentation."""
        self._lines.append(" " * self._indent + text)

    def lines(self, texts: Iterable[str]) -> None:
        """Add lines at the present indentation."""
        for text in texts:
            self.line(text)

    @contextmanager
    def under(self, head: str) -> Iterator[None]:
        """Indent what follows below ``head``."""
        self.line(head)
        self._indent += 1
        yield
        self._indent -= 1

    def other(self) -> str:
        """A name for what is no word."""
        self._others += 1
        return f"x{self._others}"

    # -- failing and ending -------------------------------------------------------------------

    def fail(self, fault: Raise) -> None:
        """Raise an exception; the lines never go on to what follows them."""
        triple = f"{word(fault.code)}, {word(fault.parm1)}, {word(fault.parm2)}"
        if self.static:
            self.end(EXCEPTION, f"({triple})")
            return
        for position, stored in fault.stores:
            self.line(f"{stack_word(Base.DEPTH, position)} = {word(stored)}")
        if fault.moved:
            self.line(f"d += {fault.moved}")
        self.line(f"b, d = m.throw({triple}, d)")
        if self.header.autostacktrace:
            self.charge("m.spent")
        self.line("if b < 0: break")
        self.line("continue")

    def fail_if(self, condition: str, fault: Raise) -> None:
        """Raise an exception on a condition."""
        with self.under(f"if {condition}:"):
            self.fail(fault)

    def charge(self, expression: str) -> None:
        """Take an expression off the instruction budget."""
        if self.function.budget is not None:
            self.line(f"left -= {expression}")

    def end(self, exit_: int, exception: str = "None", logged: bool = True) -> None:
        """Return the outcome."""
        major, minor = ("maj", "mnr") if self._sets_numbers else ("MAJ", "MNR")
        text, raw = self._log_value() if logged else ('b""', "()")
        suspend = "sus" if ir.Suspend in self._uses else "False"
        resume = "res" if ir.Resume in self._uses else "False"
        self.line(
            f"return Outcome({exit_}, {text}, {raw}, {major}, {minor}, {exception}, "
            f"{suspend}, {resume})"
        )

    # -- the log ------------------------------------------------------------------------------

    def _log_value(self) -> tuple[str, str]:
        if self._pieces is not None:
            return " + ".join(self._pieces) or 'b""', _tuple(self._raw)
        if self._traces:
            return "bytes(log + m.trace)", "tuple(raw)"
        return ("bytes(log)", "tuple(raw)") if self._log_buffer else ("log", "raw")

    def room(self) -> str:
        """How many bytes the log can still take, as an expression."""
        size = "len(log)" if self._pieces is None else str(self._known_size)
        return f"{self.header.logmax} - {size}"

    def log_in_variable(self) -> None:
        """From here on the log is in ``log`` and ``raw``."""
        if self._pieces is None:
            return
        text, raw = self._log_value()
        if self._log_buffer:
            text = f"bytearray({text})" if self._pieces else "bytearray()"
            raw = f"[{', '.join(map(str, self._raw))}]"
        self.line(f"log = {text}")
        self.line(f"raw = {raw}")
        self._pieces = None

    def _unless_overflow(
        self, condition: str, overflow: Raise | None, append: Callable[[], None]
    ) -> None:
        """Append to the log, or raise (or ignore) that it does not fit."""
        if overflow is None:
            with self.under(f"if not ({condition}):"):
                append()
        else:
            self.fail_if(condition, overflow)
            append()

    def _mark_item(self) -> None:
        """Remember where the item begins that is logged next, if the program can cut the log."""
        if self._cuts_log:
            self.line("starts.append(len(log))")

    def log_item(self, item: str, overflow: Raise | None) -> None:
        """Log an item, which is None where it does not fit."""
        self._append_item(item, f"{item} is None", overflow)

    def _append_item(self, item: str, does_not_fit: str, overflow: Raise | None) -> None:
        self.log_in_variable()

        def append() -> None:
            self._mark_item()
            self.line(f"log += {item}")

        self._unless_overflow(does_not_fit, overflow, append)

    def log_words(self, words: ir.Words, overflow: Raise | None) -> None:
        """Log words without prefix."""
        if isinstance(words, ir.TopWords):
            count, packed = words.count, f"pack({words.count})(*{self.words(words)})"
        else:
            count = len(words)
            pack = f"pack{count}" if count <= UNROLL else f"pack({count})"
            packed = f"{pack}({', '.join(map(word, words))})"
        size = 8 * count
        if self._pieces is not None and self._known_size + size <= self.header.logmax:
            self._pieces.append(packed)
            self._raw += [self._known_size, count]
            self._known_size += size
            return
        self.log_in_variable()

        def append() -> None:
            self._mark_item()
            self.line(f"raw += (len(log), {count})")
            self.line(f"log += {packed}")

        self._unless_overflow(f"len(log) > {self.header.logmax - size}", overflow, append)

    def log_value(self, op: ir.LogValue) -> None:
        """Log a word as a typed value."""
        parts = (repr(op.before), f"pack1({word(op.word)})", repr(op.behind) if op.behind else "")
        item = " + ".join(filter(None, parts))
        size = len(op.before) + 8 + len(op.behind)
        if self._pieces is not None and self._known_size + size <= self.header.logmax:
            self._pieces.append(item)
            self._known_size += size
            return
        self._append_item(item, f"len(log) > {self.header.logmax - size}", op.overflow)

    def words(self, words: ir.Words) -> str:
        """Several words as a sequence."""
        if isinstance(words, ir.TopWords):
            return f"take(S, d, {words.count})"
        return f"({', '.join(map(word, words))},)"

    # -- blocks -------------------------------------------------------------------------------

    def _block(self, number: int) -> None:
        block = self.function.blocks[number]
        self._others = 0
        if number > 0:
            self._pieces = None
        if self.function.budget is not None:
            with self.under(f"if left < {block.cost}:"):
                self.end(BUDGET)
            self.line(f"left -= {block.cost}")
        for op in block.ops:
            PRINTERS[type(op)](self, op)
        ending = block.end
        if not isinstance(ending, ir.End):
            self.log_in_variable()
        match ending:
            case ir.Jump():
                self.line(f"b = {ending.block}")
            case ir.Branch():
                self._branch(ending)
            case ir.Call():
                self._call(ending)
            case ir.Return():
                self.fail_if("len(F) == 1", ending.fault)
                frame = self.other()
                self.lines([f"{frame} = F.pop()", f"m.sbp = {frame}.sbp", f"b = {frame}.block"])
            case ir.End():
                self.end(ending.exit, logged=ending.logged)

    def _branch(self, branch: ir.Branch) -> None:
        with self.under(f"if {_TESTS[branch.test].format(word(branch.word))}:"):
            if branch.counted is not None:
                PRINTERS[ir.CountJump](self, branch.counted)
            self.line(f"b = {branch.block}")
        with self.under("else:"):
            self.line(f"b = {branch.otherwise}")

    def _call(self, call: ir.Call) -> None:
        self.fail_if(f"len(F) > {CALL_FRAMES}", call.fault)
        self.line(f"F.append(Frame({call.back}, {word(call.called)}, {word(call.returns)}, m.sbp))")
        self.line("m.sbp = d")
        self.line(f"b = {call.block}")

    def _tree(self, low: int, high: int) -> None:
        if high - low == 1:
            self._block(low)
            return
        middle = (low + high) // 2
        with self.under(f"if b < {middle}:"):
            self._tree(low, middle)
        with self.under("else:"):
            self._tree(middle, high)

    def _prologue(self) -> None:
        header = self.header
        self.line("regs = ctx.regs")
        if not self.static:
            self.line(
                f"m = Machine({word(ir.CodeOffset(0))}, {self.function.ex_mask}, "
                f"{header.autostacktrace}, {header.ex_logmax}, L, G)"
            )
            self.lines(["S = m.stack", "F = m.frames", "d = 0"])
        if self._sets_numbers:
            self.lines(["maj = MAJ", "mnr = MNR"])
        if ir.Suspend in self._uses:
            self.line("sus = False")
        if ir.Resume in self._uses:
            self.line("res = False")
        if self._uses & {ir.Allocate, ir.Free, ir.HeapLoad, ir.HeapPush, ir.HeapStore}:
            self.line(f"heap = Heap({self.function.heap})")
        if self._cuts_log:
            self.line("starts = []")
        if self.function.budget is not None:
            self.line(f"left = {self.function.budget}")
        if self.function.counts_jumps:
            self.line(f"jumps = {header.jmpmax}")
        if self._log_buffer:
            self.log_in_variable()

    def source(self) -> str:
        """The whole of it."""
        blocks = self.function.blocks
        with self.under("def run(ctx):"):
            self._prologue()
            if self.static and self.function.acyclic and len(blocks) == 1:
                self._block(0)
            else:
                self.line("b = 0")
                with self.under("while True:"):
                    self._tree(0, len(blocks))
                if not self.static:
                    self._pieces = None
                    self.end(EXCEPTION, "m.exception")
        return "\n".join(self._lines) + "\n"


# -- values -----------------------------------------------------------------------------------


def word(value: Word) -> str:
    """A value as an expression."""
    match value:
        case int():
            return str(value)
        case ir.Temp(number):
            return f"t{number}"
        case ir.Slot(number):
            return f"s{number}"
        case ir.CodeOffset(number):
            return f"AT{number}"
        case ir.Depth(number):
            return plus("d", number)


def plus(name: str, number: int) -> str:
    """An expression plus a number that is known."""
    if not number:
        return name
    return f"({name} {'+' if number > 0 else '-'} {abs(number)})"


def _tuple(numbers: list[int]) -> str:
    return f"({', '.join(map(str, numbers))})" if numbers else "()"


def stack_word(base: Base, offset: int, index: Word | None = None) -> str:
    """A word of the stack in memory."""
    place = plus("d" if base is Base.DEPTH else "m.sbp", offset)
    if index is not None:
        place = f"({place} + {word(index)})"
    elif not offset and base is Base.FRAME:
        place = "m.sbp"
    return f"S[{place} & {_INDEX}]"


_SIGN: Final = hex(1 << (WORD_BITS - 1))
_TESTS: Final = {
    Test.LT: "{0} >= " + _SIGN,
    Test.LE: "{0} >= " + _SIGN + " or {0} == 0",
    Test.GT: "0 < {0} < " + _SIGN,
    Test.GE: "{0} < " + _SIGN,
    Test.EQ: "{0} == 0",
    Test.NE: "{0} != 0",
}
