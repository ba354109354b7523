"""Probe programs as Python source: one function ``run(ctx)`` for each probe.

A word of the stack is, within a block, the name of a Python variable or a number (an *atom*), so
that pushing and popping cost nothing. Between blocks it lives

- in variables ``s0, s1, …`` where the depth is one number on every path to a block (*static*), or
- in the circular stack ``S`` with ``d`` words on it.

Either way an instruction that fails writes the stack back only on the way out to its handler. The
blocks are the leaves of a tree of ``if b < n`` in a ``while`` loop.

Names in generated code: ``t…`` atoms, ``b`` the block, ``d`` the depth, ``left`` the instruction
budget, ``jumps`` the jumps left, ``log``, ``raw``, ``starts`` (of the items), ``maj``, ``mnr``,
``sus``, ``res`` (suspend, resume), ``m`` the ``Machine``, ``heap``, ``AT…`` code offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dprobed.program.blocks import Step, find_blocks, is_acyclic, static_depths
from dprobed.program.exits import BUDGET, EXCEPTION, INSTRUCTION_BUDGET
from dprobed.program.isa import FATAL_EX_MASK, STACK_WORDS, ExCode, Flow
from dprobed.program.model import Header

MASK: Final = "0xffffffffffffffff"
INDEX_MASK: Final = STACK_WORDS - 1
#: Deeper stacks than this are kept in memory, not in variables.
_STATIC_DEPTH: Final = 64
#: Up to so many words are moved one by one in generated code, more by a loop.
UNROLL: Final = 8
#: Instructions whose cost depends on a value, and what that is at most: `malloc` of 1 MiB.
_DYNAMIC: Final = frozenset(
    {"dup", "log", "log gv", "log lv", "log mrf", "log st", "log str", "malloc"}
)
_DYNAMIC_COST: Final = 1 << 14

#: Instructions that need the call stack, the exception trace, or the stack in memory.
_NEEDS_MACHINE: Final = frozenset(
    {
        "call label", "ret", "sx label", "ux", "log st", "purge st", "trace lv", "trace gv",
        "trace pv", "push stp", "pop stp", "push sbp", "pop sbp", "push tsp", "pop tsp",
        "push sbp,slot", "pop sbp,slot", "push tsp,slot", "pop tsp,slot", "copy sbp,slot",
        "copy tsp,slot", "copy sbp", "copy tsp", "save sbp", "restore sbp", "save tsp",
        "restore tsp",
    }
)  # fmt: skip
_CUTS_LOG: Final = frozenset({"push lp", "push plp", "pop lp"})
_SETS_NUMBERS: Final = frozenset({"setmin", "setmin index", "setmaj", "setmaj index"})
_HEAP: Final = frozenset({"malloc", "free"})


@dataclass(frozen=True)
class Unit:
    """What is compiled: one probe's code and what of the program decides on how it runs.

    ``facilities``: the number behind each index of an `exit n`.
    """

    header: Header
    code: bytes
    entry: int
    ex_mask: int
    heap: int
    facilities: tuple[int, ...]


class Emitter:
    """Writes the function of one unit; the instructions themselves are in ``emit``'s table.

    ``static`` false keeps the stack in memory also where variables would do.
    """

    def __init__(self, unit: Unit, emit: Callable[[Emitter, Step], None], static: bool) -> None:
        self.unit = unit
        self.header = unit.header
        self._emit = emit
        self.blocks = find_blocks(unit.code, unit.entry)
        self.number = {block.start: n for n, block in enumerate(self.blocks)}
        keys = {step.instruction.key for block in self.blocks for step in block.steps}
        self.depths = None
        if static and not keys & _NEEDS_MACHINE and not self.header.autostacktrace:
            self.depths = static_depths(self.blocks, _STATIC_DEPTH)
        self.static = self.depths is not None
        self.traces = self.header.autostacktrace or "log st" in keys
        self.cuts_log = bool(keys & _CUTS_LOG)
        self._sets_numbers = bool(keys & _SETS_NUMBERS)
        self._suspends = "suspend" in keys
        self._resumes = "resume" in keys
        self._uses_heap = any(key in _HEAP or key.startswith(("pushh", "poph")) for key in keys)
        self._acyclic = acyclic = is_acyclic(self.blocks)
        self.counts_budget = not acyclic or self._worst_cost() > INSTRUCTION_BUDGET
        self.counts_jumps = not acyclic or len(self.blocks) > self.header.jmpmax
        #: Whether the log grows in a buffer; else it is made of few constant-size pieces.
        self.log_buffer = not self.static or self.cuts_log or not acyclic
        self.wraps = bool(unit.ex_mask & ExCode.RPN_STACK_WRAP)

        #: The names of code offsets in the source; their values go beside it.
        self.offsets: dict[int, str] = {}
        self._lines: list[str] = []
        self._indent = 0
        self._temporaries = 0
        # The stack within the block: ``_atoms`` are its topmost words, above ``d + _under``.
        self._atoms: list[str] = []
        self._under = 0
        self._home: dict[str, int] = {}
        self._low = self._high = 0
        # What is known of the log: the pieces of it so far, or None where it is in ``log``.
        self._pieces: list[str] | None = None
        self._raw: list[int] = []
        self._known_size = 0

    def _worst_cost(self) -> int:
        steps = [step.instruction.key for block in self.blocks for step in block.steps]
        dynamic = sum(key in _DYNAMIC for key in steps)
        return sum(block.cost for block in self.blocks) + _DYNAMIC_COST * dynamic

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

    def new(self) -> str:
        """A name for an atom."""
        self._temporaries += 1
        return f"t{self._temporaries}"

    def let(self, expression: str) -> str:
        """A new atom with this value (a word, or anything that is not left on the stack)."""
        name = self.new()
        self.line(f"{name} = {expression}")
        return name

    # -- the stack ----------------------------------------------------------------------------

    @property
    def _relative(self) -> int:
        """The depth now, less ``d``."""
        return self._under + len(self._atoms)

    def push(self, atom: str) -> None:
        """Push an atom."""
        self._atoms.append(atom)

    def pop(self) -> str:
        """Pop an atom."""
        if self._atoms:
            return self._atoms.pop()
        self._under -= 1
        name = self.let(f"S[{_plus('d', self._under)} & {INDEX_MASK}]")
        self._home[name] = self._under
        return name

    def top(self) -> str:
        """The atom on top; it stays."""
        atom = self.pop()
        self.push(atom)
        return atom

    def drop(self, count: int) -> None:
        """Pop words that nobody wants to see."""
        known = min(count, len(self._atoms))
        del self._atoms[len(self._atoms) - known :]
        self._under -= count - known

    def _stores(self) -> list[str]:
        """The lines that write the atoms back to ``S`` and bring ``d`` up to date."""
        stores = []
        for position, atom in enumerate(self._atoms, self._under):
            if self._home.get(atom) != position:
                stores.append(f"S[{_plus('d', position)} & {INDEX_MASK}] = {atom}")
        if self._relative:
            stores.append(f"d += {self._relative}")
        return stores

    def flush(self) -> None:
        """Write the atoms back, so that ``S`` and ``d`` are the stack (not static)."""
        self.lines(self._stores())
        self.moved(self._relative)
        self.forget()

    def forget(self) -> None:
        """The stack is what ``S`` and ``d`` say."""
        self._atoms, self._under, self._home = [], 0, {}

    def moved(self, words: int) -> None:
        """The generated code has just added this to ``d``."""
        self._low = max(self._low + words, 0)
        self._high = max(self._high - words, 0)

    def depth(self) -> str:
        """The depth now, as an expression (not static)."""
        return _plus("d", self._relative)

    def depth_is_unknown(self) -> None:
        """``d`` was set to something that only run time tells."""
        self._low = self._high = 0

    def check_wrap(self, step: Step) -> None:
        """Raise RPN_STACK_WRAP before an instruction that has too few or too many words."""
        if self.static or not self.wraps:
            return
        need, change = step.instruction.effect(step.operands)
        low = need - self._relative
        high = self._relative + (change or 0)
        tests = []
        if low > self._low:
            tests.append(f"d < {low}")
            self._low = low
        if high > self._high:
            tests.append(f"d > {STACK_WORDS - high}")
            self._high = high
        if tests:
            with self.under(f"if {' or '.join(tests)}:"):
                self.fail(ExCode.RPN_STACK_WRAP, "d", "0")

    # -- failing and ending -------------------------------------------------------------------

    def raises(self, code: ExCode) -> bool:
        """Whether an exception is not simply ignored."""
        return bool(code & (self.unit.ex_mask | FATAL_EX_MASK))

    def fail(self, code: ExCode | str, parm1: str, parm2: str) -> None:
        """Raise an exception that is not ignored; the lines never go on to what follows them.

        The stack is as it is now, without what the instruction has popped; ``d`` in the parameters
        is its depth.
        """
        number = code if isinstance(code, str) else str(int(code))
        if self.static:
            self._return(EXCEPTION, f"({number}, {parm1}, {parm2})")
            return
        self.lines(self._stores())
        self.line(f"b, d = m.throw({number}, {parm1}, {parm2}, d)")
        if self.header.autostacktrace:
            self.charge("m.spent")
        self.line("if b < 0: break")
        self.line("continue")

    def invalid(self, step: Step) -> None:
        """An instruction that this executor does not have: it always fails."""
        self.fail(ExCode.INVALID_OPCODE, str(step.instruction.opcode), "0")
        need, change = step.instruction.effect(step.operands)
        self.drop(need)
        for _ in range(need + (change or 0)):
            self.push("0")

    def fail_if(self, condition: str, code: ExCode, parm1: str, parm2: str = "0") -> None:
        """Raise an exception (one that is never ignored) on a condition."""
        with self.under(f"if {condition}:"):
            self.fail(code, parm1, parm2)

    def _return(self, exit_: int, exception: str = "None", log: bool = True) -> None:
        major, minor = ("maj", "mnr") if self._sets_numbers else ("MAJ", "MNR")
        text, raw = self._log_value() if log else ('b""', "()")
        suspend = "sus" if self._suspends else "False"
        resume = "res" if self._resumes else "False"
        self.line(
            f"return Outcome({exit_}, {text}, {raw}, {major}, {minor}, {exception}, "
            f"{suspend}, {resume})"
        )

    def finish(self, exit_: int, log: bool = True) -> None:
        """End the program."""
        self._return(exit_, log=log)

    # -- the log ------------------------------------------------------------------------------

    def _log_value(self) -> tuple[str, str]:
        if self._pieces is not None:
            return " + ".join(self._pieces) or 'b""', _tuple(self._raw)
        if self.traces:
            return "bytes(log + m.trace)", "tuple(raw)"
        return ("bytes(log)", "tuple(raw)") if self.log_buffer else ("log", "raw")

    def log_size(self) -> str:
        """The length of the log now, as an expression."""
        return "len(log)" if self._pieces is None else str(self._known_size)

    def room(self) -> str:
        """How many bytes the log can still take, as an expression."""
        return f"{self.header.logmax} - {self.log_size()}"

    def log_in_variable(self) -> None:
        """From here on the log is in ``log`` and ``raw``."""
        if self._pieces is None:
            return
        text, raw = self._log_value()
        if self.log_buffer:
            text = f"bytearray({text})" if self._pieces else "bytearray()"
            raw = f"[{', '.join(map(str, self._raw))}]"
        self.line(f"log = {text}")
        self.line(f"raw = {raw}")
        self._pieces = None

    def log_overflow(self, condition: str, otherwise: Callable[[], None]) -> None:
        """Raise (or ignore) LOG_OVERFLOW on a condition, else log by ``otherwise``."""
        if self.raises(ExCode.LOG_OVERFLOW):
            with self.under(f"if {condition}:"):
                self.fail(ExCode.LOG_OVERFLOW, str(self.header.logmax), "0")
            otherwise()
        else:
            with self.under(f"if not ({condition}):"):
                otherwise()

    def mark_item(self) -> None:
        """Remember where the item begins that is logged next, if the program can cut the log."""
        if self.cuts_log:
            self.line("starts.append(len(log))")

    def charge(self, expression: str) -> None:
        """Take an expression off the instruction budget."""
        if self.counts_budget:
            self.line(f"left -= {expression}")

    def log_item(self, item: str) -> None:
        """Log the item in an atom, which is None where it does not fit."""
        self.log_in_variable()

        def append() -> None:
            self.mark_item()
            self.line(f"log += {item}")

        self.log_overflow(f"{item} is None", append)

    def log_words(self, atoms: list[str]) -> None:
        """Log atoms without prefix."""
        size = 8 * len(atoms)
        packed = f"pack({len(atoms)})({', '.join(atoms)})"
        if len(atoms) <= UNROLL:
            packed = f"pack{len(atoms)}({', '.join(atoms)})"
        if self._pieces is not None and self._known_size + size <= self.header.logmax:
            self._pieces.append(packed)
            self._raw += [self._known_size, len(atoms)]
            self._known_size += size
            return
        self.log_in_variable()
        self.log_raw(packed, size)

    def log_raw(self, packed: str, size: int) -> None:
        """Log ``size`` bytes of words without prefix into ``log``."""

        def append() -> None:
            self.mark_item()
            self.line(f"raw += (len(log), {size // 8})")
            self.line(f"log += {packed}")

        self.log_overflow(f"len(log) > {self.header.logmax - size}", append)

    # -- blocks -------------------------------------------------------------------------------

    def jump(self, target: int) -> None:
        """Take a jump: count it, and go on at the code offset ``target``."""
        if self.counts_jumps:
            self.fail_if("jumps <= 0", ExCode.MAX_JMPS, str(self.header.jmpmax))
            self.line("jumps -= 1")
        self.go(target)

    def code_offset(self, offset: int) -> str:
        """The name of a code offset, the same in all probes with the same instructions."""
        return self.offsets.setdefault(offset, f"AT{len(self.offsets)}")

    def go(self, target: int) -> None:
        """Go on at the block at a code offset."""
        self.line(f"b = {self.number[target]}")

    def leave_block_for_test(self) -> str:
        """``leave_block``, and the atom that has the word on top of the stack."""
        atom = self.top()
        self.leave_block()
        return self._atoms[-1] if self.static else atom

    def leave_block(self) -> None:
        """Bring stack and log to where the next block looks for them."""
        self.log_in_variable()
        if not self.static:
            self.flush()
            return
        moves = [(f"s{n}", atom) for n, atom in enumerate(self._atoms) if atom != f"s{n}"]
        if moves:
            names, atoms = zip(*moves, strict=True)
            self.line(f"{', '.join(names)} = {', '.join(atoms)}")
        self._atoms = [f"s{n}" for n in range(len(self._atoms))]

    def _block(self, number: int) -> None:
        block = self.blocks[number]
        self._temporaries = 0
        self.forget()
        self.depth_is_unknown()
        if number > 0:
            self._pieces = None
        if self.depths is not None:
            self._atoms = [f"s{n}" for n in range(self.depths[block.start])]
        if self.counts_budget:
            with self.under(f"if left < {block.cost}:"):
                self._return(BUDGET)
            self.line(f"left -= {block.cost}")
        for step in block.steps:
            self.check_wrap(step)
            self._emit(self, step)
        if block.steps[-1].instruction.flow in (Flow.NEXT, Flow.HANDLER, Flow.RAISE):
            self.leave_block()
            assert block.following is not None
            self.go(block.following)

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
                f"m = Machine({self.code_offset(self.unit.entry)}, {self.unit.ex_mask}, "
                f"{header.autostacktrace}, {header.ex_logmax}, L, G)"
            )
            self.lines(["S = m.stack", "F = m.frames", "d = 0"])
        if self._sets_numbers:
            self.lines(["maj = MAJ", "mnr = MNR"])
        if self._suspends:
            self.line("sus = False")
        if self._resumes:
            self.line("res = False")
        if self._uses_heap:
            self.line(f"heap = Heap({self.unit.heap})")
        if self.cuts_log:
            self.line("starts = []")
        if self.counts_budget:
            self.line(f"left = {INSTRUCTION_BUDGET}")
        if self.counts_jumps:
            self.line(f"jumps = {header.jmpmax}")
        self._pieces = []
        if self.log_buffer:
            self.log_in_variable()

    def source(self) -> str:
        """The source of ``run``."""
        with self.under("def run(ctx):"):
            self._prologue()
            if self.static and self._acyclic and len(self.blocks) == 1:
                self._block(0)
            else:
                self.line("b = 0")
                with self.under("while True:"):
                    self._tree(0, len(self.blocks))
                if not self.static:
                    self._pieces = None
                    self._return(EXCEPTION, "m.exception")
        return "\n".join(self._lines) + "\n"


def _plus(name: str, number: int) -> str:
    if not number:
        return name
    return f"({name} {'+' if number > 0 else '-'} {abs(number)})"


def _tuple(numbers: list[int]) -> str:
    return f"({', '.join(map(str, numbers))})" if numbers else "()"
