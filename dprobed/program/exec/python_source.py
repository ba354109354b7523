"""A function of the intermediate representation as Python source: ``run(ctx)`` → ``Outcome``.

Values become local variables, the operations lines that work on them. The log of a short program
is put together out of a few pieces, that of others grows in a buffer. Blocks are the leaves of a
tree of ``if b < n`` in a ``while`` loop.

Names in generated code: ``t…`` values of a block, ``s…`` slots, ``x…`` what is no word, ``S`` the
stack in memory with ``d`` words on it, ``F`` the frames, ``b`` the block, ``left`` the instruction
budget, ``jumps`` the jumps left, ``log``, ``raw``, ``starts`` (of the items), ``maj``, ``mnr``,
``sus``, ``res`` (suspend, resume), ``m`` the ``Machine``, ``heap``, ``AT…`` code offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from dprobed.program.exec import ir
from dprobed.program.exec.interface import ADDRESS_END
from dprobed.program.exec.ir import Base, Fact, Raise, Shown, Space, Test, Word, WordOp
from dprobed.program.exec.lowering import UNROLL
from dprobed.program.exits import BUDGET, EXCEPTION
from dprobed.program.isa import CALL_FRAMES, STACK_WORDS, WORD_BITS, WORD_MASK

_MASK: Final = hex(WORD_MASK)
_INDEX: Final = STACK_WORDS - 1


def source(function: ir.Function) -> str:
    """The source of ``run``."""
    return Printer(function).source()


class Printer:
    """Writes the function; how each operation is written is in ``PRINTERS``."""

    def __init__(self, function: ir.Function) -> None:
        self.function = function
        self.header = function.header
        self.static = function.static
        uses = {type(op) for block in function.blocks for op in block.ops}
        self._uses = uses
        self._sets_numbers = bool(uses & {ir.SetMajor, ir.SetMinor})
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
            self.line(f"{_stack(Base.DEPTH, position)} = {word(stored)}")
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
        self.log_in_variable()

        def append() -> None:
            self._mark_item()
            self.line(f"log += {item}")

        self._unless_overflow(f"{item} is None", overflow, append)

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
                _count_jump(self, branch.counted)
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
        case ir.Depth(plus):
            return _plus("d", plus)


def _plus(name: str, number: int) -> str:
    if not number:
        return name
    return f"({name} {'+' if number > 0 else '-'} {abs(number)})"


def _tuple(numbers: list[int]) -> str:
    return f"({', '.join(map(str, numbers))})" if numbers else "()"


def _stack(base: Base, plus: int, index: Word | None = None) -> str:
    place = _plus("d" if base is Base.DEPTH else "m.sbp", plus)
    if index is not None:
        place = f"({place} + {word(index)})"
    elif not plus and base is Base.FRAME:
        place = "m.sbp"
    return f"S[{place} & {_INDEX}]"


_VARIABLES: Final = {Space.LOCAL: "L", Space.GLOBAL: "G"}
_SIGN: Final = hex(1 << (WORD_BITS - 1))
_TESTS: Final = {
    Test.LT: "{0} >= " + _SIGN,
    Test.LE: "{0} >= " + _SIGN + " or {0} == 0",
    Test.GT: "0 < {0} < " + _SIGN,
    Test.GE: "{0} < " + _SIGN,
    Test.EQ: "{0} == 0",
    Test.NE: "{0} != 0",
}

_EXPRESSIONS: Final = {
    WordOp.ADD: f"({{0}} + {{1}}) & {_MASK}",
    WordOp.SUB: f"({{0}} - {{1}}) & {_MASK}",
    WordOp.MUL: f"({{0}} * {{1}}) & {_MASK}",
    WordOp.AND: "{0} & {1}",
    WordOp.OR: "{0} | {1}",
    WordOp.XOR: "{0} ^ {1}",
    WordOp.ROL: f"({{0}} << {{1}} | {{0}} >> ({WORD_BITS} - {{1}})) & {_MASK}",
    WordOp.ROR: f"({{0}} >> {{1}} | {{0}} << ({WORD_BITS} - {{1}})) & {_MASK}",
    WordOp.SHL: f"({{0}} << {{1}}) & {_MASK}",
    WordOp.SHR: "{0} >> {1}",
    WordOp.COPY_LEFT: f"{{0}} | {_MASK} ^ ((1 << {{1}}) - 1) "
    "if {0} >> ({1} - 1) & 1 else {0} & ((1 << {1}) - 1)",
    WordOp.COPY_RIGHT: "{0} | ((1 << ({1} - 1)) - 1) "
    f"if {{0}} >> ({{1}} - 1) & 1 else {{0}} & ({_MASK} ^ ((1 << ({{1}} - 1)) - 1))",
    WordOp.ZERO_LEFT: "{0} & ((1 << {1}) - 1)",
    WordOp.ZERO_RIGHT: "{0} >> ({1} - 1) << ({1} - 1)",
}

# -- operations -------------------------------------------------------------------------------

_Op = TypeVar("_Op", bound=ir.Op)

#: How each operation is written, by its class.
PRINTERS: Final[dict[type[Any], Callable[[Printer, Any], None]]] = {}


def _prints(
    *kinds: type[_Op],
) -> Callable[[Callable[[Printer, _Op], None]], Callable[[Printer, _Op], None]]:
    """Register a function for operations."""

    def register(function: Callable[[Printer, _Op], None]) -> Callable[[Printer, _Op], None]:
        for kind in kinds:
            assert kind not in PRINTERS, kind
            PRINTERS[kind] = function
        return function

    return register


@_prints(ir.Compute)
def _compute(to: Printer, op: ir.Compute) -> None:
    expression = _EXPRESSIONS[op.op].format(word(op.left), word(op.right))
    if op.op in (WordOp.SHL, WordOp.SHR) and not isinstance(op.right, int):
        # Not only for the result: a shift to the left by a word would take all memory.
        expression = f"{expression} if {word(op.right)} < {WORD_BITS} else 0"
    elif isinstance(op.right, int) and op.right >= WORD_BITS and op.op in (WordOp.SHL, WordOp.SHR):
        expression = "0"
    to.line(f"{word(op.result)} = {expression}")


@_prints(ir.Divide)
def _divide(to: Printer, op: ir.Divide) -> None:
    function = "signed_div" if op.signed else "divmod"
    to.line(
        f"{word(op.quotient)}, {word(op.remainder)} = "
        f"{function}({word(op.dividend)}, {word(op.divisor)})"
    )


@_prints(ir.Guard)
def _guard(to: Printer, op: ir.Guard) -> None:
    value = word(op.word)
    tests = []
    if op.low is not None:
        tests.append(f"{value} < {op.low}")
    if op.high is not None:
        tests.append(f"{value} > {word(op.high)}")
    to.fail_if(" or ".join(tests), op.fault)


@_prints(ir.Fail)
def _fail(to: Printer, op: ir.Fail) -> None:
    to.fail(op.fault)


_FACTS: Final = {
    Fact.TID: "ctx.tid",
    Fact.PID: "ctx.pid",
    Fact.UID: "ctx.uid",
    Fact.GID: "ctx.gid",
    Fact.CPU: "ctx.cpu",
    Fact.NOW: "ctx.now()",
}


@_prints(ir.ReadFact)
def _read_fact(to: Printer, op: ir.ReadFact) -> None:
    to.line(f"{word(op.result)} = {_FACTS[op.fact]} & {_MASK}")


@_prints(ir.ReadName)
def _read_name(to: Printer, op: ir.ReadName) -> None:
    to.line(f"{word(op.low)}, {word(op.high)} = comm_words(ctx)")


def _masked(mask: int) -> str:
    return "" if mask == WORD_MASK else f" & {mask:#x}"


@_prints(ir.ReadRegister)
def _read_register(to: Printer, op: ir.ReadRegister) -> None:
    to.line(f"{word(op.result)} = regs[{op.index}]{_masked(op.mask)}")


@_prints(ir.WriteRegister)
def _write_register(to: Printer, op: ir.WriteRegister) -> None:
    to.line(f"regs[{op.index}] = {word(op.word)}{_masked(op.mask)}")


@_prints(ir.ReadFxsave)
def _read_fxsave(to: Printer, op: ir.ReadFxsave) -> None:
    to.line(f"{word(op.result)} = fp_get(ctx, {op.offset}, {op.size})")


@_prints(ir.WriteFxsave)
def _write_fxsave(to: Printer, op: ir.WriteFxsave) -> None:
    function = "mxcsr_set" if op.mxcsr else "fp_set"
    to.line(f"{function}(ctx, {op.offset}, {op.size}, {word(op.word)})")


def _access(to: Printer, address: str, line: str, fault: Raise) -> None:
    """Access the target's memory; what is not an address there fails."""
    with to.under("try:"):
        to.line(f"if {address} >= {ADDRESS_END}: raise MemoryFault({address})")
        to.line(line)
    with to.under("except MemoryFault:"):
        to.fail(fault)


