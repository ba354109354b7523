"""A function of the intermediate representation as Python source: ``run(ctx)`` → ``Outcome``.

Values become local variables, the operations lines that work on them; ``python_printer`` writes
what is around them.

Names in generated code: ``t…`` values of a block, ``s…`` slots, ``x…`` what is no word, ``S`` the
stack in memory with ``d`` words on it, ``F`` the frames, ``b`` the block, ``left`` the instruction
budget, ``jumps`` the jumps left, ``log``, ``raw``, ``starts`` (of the items), ``maj``, ``mnr``,
``sus``, ``res`` (suspend, resume), ``m`` the ``Machine``, ``heap``, ``AT…`` code offsets.
"""

from __future__ import annotations

from typing import Final

from dprobed.program.exec import ir
from dprobed.program.exec.interface import ADDRESS_END
from dprobed.program.exec.ir import Fact, Raise, Shown, Space, Word, WordOp
from dprobed.program.exec.python_printer import Printer, plus, prints, stack_word, word
from dprobed.program.isa import STACK_WORDS, WORD_BITS, WORD_MASK

_MASK: Final = hex(WORD_MASK)
_INDEX: Final = STACK_WORDS - 1
_VARIABLES: Final = {Space.LOCAL: "L", Space.GLOBAL: "G"}

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


def source(function: ir.Function) -> str:
    """The source of ``run``."""
    return Printer(function).source()


@prints(ir.Compute)
def _compute(to: Printer, op: ir.Compute) -> None:
    expression = _EXPRESSIONS[op.op].format(word(op.left), word(op.right))
    if op.op in (WordOp.SHL, WordOp.SHR):
        # Not only for the result: a shift to the left by any word would take all memory.
        if not isinstance(op.right, int):
            expression = f"{expression} if {word(op.right)} < {WORD_BITS} else 0"
        elif op.right >= WORD_BITS:
            expression = "0"
    to.line(f"{word(op.result)} = {expression}")


@prints(ir.Divide)
def _divide(to: Printer, op: ir.Divide) -> None:
    function = "signed_div" if op.signed else "divmod"
    to.line(
        f"{word(op.quotient)}, {word(op.remainder)} = "
        f"{function}({word(op.dividend)}, {word(op.divisor)})"
    )


@prints(ir.Guard)
def _guard(to: Printer, op: ir.Guard) -> None:
    value = word(op.word)
    tests = []
    if op.low is not None:
        tests.append(f"{value} < {op.low}")
    if op.high is not None:
        tests.append(f"{value} > {word(op.high)}")
    to.fail_if(" or ".join(tests), op.fault)


@prints(ir.Fail)
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


@prints(ir.ReadFact)
def _read_fact(to: Printer, op: ir.ReadFact) -> None:
    to.line(f"{word(op.result)} = {_FACTS[op.fact]} & {_MASK}")


@prints(ir.ReadName)
def _read_name(to: Printer, op: ir.ReadName) -> None:
    to.line(f"{word(op.low)}, {word(op.high)} = comm_words(ctx)")


def _masked(mask: int) -> str:
    return "" if mask == WORD_MASK else f" & {mask:#x}"


@prints(ir.ReadRegister)
def _read_register(to: Printer, op: ir.ReadRegister) -> None:
    to.line(f"{word(op.result)} = regs[{op.index}]{_masked(op.mask)}")


@prints(ir.WriteRegister)
def _write_register(to: Printer, op: ir.WriteRegister) -> None:
    to.line(f"regs[{op.index}] = {word(op.word)}{_masked(op.mask)}")


@prints(ir.ReadFxsave)
def _read_fxsave(to: Printer, op: ir.ReadFxsave) -> None:
    to.line(f"{word(op.result)} = fp_get(ctx, {op.offset}, {op.size})")


@prints(ir.WriteFxsave)
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


@prints(ir.Load)
def _load(to: Printer, op: ir.Load) -> None:
    address = word(op.address)
    line = f'{word(op.result)} = from_bytes(ctx.read({address}, {op.width}), "little")'
    _access(to, address, line, op.fault)


@prints(ir.Store)
def _store(to: Printer, op: ir.Store) -> None:
    address = word(op.address)
    line = f'ctx.write({address}, ({word(op.word)}).to_bytes({op.width}, "little"))'
    _access(to, address, line, op.fault)


@prints(ir.CheckAccess)
def _check_access(to: Printer, op: ir.CheckAccess) -> None:
    address = word(op.address)
    test = f"readable(ctx, {address})" + (f" and ctx.writable({address})" if op.write else "")
    to.line(f"{word(op.result)} = 0 if {test} else 1")


def _variable(space: Space, index: Word) -> str:
    return f"{_VARIABLES[space]}[{word(index)}]"


@prints(ir.ReadVariable)
def _read_variable(to: Printer, op: ir.ReadVariable) -> None:
    to.line(f"{word(op.result)} = {_variable(op.space, op.index)}")


