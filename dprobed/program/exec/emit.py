"""What each instruction of the table does, as Python source (see ``codegen`` for the names in it).

Every function below writes one instruction, or a family of them. An instruction that fails has
popped its operands, and has done and pushed nothing (but `log str` and `log mrf`, which have logged
what they could read).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dprobed.program.blocks import Step
from dprobed.program.exec.codegen import INDEX_MASK, MASK, UNROLL, Emitter
from dprobed.program.exec.interface import ADDRESS_END
from dprobed.program.exits import ABORT, REM
from dprobed.program.isa import (
    CALL_FRAMES,
    FATAL_EX_MASK,
    INSTRUCTIONS,
    OPERAND_BIT,
    OPERAND_FACILITY,
    OPERAND_GLOBAL,
    OPERAND_LOCAL,
    STACK_WORDS,
    WORD_BITS,
    WORD_MASK,
    ExCode,
)
from dprobed.program.registers import REGISTERS

Emit = Callable[[Emitter, Step], None]

EMITTERS: Final[dict[str, Emit]] = {}


def _for(*keys: str) -> Callable[[Emit], Emit]:
    """Register a function for the instructions with these keys."""

    def register(function: Emit) -> Emit:
        for key in keys:
            assert key not in EMITTERS, key
            EMITTERS[key] = function
        return function

    return register


def emit(e: Emitter, step: Step) -> None:
    """Write one instruction."""
    EMITTERS[step.instruction.key](e, step)


# -- control ----------------------------------------------------------------------------------


@_for("nop")
def _nop(e: Emitter, step: Step) -> None:
    pass


@_for("jmp label")
def _jmp(e: Emitter, step: Step) -> None:
    e.leave_block()
    e.jump(step.operands[0])


_SIGN: Final = hex(1 << (WORD_BITS - 1))

_TESTS: Final = {
    "jlt": "{0} >= " + _SIGN,
    "jle": "{0} >= " + _SIGN + " or {0} == 0",
    "jgt": "0 < {0} < " + _SIGN,
    "jge": "{0} < " + _SIGN,
    "jz": "{0} == 0",
    "jnz": "{0} != 0",
}


@_for(*(f"{name} label" for name in _TESTS))
def _branch(e: Emitter, step: Step) -> None:
    tested = e.leave_block_for_test()
    with e.under(f"if {_TESTS[step.instruction.name].format(tested)}:"):
        e.jump(step.operands[0])
    with e.under("else:"):
        e.go(step.next)


@_for("loop label")
def _loop(e: Emitter, step: Step) -> None:
    if e.counts_jumps:
        e.fail_if("jumps <= 0", ExCode.MAX_JMPS, str(e.header.jmpmax))
        e.line("jumps -= 1")
    e.push(e.let(f"({e.pop()} - 1) & {MASK}"))
    tested = e.leave_block_for_test()
    with e.under(f"if {tested} != 0:"):
        e.go(step.operands[0])
    with e.under("else:"):
        e.go(step.next)


@_for("call label")
def _call(e: Emitter, step: Step) -> None:
    e.leave_block()
    target = step.operands[0]
    called, returns = e.code_offset(target), e.code_offset(step.next)
    e.fail_if(f"len(F) > {CALL_FRAMES}", ExCode.CALL_STACK_OVERFLOW, called)
    e.line(f"F.append(Frame({e.number[step.next]}, {called}, {returns}, m.sbp))")
    e.line("m.sbp = d")
    e.go(target)


@_for("ret")
def _ret(e: Emitter, step: Step) -> None:
    e.leave_block()
    e.fail_if("len(F) == 1", ExCode.CALL_STACK_OVERFLOW, "0")
    frame = e.let("F.pop()")
    e.line(f"m.sbp = {frame}.sbp")
    e.line(f"b = {frame}.block")


@_for("abort")
def _abort(e: Emitter, step: Step) -> None:
    e.finish(ABORT, log=False)


@_for("rem")
def _rem(e: Emitter, step: Step) -> None:
    e.finish(REM)


@_for("exit")
def _exit(e: Emitter, step: Step) -> None:
    e.finish(0)


@_for("exit facility")
def _exit_facility(e: Emitter, step: Step) -> None:
    number = e.unit.facilities[step.operands[0]]
    e.fail_if(
        f"gone({number})", ExCode.INVALID_OPERAND, str(OPERAND_FACILITY), str(number)
    )  # fmt: skip
    e.finish(number)


@_for("suspend")
def _suspend(e: Emitter, step: Step) -> None:
    e.line("sus = True")


@_for("resume")
def _resume(e: Emitter, step: Step) -> None:
    e.line("res = True")


# -- log --------------------------------------------------------------------------------------

_NUMBERS: Final = {"setmin": "mnr", "setmaj": "maj"}


@_for("setmin index", "setmaj index")
def _set_number_index(e: Emitter, step: Step) -> None:
    e.line(f"{_NUMBERS[step.instruction.name]} = {step.operands[0]}")


@_for("setmin", "setmaj")
def _set_number(e: Emitter, step: Step) -> None:
    e.line(f"{_NUMBERS[step.instruction.name]} = {e.pop()} & 0xffff")


@_for("log str", "log mrf")
def _log_memory(e: Emitter, step: Step) -> None:
    address, length = e.pop(), e.pop()
    item = "string_item" if step.instruction.name == "log str" else "memory_item"
    # A read costs what it may read, also when then nothing is logged of it.
    e.charge(f"min({length}, {e.header.logmax}) >> 6")
    logged, fault = e.new(), e.new()
    e.line(f"{logged}, {fault} = {item}(ctx, {address}, {length}, {e.room()})")
    e.log_item(logged)
    e.fail_if(f"{fault} is not None", ExCode.INVALID_ADDR, fault)


@_for("log count")
def _log_count(e: Emitter, step: Step) -> None:
    count = step.operands[0]
    if e.static or count <= UNROLL:
        e.log_words([e.pop() for _ in range(count)])
        return
    e.flush()
    words = e.let(f"take(S, d, {count})")
    e.drop(count)
    e.log_raw(f"pack({count})(*{words})", 8 * count)


@_for("log")
def _log(e: Emitter, step: Step) -> None:
    count = e.pop()
    if e.wraps:
        with e.under(f"if {count} > {e.depth()}:"):
            e.push(count)
            e.fail(ExCode.RPN_STACK_WRAP, "d", "0")
            e.drop(1)
    e.flush()
    e.line(f"d -= {count}")
    e.line(f"if d < 0: d &= {INDEX_MASK}")
    e.depth_is_unknown()
    e.charge(f"min({count}, {e.header.logmax} >> 3) >> 3")
    e.log_item(e.let(f"stack_item(S, d, {count}, {e.room()})"))


_VARIABLES: Final = {"lv": ("L", OPERAND_LOCAL), "gv": ("G", OPERAND_GLOBAL)}


def _variable_count(e: Emitter, kind: str) -> int:
    return e.header.vars if kind == "lv" else e.header.gvars


@_for("log lv", "log gv")
def _log_variables(e: Emitter, step: Step) -> None:
    kind = step.instruction.name[-2:]
    name, operand = _VARIABLES[kind]
    count, index = e.pop(), e.pop()
    bad = e.let(f"first_bad_index({index}, {count}, {_variable_count(e, kind)})")
    e.fail_if(f"{bad} >= 0", ExCode.INVALID_OPERAND, str(operand), bad)
    e.charge(f"{count} >> 3")
    token = "LOCALS" if kind == "lv" else "GLOBALS"
    e.log_item(e.let(f"variables_item({token}, {name}, {index}, {count}, {e.room()})"))


@_for("push lp")
def _push_lp(e: Emitter, step: Step) -> None:
    e.push(e.let("len(log)"))


@_for("push plp")
def _push_plp(e: Emitter, step: Step) -> None:
    e.push(e.let("starts[-1] if starts else 0"))


@_for("pop lp")
def _pop_lp(e: Emitter, step: Step) -> None:
    e.line(f"cut_log(log, raw, starts, {e.pop()})")


# -- variables --------------------------------------------------------------------------------


def _access_variable(e: Emitter, verb: str, variable: str) -> None:
    if verb == "push":
        e.push(e.let(variable))
    elif verb == "pop":
        e.line(f"{variable} = {e.pop()}")
    elif verb == "move":
        e.line(f"{variable} = {e.top()}")
    else:
        sign = "+" if verb == "inc" else "-"
        e.line(f"{variable} = ({variable} {sign} 1) & {MASK}")


_VARIABLE_NAMES: Final = tuple(
    f"{verb} {kind}" for verb in ("push", "pop", "move", "inc", "dec") for kind in ("gv", "lv")
)


@_for(*(f"{name},index" for name in _VARIABLE_NAMES))
def _variable_index(e: Emitter, step: Step) -> None:
    verb, kind = step.instruction.name.split()
    _access_variable(e, verb, f"{_VARIABLES[kind][0]}[{step.operands[0]}]")


@_for(*_VARIABLE_NAMES)
def _variable(e: Emitter, step: Step) -> None:
    verb, kind = step.instruction.name.split()
    name, operand = _VARIABLES[kind]
    value = e.pop() if verb == "pop" else None
    index = e.pop()
    bad = f"{index} >= {_variable_count(e, kind)}"
    e.fail_if(bad, ExCode.INVALID_OPERAND, str(operand), index)
    if value is not None:
        e.push(value)
    _access_variable(e, verb, f"{name}[{index}]")


# -- arithmetic and bits ----------------------------------------------------------------------

_BINARY: Final = {
    "add": f"({{0}} + {{1}}) & {MASK}",
    "sub": f"({{0}} - {{1}}) & {MASK}",
    "mul": f"({{0}} * {{1}}) & {MASK}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
}


@_for(*_BINARY)
def _binary(e: Emitter, step: Step) -> None:
    right, left = e.pop(), e.pop()
    e.push(e.let(_BINARY[step.instruction.name].format(left, right)))


@_for("neg")
def _neg(e: Emitter, step: Step) -> None:
    e.push(e.let(f"{e.pop()} ^ {MASK}"))


@_for("div", "idiv")
def _div(e: Emitter, step: Step) -> None:
    divisor, dividend = e.pop(), e.pop()
    e.fail_if(f"{divisor} == 0", ExCode.DIV_BY_ZERO, "0")
    quotient, remainder = e.new(), e.new()
    function = "divmod" if step.instruction.name == "div" else "signed_div"
    e.line(f"{quotient}, {remainder} = {function}({dividend}, {divisor})")
    e.push(remainder)
    e.push(quotient)


_SHIFTS: Final = {
    "rol": f"({{0}} << {{1}} | {{0}} >> ({WORD_BITS} - {{1}})) & {MASK}",
    "ror": f"({{0}} >> {{1}} | {{0}} << ({WORD_BITS} - {{1}})) & {MASK}",
    "shl": f"({{0}} << {{1}}) & {MASK}",
    "shr": "{0} >> {1}",
}


@_for(*(f"{name} bits" for name in _SHIFTS))
def _shift_bits(e: Emitter, step: Step) -> None:
    e.push(e.let(_SHIFTS[step.instruction.name].format(e.pop(), step.operands[0])))


@_for(*_SHIFTS)
def _shift(e: Emitter, step: Step) -> None:
    name = step.instruction.name
    operand, count = e.pop(), e.pop()
    if name in ("rol", "ror"):
        count = e.let(f"{count} & {WORD_BITS - 1}")
        e.push(e.let(_SHIFTS[name].format(operand, count)))
    else:
        shifted = _SHIFTS[name].format(operand, count)
        e.push(e.let(f"{shifted} if {count} < {WORD_BITS} else 0"))


def _bit_expression(name: str, operand: str, bit: str) -> str:
    """Bit numbers count from 1; ``bit`` is an atom or a number within range."""
    if name == "pzl":
        return f"{operand} & ((1 << {bit}) - 1)"
    if name == "pzr":
        return f"{operand} >> ({bit} - 1) << ({bit} - 1)"
    is_set = f"{operand} >> ({bit} - 1) & 1"
    if name == "pbl":
        low = f"((1 << {bit}) - 1)"
        return f"{operand} | {MASK} ^ {low} if {is_set} else {operand} & {low}"
    low = f"((1 << ({bit} - 1)) - 1)"
    return f"{operand} | {low} if {is_set} else {operand} & ({MASK} ^ {low})"


_BIT_NAMES: Final = ("pbl", "pbr", "pzl", "pzr")


@_for(*(f"{name} bit" for name in _BIT_NAMES))
def _bit_immediate(e: Emitter, step: Step) -> None:
    e.push(e.let(_bit_expression(step.instruction.name, e.pop(), str(step.operands[0]))))


@_for(*_BIT_NAMES)
def _bit(e: Emitter, step: Step) -> None:
    operand, bit = e.pop(), e.pop()
    bad = f"not 1 <= {bit} <= {WORD_BITS}"
    e.fail_if(bad, ExCode.INVALID_OPERAND, str(OPERAND_BIT), bit)
    e.push(e.let(_bit_expression(step.instruction.name, operand, bit)))


# -- stack ------------------------------------------------------------------------------------


@_for("xchg")
def _xchg(e: Emitter, step: Step) -> None:
    top, next_ = e.pop(), e.pop()
    e.push(top)
    e.push(next_)


@_for("dup count")
def _dup_count(e: Emitter, step: Step) -> None:
    count = step.operands[0]
    word = e.top()
    if e.static or count <= UNROLL:
        for _ in range(count):
            e.push(word)
        return
    e.flush()
    e.line(f"fill(S, d, {count}, {word})")
    e.line(f"d += {count}")
    e.moved(count)


@_for("dup")
def _dup(e: Emitter, step: Step) -> None:
    word, count = e.pop(), e.pop()
    copies = e.let(f"({count} & 0xff) + 1")
    if e.wraps:
        with e.under(f"if {e.depth()} + {copies} > {STACK_WORDS}:"):
            e.push(count)
            e.push(word)
            e.fail(ExCode.RPN_STACK_WRAP, "d", "0")
            e.drop(2)
    e.flush()
    e.line(f"fill(S, d, {copies}, {word})")
    e.line(f"d += {copies}")
    e.charge(f"{copies} >> 3")
    e.depth_is_unknown()


@_for("ros count")
def _ros(e: Emitter, step: Step) -> None:
    e.drop(step.operands[0])


def _slot(step: Step, offset: str) -> str:
    """The stack word at an offset from SBP or from TOS."""
    base = "m.sbp" if step.instruction.name.endswith("sbp") else "d - 1"
    return f"S[({base} + {offset}) & {INDEX_MASK}]"


@_for("push sbp,slot", "push tsp,slot", "push sbp", "push tsp")
def _push_slot(e: Emitter, step: Step) -> None:
    offset = str(step.operands[0]) if step.operands else e.pop()
    e.flush()
    e.push(e.let(_slot(step, offset)))


@_for("copy sbp,slot", "copy tsp,slot", "copy sbp", "copy tsp")
def _copy_slot(e: Emitter, step: Step) -> None:
    offset = str(step.operands[0]) if step.operands else e.pop()
    word = e.top()
    e.flush()
    e.line(f"{_slot(step, offset)} = {word}")


@_for("pop sbp,slot", "pop tsp,slot", "pop sbp", "pop tsp")
def _pop_slot(e: Emitter, step: Step) -> None:
    word = e.pop()
    offset = str(step.operands[0]) if step.operands else e.pop()
    e.push(word)
    e.flush()
    e.line(f"{_slot(step, offset)} = {word}")
    e.drop(1)


@_for("save sbp")
def _save_sbp(e: Emitter, step: Step) -> None:
    e.push(e.let(f"m.sbp & {INDEX_MASK}"))


@_for("restore sbp")
def _restore_sbp(e: Emitter, step: Step) -> None:
    e.line(f"m.sbp = {e.pop()} & {INDEX_MASK}")


@_for("save tsp")
def _save_tsp(e: Emitter, step: Step) -> None:
    e.push(e.let(f"{e.depth()} & {INDEX_MASK}"))


@_for("restore tsp")
def _restore_tsp(e: Emitter, step: Step) -> None:
    depth = e.pop()
    e.flush()
    e.line(f"d = {depth} & {INDEX_MASK}")
    e.depth_is_unknown()


# -- registers and data -----------------------------------------------------------------------

#: In rflags; a thread that goes on with it set traps at its next instruction, and dies of that.
_TRAP_FLAG: Final = 0x100


@_for("push r,register", "push u,register")
def _push_register(e: Emitter, step: Step) -> None:
    register = REGISTERS[step.operands[0]]
    if register.kernel_only:
        e.invalid(step)
    elif register.fxsave:
        for offset, size in reversed(register.fxsave):
            e.push(e.let(f"fp_get(ctx, {offset}, {size})"))
    else:
        mask = "" if register.bits == WORD_BITS else f" & {(1 << register.bits) - 1:#x}"
        e.push(e.let(f"regs[{register.user_index}]{mask}"))


@_for("pop r,register", "pop u,register")
def _pop_register(e: Emitter, step: Step) -> None:
    register = REGISTERS[step.operands[0]]
    if not register.may_pop(kernel=False):
        e.invalid(step)
    elif register.fxsave:
        function = "mxcsr_set" if register.name == "mxcsr" else "fp_set"
        for offset, size in register.fxsave:
            e.line(f"{function}(ctx, {offset}, {size}, {e.pop()})")
    else:
        mask = (1 << register.bits) - 1
        if "rflags" in (register.name, register.part_of):
            mask &= ~_TRAP_FLAG
        kept = "" if mask == WORD_MASK else f" & {mask:#x}"
        e.line(f"regs[{register.user_index}] = {e.pop()}{kept}")


@_for("push word")
def _push_word(e: Emitter, step: Step) -> None:
    e.push(str(step.operands[0]))


_WIDTHS: Final = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


def _access(e: Emitter, address: str, lines: list[str]) -> None:
    """Access the target's memory; what is not an address there fails."""
    with e.under("try:"):
        e.line(f"if {address} >= {ADDRESS_END}: raise MemoryFault({address})")
        e.lines(lines)
    with e.under("except MemoryFault:"):
        e.fail(ExCode.INVALID_ADDR, address, "0")