@_prints(ir.Load)
def _load(to: Printer, op: ir.Load) -> None:
    address = word(op.address)
    line = f'{word(op.result)} = from_bytes(ctx.read({address}, {op.width}), "little")'
    _access(to, address, line, op.fault)


@_prints(ir.Store)
def _store(to: Printer, op: ir.Store) -> None:
    address = word(op.address)
    line = f'ctx.write({address}, ({word(op.word)}).to_bytes({op.width}, "little"))'
    _access(to, address, line, op.fault)


@_prints(ir.CheckAccess)
def _check_access(to: Printer, op: ir.CheckAccess) -> None:
    address = word(op.address)
    test = f"readable(ctx, {address})" + (f" and ctx.writable({address})" if op.write else "")
    to.line(f"{word(op.result)} = 0 if {test} else 1")


def _variable(space: Space, index: Word) -> str:
    return f"{_VARIABLES[space]}[{word(index)}]"


@_prints(ir.ReadVariable)
def _read_variable(to: Printer, op: ir.ReadVariable) -> None:
    to.line(f"{word(op.result)} = {_variable(op.space, op.index)}")


@_prints(ir.WriteVariable)
def _write_variable(to: Printer, op: ir.WriteVariable) -> None:
    to.line(f"{_variable(op.space, op.index)} = {word(op.word)}")