@prints(ir.WriteVariable)
def _write_variable(to: Printer, op: ir.WriteVariable) -> None:
    to.line(f"{_variable(op.space, op.index)} = {word(op.word)}")


@prints(ir.AddToVariable)
def _add_to_variable(to: Printer, op: ir.AddToVariable) -> None:
    variable = _variable(op.space, op.index)
    to.line(f"{variable} = {plus(variable, op.number)} & {_MASK}")


@prints(ir.GuardRun)
def _guard_run(to: Printer, op: ir.GuardRun) -> None:
    bad = word(op.bad)
    to.line(f"{bad} = first_bad_index({word(op.index)}, {word(op.count)}, {op.size})")
    to.fail_if(f"{bad} >= 0", op.fault)


@prints(ir.ReadArgument)
def _read_argument(to: Printer, op: ir.ReadArgument) -> None:
    with to.under("try:"):
        to.line(f"{word(op.result)} = ctx.arguments[{op.index}](ctx)")
    with to.under("except MemoryFault as fault:"):
        to.line(f"{word(op.address)} = fault.address")
        to.fail(op.fault)


@prints(ir.ReadKept)
def _read_kept(to: Printer, op: ir.ReadKept) -> None:
    to.line(f"{word(op.result)} = ctx.kept[{op.index}]")


@prints(ir.WriteKept)
def _write_kept(to: Printer, op: ir.WriteKept) -> None:
    to.line(f"ctx.kept[{op.index}] = {word(op.word)}")


@prints(ir.ReadSymbol)
def _read_symbol(to: Printer, op: ir.ReadSymbol) -> None:
    to.line(f"{word(op.result)} = SYM[{op.index}]")


@prints(ir.LogWords)
def _log_words(to: Printer, op: ir.LogWords) -> None:
    to.log_words(op.words, op.overflow)


@prints(ir.LogValue)
def _log_value(to: Printer, op: ir.LogValue) -> None:
    to.log_value(op)


@prints(ir.LogStack)
def _log_stack(to: Printer, op: ir.LogStack) -> None:
    item = to.other()
    to.line(f"{item} = stack_item(S, d, {word(op.count)}, {to.room()})")
    to.log_item(item, op.overflow)


@prints(ir.LogVariables)
def _log_variables(to: Printer, op: ir.LogVariables) -> None:
    item, name = to.other(), _VARIABLES[op.space]
    token = "LOCALS" if op.space is Space.LOCAL else "GLOBALS"
    run = f"{word(op.index)}, {word(op.count)}"
    to.line(f"{item} = variables_item({token}, {name}, {run}, {to.room()})")
    to.log_item(item, op.overflow)


@prints(ir.LogMemory)
def _log_memory(to: Printer, op: ir.LogMemory) -> None:
    item, bad = to.other(), word(op.bad)
    function = "string_item" if op.string else "memory_item"
    run = f"{word(op.address)}, {word(op.length)}"
    to.line(f"{item}, {bad} = {function}(ctx, {run}, {to.room()})")
    to.log_item(item, op.overflow)
    to.fail_if(f"{bad} is not None", op.fault)


@prints(ir.LogUserStack)
def _log_user_stack(to: Printer, op: ir.LogUserStack) -> None:
    item = to.other()
    to.line(f"{item} = user_stack_item(ctx, {op.depth}, {to.room()})")
    to.log_item(item, op.overflow)


@prints(ir.LogLength)
def _log_length(to: Printer, op: ir.LogLength) -> None:
    to.line(f"{word(op.result)} = len(log)")


@prints(ir.LastItem)
def _last_item(to: Printer, op: ir.LastItem) -> None:
    to.line(f"{word(op.result)} = starts[-1] if starts else 0")


@prints(ir.CutLog)
def _cut_log(to: Printer, op: ir.CutLog) -> None:
    to.line(f"cut_log(log, raw, starts, {word(op.length)})")


@prints(ir.SetNumber)
def _set_number(to: Printer, op: ir.SetNumber) -> None:
    to.line(f"{'maj' if op.major else 'mnr'} = {word(op.word)}")


@prints(ir.Suspend)
def _suspend(to: Printer, op: ir.Suspend) -> None:
    to.line("sus = True")


@prints(ir.Resume)
def _resume(to: Printer, op: ir.Resume) -> None:
    to.line("res = True")


@prints(ir.Charge)
def _charge(to: Printer, op: ir.Charge) -> None:
    amount = word(op.word) if op.at_most is None else f"min({word(op.word)}, {op.at_most})"
    to.charge(f"{amount} >> {op.shift}")


@prints(ir.StackLoad)
def _stack_load(to: Printer, op: ir.StackLoad) -> None:
    to.line(f"{word(op.result)} = {stack_word(op.base, op.plus, op.index)}")


@prints(ir.StackStore)
def _stack_store(to: Printer, op: ir.StackStore) -> None:
    to.line(f"{stack_word(op.base, op.plus, op.index)} = {word(op.word)}")