@_for(*(f"push mem,{kind}" for kind in _WIDTHS))
def _push_memory(e: Emitter, step: Step) -> None:
    width = _WIDTHS[step.instruction.name.split()[-1]]
    address, value = e.pop(), e.new()
    _access(e, address, [f'{value} = from_bytes(ctx.read({address}, {width}), "little")'])
    e.push(value)


@_for(*(f"pop mem,{kind}" for kind in _WIDTHS))
def _pop_memory(e: Emitter, step: Step) -> None:
    width = _WIDTHS[step.instruction.name.split()[-1]]
    value, address = e.pop(), e.pop()
    if width < 8:
        value = e.let(f"{value} & {(1 << 8 * width) - 1:#x}")
    _access(e, address, [f'ctx.write({address}, ({value}).to_bytes({width}, "little"))'])


# -- system and checking ----------------------------------------------------------------------

_SYSTEM: Final = {
    "push task": "ctx.tid",
    "push tid": "ctx.tid",
    "push pid": "ctx.pid",
    "push uid": "ctx.uid",
    "push gid": "ctx.gid",
    "push procid": "ctx.cpu",
    "push time": "ctx.now()",
}


@_for(*_SYSTEM)
def _system(e: Emitter, step: Step) -> None:
    e.push(e.let(f"{_SYSTEM[step.instruction.name]} & {MASK}"))