@_prints(ir.AddToVariable)
def _add_to_variable(to: Printer, op: ir.AddToVariable) -> None:
    variable = _variable(op.space, op.index)
    to.line(f"{variable} = {_plus(variable, op.number)} & {_MASK}")


@_prints(ir.GuardRun)
def _guard_run(to: Printer, op: ir.GuardRun) -> None:
    bad = word(op.bad)
    to.line(f"{bad} = first_bad_index({word(op.index)}, {word(op.count)}, {op.size})")
    to.fail_if(f"{bad} >= 0", op.fault)


@_prints(ir.LogWords)
def _log_words(to: Printer, op: ir.LogWords) -> None:
    to.log_words(op.words, op.overflow)


@_prints(ir.LogStack)
def _log_stack(to: Printer, op: ir.LogStack) -> None:
    item = to.other()
    to.line(f"{item} = stack_item(S, d, {word(op.count)}, {to.room()})")
    to.log_item(item, op.overflow)


@_prints(ir.LogVariables)
def _log_variables(to: Printer, op: ir.LogVariables) -> None:
    item, name = to.other(), _VARIABLES[op.space]
    token = "LOCALS" if op.space is Space.LOCAL else "GLOBALS"
    run = f"{word(op.index)}, {word(op.count)}"
    to.line(f"{item} = variables_item({token}, {name}, {run}, {to.room()})")
    to.log_item(item, op.overflow)


@_prints(ir.LogMemory)
def _log_memory(to: Printer, op: ir.LogMemory) -> None:
    item, bad = to.other(), word(op.bad)
    function = "string_item" if op.string else "memory_item"
    run = f"{word(op.address)}, {word(op.length)}"
    to.line(f"{item}, {bad} = {function}(ctx, {run}, {to.room()})")
    to.log_item(item, op.overflow)
    to.fail_if(f"{bad} is not None", op.fault)


@_prints(ir.LogLength)
def _log_length(to: Printer, op: ir.LogLength) -> None:
    to.line(f"{word(op.result)} = len(log)")


@_prints(ir.LastItem)
def _last_item(to: Printer, op: ir.LastItem) -> None:
    to.line(f"{word(op.result)} = starts[-1] if starts else 0")


@_prints(ir.CutLog)
def _cut_log(to: Printer, op: ir.CutLog) -> None:
    to.line(f"cut_log(log, raw, starts, {word(op.length)})")


@_prints(ir.SetMajor)
def _set_major(to: Printer, op: ir.SetMajor) -> None:
    to.line(f"maj = {word(op.word)}")


@_prints(ir.SetMinor)
def _set_minor(to: Printer, op: ir.SetMinor) -> None:
    to.line(f"mnr = {word(op.word)}")


@_prints(ir.Suspend)
def _suspend(to: Printer, op: ir.Suspend) -> None:
    to.line("sus = True")


@_prints(ir.Resume)
def _resume(to: Printer, op: ir.Resume) -> None:
    to.line("res = True")


@_prints(ir.Charge)
def _charge(to: Printer, op: ir.Charge) -> None:
    amount = word(op.word) if op.at_most is None else f"min({word(op.word)}, {op.at_most})"
    to.charge(f"{amount} >> {op.shift}")


@_prints(ir.StackLoad)
def _stack_load(to: Printer, op: ir.StackLoad) -> None:
    to.line(f"{word(op.result)} = {_stack(op.base, op.plus, op.index)}")


@_prints(ir.StackStore)
def _stack_store(to: Printer, op: ir.StackStore) -> None:
    to.line(f"{_stack(op.base, op.plus, op.index)} = {word(op.word)}")


@_prints(ir.MoveDepth)
def _move_depth(to: Printer, op: ir.MoveDepth) -> None:
    to.line(f"d += {op.words}")