@prints(ir.MoveDepth)
def _move_depth(to: Printer, op: ir.MoveDepth) -> None:
    to.line(f"d += {op.words}")


@prints(ir.DropWords)
def _drop_words(to: Printer, op: ir.DropWords) -> None:
    to.lines([f"d -= {word(op.count)}", f"if d < 0: d &= {_INDEX}"])


@prints(ir.SetDepth)
def _set_depth(to: Printer, op: ir.SetDepth) -> None:
    to.line(f"d = {word(op.word)} & {_INDEX}")


@prints(ir.PushCopies)
def _push_copies(to: Printer, op: ir.PushCopies) -> None:
    to.lines([f"fill(S, d, {word(op.count)}, {word(op.word)})", f"d += {word(op.count)}"])


@prints(ir.ReadFrameBase)
def _read_frame_base(to: Printer, op: ir.ReadFrameBase) -> None:
    to.line(f"{word(op.result)} = m.sbp & {_INDEX}")


@prints(ir.SetFrameBase)
def _set_frame_base(to: Printer, op: ir.SetFrameBase) -> None:
    to.line(f"m.sbp = {word(op.word)} & {_INDEX}")


@prints(ir.MoveSlots)
def _move_slots(to: Printer, op: ir.MoveSlots) -> None:
    to.line(f"{', '.join(map(word, op.slots))} = {', '.join(map(word, op.words))}")


@prints(ir.SetHandler)
def _set_handler(to: Printer, op: ir.SetHandler) -> None:
    to.lines([f"F[-1].handler = {op.block}", f"F[-1].handler_at = {word(op.at)}"])


@prints(ir.ClearHandler)
def _clear_handler(to: Printer, op: ir.ClearHandler) -> None:
    to.line("F[-1].handler = -1")


@prints(ir.LastException)
def _last_exception(to: Printer, op: ir.LastException) -> None:
    to.line(f"{word(op.code)}, {word(op.parm1)}, {word(op.parm2)} = m.last")


_SHOWN: Final = {Shown.STACK: "pv", Shown.LOCALS: "lv", Shown.GLOBALS: "gv"}


@prints(ir.ShowInTraces)
def _show_in_traces(to: Printer, op: ir.ShowInTraces) -> None:
    to.line(f"F[-1].{_SHOWN[op.shown]} = ({word(op.first)}, {word(op.count)})")


@prints(ir.AppendTrace)
def _append_trace(to: Printer, op: ir.AppendTrace) -> None:
    to.line("m.log_stack_trace()")
    to.charge("m.spent")


@prints(ir.TraceLength)
def _trace_length(to: Printer, op: ir.TraceLength) -> None:
    to.line(f"{word(op.result)} = len(m.trace)")


@prints(ir.CutTrace)
def _cut_trace(to: Printer, op: ir.CutTrace) -> None:
    to.line(f"m.cut_trace({word(op.length)})")


@prints(ir.Allocate)
def _allocate(to: Printer, op: ir.Allocate) -> None:
    to.line(f"{word(op.result)} = heap.malloc({word(op.size)})")
    to.fail_if(f"not {word(op.result)}", op.fault)


@prints(ir.Free)
def _free(to: Printer, op: ir.Free) -> None:
    to.fail_if(f"not heap.free({word(op.handle)})", op.fault)


def _heap_block(to: Printer, place: ir.HeapPlace) -> str:
    """The arguments that a place in the heap is given by, once it is one."""
    block, offset = to.other(), word(place.offset)
    to.line(f"{block} = heap.blocks.get({word(place.handle)})")
    to.fail_if(f"{block} is None", place.no_block)
    to.fail_if(f"{offset} + {place.width * place.count} > len({block})", place.outside)
    return f"{block}, {offset}, {place.width}"


@prints(ir.HeapLoad)
def _heap_load(to: Printer, op: ir.HeapLoad) -> None:
    arguments = _heap_block(to, op.place)
    results = "".join(f"{word(result)}, " for result in op.results).rstrip()
    to.line(f"{results} = load_elements({arguments}, {op.place.count})")


@prints(ir.HeapPush)
def _heap_push(to: Printer, op: ir.HeapPush) -> None:
    arguments = _heap_block(to, op.place)
    to.lines([f"put(S, d, load_elements({arguments}, {op.place.count}))", f"d += {op.place.count}"])


@prints(ir.HeapStore)
def _heap_store(to: Printer, op: ir.HeapStore) -> None:
    arguments = _heap_block(to, op.place)
    to.line(f"store_elements({arguments}, {to.words(op.words)})")


@prints(ir.CountJump)
def _count_jump(to: Printer, op: ir.CountJump) -> None:
    to.fail_if("jumps <= 0", op.fault)
    to.line("jumps -= 1")


@prints(ir.GuardFacility)
def _guard_facility(to: Printer, op: ir.GuardFacility) -> None:
    to.fail_if(f"gone({op.number})", op.fault)