@_for("push wid")
def _push_wid(e: Emitter, step: Step) -> None:
    e.push(str((1 << WORD_BITS) - WORD_BITS))


@_for("push comm")
def _push_comm(e: Emitter, step: Step) -> None:
    low, high = e.new(), e.new()
    e.line(f"{low}, {high} = comm_words(ctx)")
    e.push(high)
    e.push(low)


@_for("vfy r")
def _vfy_r(e: Emitter, step: Step) -> None:
    e.push(e.let(f"0 if readable(ctx, {e.pop()}) else 1"))


@_for("vfy rw")
def _vfy_rw(e: Emitter, step: Step) -> None:
    address = e.pop()
    e.push(e.let(f"0 if readable(ctx, {address}) and ctx.writable({address}) else 1"))


# -- exceptions -------------------------------------------------------------------------------


@_for("sx label")
def _sx(e: Emitter, step: Step) -> None:
    target = step.operands[0]
    e.line(f"F[-1].handler = {e.number[target]}")
    e.line(f"F[-1].handler_at = {e.code_offset(target)}")


@_for("ux")
def _ux(e: Emitter, step: Step) -> None:
    e.line("F[-1].handler = -1")


@_for("rx")
def _rx(e: Emitter, step: Step) -> None:
    code, parm1, parm2 = e.pop(), e.pop(), e.pop()
    with e.under(f"if {code} & {e.unit.ex_mask | FATAL_EX_MASK}:"):
        e.fail(code, parm1, parm2)