@_prints(ir.DropWords)
def _drop_words(to: Printer, op: ir.DropWords) -> None:
    to.lines([f"d -= {word(op.count)}", f"if d < 0: d &= {_INDEX}"])


@_prints(ir.SetDepth)
def _set_depth(to: Printer, op: ir.SetDepth) -> None:
    to.line(f"d = {word(op.word)} & {_INDEX}")


@_prints(ir.PushCopies)
def _push_copies(to: Printer, op: ir.PushCopies) -> None:
    to.lines([f"fill(S, d, {word(op.count)}, {word(op.word)})", f"d += {word(op.count)}"])


@_prints(ir.ReadFrameBase)
def _read_frame_base(to: Printer, op: ir.ReadFrameBase) -> None:
    to.line(f"{word(op.result)} = m.sbp & {_INDEX}")


@_prints(ir.SetFrameBase)
def _set_frame_base(to: Printer, op: ir.SetFrameBase) -> None:
    to.line(f"m.sbp = {word(op.word)} & {_INDEX}")


@_prints(ir.MoveSlots)
def _move_slots(to: Printer, op: ir.MoveSlots) -> None:
    to.line(f"{', '.join(map(word, op.slots))} = {', '.join(map(word, op.words))}")


@_prints(ir.SetHandler)
def _set_handler(to: Printer, op: ir.SetHandler) -> None:
    to.lines([f"F[-1].handler = {op.block}", f"F[-1].handler_at = {word(op.at)}"])


@_prints(ir.ClearHandler)
def _clear_handler(to: Printer, op: ir.ClearHandler) -> None:
    to.line("F[-1].handler = -1")


@_prints(ir.LastException)
def _last_exception(to: Printer, op: ir.LastException) -> None:
    to.line(f"{word(op.code)}, {word(op.parm1)}, {word(op.parm2)} = m.last")


_SHOWN: Final = {Shown.STACK: "pv", Shown.LOCALS: "lv", Shown.GLOBALS: "gv"}


@_prints(ir.ShowInTraces)
def _show_in_traces(to: Printer, op: ir.ShowInTraces) -> None:
    to.line(f"F[-1].{_SHOWN[op.shown]} = ({word(op.first)}, {word(op.count)})")


@_prints(ir.AppendTrace)
def _append_trace(to: Printer, op: ir.AppendTrace) -> None:
    to.line("m.log_stack_trace()")
    to.charge("m.spent")


@_prints(ir.TraceLength)
def _trace_length(to: Printer, op: ir.TraceLength) -> None:
    to.line(f"{word(op.result)} = len(m.trace)")


@_prints(ir.CutTrace)
def _cut_trace(to: Printer, op: ir.CutTrace) -> None:
    to.line(f"m.cut_trace({word(op.length)})")


@_prints(ir.Allocate)
def _allocate(to: Printer, op: ir.Allocate) -> None:
    to.line(f"{word(op.result)} = heap.malloc({word(op.size)})")
    to.fail_if(f"not {word(op.result)}", op.fault)


@_prints(ir.Free)
def _free(to: Printer, op: ir.Free) -> None:
    to.fail_if(f"not heap.free({word(op.handle)})", op.fault)


def _heap_block(to: Printer, place: ir.HeapPlace) -> str:
    """The arguments that a place in the heap is given by, once it is one."""
    block, offset = to.other(), word(place.offset)
    to.line(f"{block} = heap.blocks.get({word(place.handle)})")
    to.fail_if(f"{block} is None", place.no_block)
    to.fail_if(f"{offset} + {place.width * place.count} > len({block})", place.outside)
    return f"{block}, {offset}, {place.width}"


@_prints(ir.HeapLoad)
def _heap_load(to: Printer, op: ir.HeapLoad) -> None:
    arguments = _heap_block(to, op.place)
    results = "".join(f"{word(result)}, " for result in op.results).rstrip()
    to.line(f"{results} = load_elements({arguments}, {op.place.count})")


@_prints(ir.HeapPush)
def _heap_push(to: Printer, op: ir.HeapPush) -> None:
    arguments = _heap_block(to, op.place)
    to.lines([f"put(S, d, load_elements({arguments}, {op.place.count}))", f"d += {op.place.count}"])


@_prints(ir.HeapStore)
def _heap_store(to: Printer, op: ir.HeapStore) -> None:
    arguments = _heap_block(to, op.place)
    to.line(f"store_elements({arguments}, {to.words(op.words)})")


@_prints(ir.CountJump)
def _count_jump(to: Printer, op: ir.CountJump) -> None:
    to.fail_if("jumps <= 0", op.fault)
    to.line("jumps -= 1")


@_prints(ir.GuardFacility)
def _guard_facility(to: Printer, op: ir.GuardFacility) -> None:
    to.fail_if(f"gone({op.number})", op.fault)