@_for("push x")
def _push_x(e: Emitter, step: Step) -> None:
    if e.static:
        # An exception ends such a program: there cannot have been one.
        for _ in range(3):
            e.push("0")
        return
    code, parm1, parm2 = e.new(), e.new(), e.new()
    e.line(f"{code}, {parm1}, {parm2} = m.last")
    for atom in (parm2, parm1, code):
        e.push(atom)


@_for("log st")
def _log_st(e: Emitter, step: Step) -> None:
    e.flush()
    e.line("m.log_stack_trace()")
    e.charge("m.spent")


@_for("purge st")
def _purge_st(e: Emitter, step: Step) -> None:
    e.line("m.cut_trace(0)")


@_for("trace lv", "trace gv", "trace pv")
def _trace(e: Emitter, step: Step) -> None:
    count, first = e.pop(), e.pop()
    e.line(f"F[-1].{step.instruction.name[-2:]} = ({first}, {count})")


@_for("push stp")
def _push_stp(e: Emitter, step: Step) -> None:
    e.push(e.let("len(m.trace)"))


@_for("pop stp")
def _pop_stp(e: Emitter, step: Step) -> None:
    e.line(f"m.cut_trace({e.pop()})")


# -- heap -------------------------------------------------------------------------------------


@_for("malloc")
def _malloc(e: Emitter, step: Step) -> None:
    size = e.pop()
    handle = e.let(f"heap.malloc({size})")
    e.fail_if(f"not {handle}", ExCode.HEAP_NOMEM, size)
    e.charge(f"{size} >> 6")
    e.push(handle)


@_for("free")
def _free(e: Emitter, step: Step) -> None:
    handle = e.pop()
    e.fail_if(f"not heap.free({handle})", ExCode.HEAP_INVALID_HANDLE, handle)


def _heap_block(e: Emitter, offset: str, handle: str, size: int) -> str:
    block = e.let(f"heap.blocks.get({handle})")
    e.fail_if(f"{block} is None", ExCode.HEAP_INVALID_HANDLE, handle, offset)
    e.fail_if(
        f"{offset} + {size} > len({block})", ExCode.HEAP_INVALID_OFFSET, handle, offset
    )  # fmt: skip
    return block


@_for(*(f"pushh {kind},count" for kind in _WIDTHS))
def _pushh(e: Emitter, step: Step) -> None:
    width = _WIDTHS[step.instruction.name.split()[-1]]
    count = step.operands[0]
    offset, handle = e.pop(), e.pop()
    block = _heap_block(e, offset, handle, width * count)
    words = e.let(f"load_elements({block}, {offset}, {width}, {count})")
    if e.static or count <= UNROLL:
        for n in reversed(range(count)):
            e.push(e.let(f"{words}[{n}]"))
        return
    e.flush()
    e.line(f"put(S, d, {words})")
    e.line(f"d += {count}")
    e.moved(count)


@_for(*(f"poph {kind},count" for kind in _WIDTHS))
def _poph(e: Emitter, step: Step) -> None:
    width = _WIDTHS[step.instruction.name.split()[-1]]
    count = step.operands[0]
    offset, handle = e.pop(), e.pop()
    if e.static or count <= UNROLL:
        atoms = [e.pop() for _ in range(count)]
        words = f"({', '.join(atoms)},)"
    else:
        e.flush()
        words = e.let(f"take(S, d, {count})")
        e.drop(count)
    block = _heap_block(e, offset, handle, width * count)
    e.line(f"store_elements({block}, {offset}, {width}, {words})")


# -- kernel -----------------------------------------------------------------------------------

for _instruction in INSTRUCTIONS:
    if _instruction.kernel_only:
        # Only the kernel's executor can do it; no user program that was verified has it.
        EMITTERS[_instruction.key] = Emitter.invalid
