"""Bytecode into the intermediate representation: what each instruction of the table is made of.

Every function below lowers one instruction, or a family of them. An instruction that fails has
popped its operands, and has done and pushed nothing (but `log str` and `log mrf`, which have logged
what they could read).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dprobed.program.blocks import Step
from dprobed.program.exec import ir
from dprobed.program.exec.ir import Base, Depth, Fact, Shown, Space, Test, TopWords, Word, WordOp
from dprobed.program.exec.lowering import UNROLL, Lowering, Unit
from dprobed.program.exits import ABORT, EXIT, REM
from dprobed.program.isa import (
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

Lower = Callable[[Lowering, Step], None]

#: How each instruction is lowered, by its key.
LOWERINGS: Final[dict[str, Lower]] = {}


def lower(unit: Unit, static: bool = True) -> ir.Function:
    """The function of one probe; ``static`` false keeps its stack in memory in any case."""
    lowering = Lowering(unit, static)
    blocks = []
    for block in lowering.blocks:
        lowering.begin(block)
        for step in block.steps:
            lowering.check_wrap(step)
            lower_step(lowering, step)
        blocks.append(lowering.finish(block))
    return lowering.function(tuple(blocks))


def lower_step(to: Lowering, step: Step) -> None:
    """Lower one instruction."""
    LOWERINGS[step.instruction.key](to, step)


def _for(*keys: str) -> Callable[[Lower], Lower]:
    """Register a function for the instructions with these keys."""

    def register(function: Lower) -> Lower:
        for key in keys:
            assert key not in LOWERINGS, key
            LOWERINGS[key] = function
        return function

    return register


# -- control ----------------------------------------------------------------------------------


@_for("nop")
def _nop(to: Lowering, step: Step) -> None:
    pass


@_for("jmp label")
def _jmp(to: Lowering, step: Step) -> None:
    to.leave_block()
    count = to.count_jump()
    if count is not None:
        to.add(count)
    to.end(ir.Jump(to.number[step.operands[0]]))


_TESTS: Final = {
    "jlt": Test.LT,
    "jle": Test.LE,
    "jgt": Test.GT,
    "jge": Test.GE,
    "jz": Test.EQ,
    "jnz": Test.NE,
}


@_for(*(f"{name} label" for name in _TESTS))
def _branch(to: Lowering, step: Step) -> None:
    word = to.leave_block_for_test()
    test, target = _TESTS[step.instruction.name], to.number[step.operands[0]]
    to.end(ir.Branch(test, word, to.count_jump(), target, to.number[step.next]))


@_for("loop label")
def _loop(to: Lowering, step: Step) -> None:
    count = to.count_jump()
    if count is not None:
        to.add(count)
    to.push(to.compute(WordOp.SUB, to.pop(), 1))
    word = to.leave_block_for_test()
    to.end(ir.Branch(Test.NE, word, None, to.number[step.operands[0]], to.number[step.next]))


@_for("call label")
def _call(to: Lowering, step: Step) -> None:
    to.leave_block()
    target = step.operands[0]
    called, returns = to.code_offset(target), to.code_offset(step.next)
    fault = to.fault(ExCode.CALL_STACK_OVERFLOW, called)
    to.end(ir.Call(to.number[target], called, to.number[step.next], returns, fault))


@_for("ret")
def _ret(to: Lowering, step: Step) -> None:
    to.leave_block()
    to.end(ir.Return(to.fault(ExCode.CALL_STACK_OVERFLOW)))


@_for("abort")
def _abort(to: Lowering, step: Step) -> None:
    to.end(ir.End(ABORT, logged=False))


@_for("rem")
def _rem(to: Lowering, step: Step) -> None:
    to.end(ir.End(REM))


@_for("exit")
def _exit(to: Lowering, step: Step) -> None:
    to.end(ir.End(EXIT))


@_for("exit facility")
def _exit_facility(to: Lowering, step: Step) -> None:
    number = to.unit.facilities[step.operands[0]]
    fault = to.fault(ExCode.INVALID_OPERAND, OPERAND_FACILITY, number)
    to.add(ir.GuardFacility(number, fault))
    to.end(ir.End(number))


@_for("suspend")
def _suspend(to: Lowering, step: Step) -> None:
    to.add(ir.Suspend())


@_for("resume")
def _resume(to: Lowering, step: Step) -> None:
    to.add(ir.Resume())


# -- log --------------------------------------------------------------------------------------


@_for("setmin index", "setmin")
def _set_minor(to: Lowering, step: Step) -> None:
    to.add(ir.SetMinor(_record_number(to, step)))


@_for("setmaj index", "setmaj")
def _set_major(to: Lowering, step: Step) -> None:
    to.add(ir.SetMajor(_record_number(to, step)))


def _record_number(to: Lowering, step: Step) -> Word:
    return step.operands[0] if step.operands else to.compute(WordOp.AND, to.pop(), 0xFFFF)


@_for("log str", "log mrf")
def _log_memory(to: Lowering, step: Step) -> None:
    address, length = to.pop(), to.pop()
    # A read costs what it may read, also when then nothing is logged of it.
    to.charge(length, 6, to.header.logmax)
    bad = to.new()
    fault = to.fault(ExCode.INVALID_ADDR, bad)
    string = step.instruction.name == "log str"
    to.add(ir.LogMemory(bad, string, address, length, to.overflow(), fault))


@_for("log count")
def _log_count(to: Lowering, step: Step) -> None:
    count = step.operands[0]
    if to.static or count <= UNROLL:
        words = tuple(to.pop() for _ in range(count))
        to.add(ir.LogWords(words, to.overflow()))
        return
    to.flush()
    to.drop(count)
    to.add(ir.LogWords(TopWords(count), to.overflow()))


@_for("log")
def _log(to: Lowering, step: Step) -> None:
    count = to.pop()
    if to.wraps:
        most = to.depth()
        to.push(count)
        to.guard(count, None, most, ExCode.RPN_STACK_WRAP, Depth(0))
        to.drop(1)
    to.flush()
    to.add(ir.DropWords(count))
    to.depth_is_unknown()
    to.charge(count, 3, to.header.logmax >> 3)
    to.add(ir.LogStack(count, to.overflow()))


_SPACES: Final = {"lv": (Space.LOCAL, OPERAND_LOCAL), "gv": (Space.GLOBAL, OPERAND_GLOBAL)}


def _variable_count(to: Lowering, space: Space) -> int:
    return to.header.vars if space is Space.LOCAL else to.header.gvars


@_for("log lv", "log gv")
def _log_variables(to: Lowering, step: Step) -> None:
    space, operand = _SPACES[step.instruction.name[-2:]]
    count, index, bad = to.pop(), to.pop(), to.new()
    fault = to.fault(ExCode.INVALID_OPERAND, operand, bad)
    to.add(ir.GuardRun(bad, index, count, _variable_count(to, space), fault))
    to.charge(count, 3)
    to.add(ir.LogVariables(space, index, count, to.overflow()))


@_for("push lp")
def _push_lp(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.LogLength(result))
    to.push(result)


@_for("push plp")
def _push_plp(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.LastItem(result))
    to.push(result)


@_for("pop lp")
def _pop_lp(to: Lowering, step: Step) -> None:
    to.add(ir.CutLog(to.pop()))


# -- variables --------------------------------------------------------------------------------


def _access_variable(to: Lowering, verb: str, space: Space, index: Word) -> None:
    if verb == "push":
        result = to.new()
        to.add(ir.ReadVariable(result, space, index))
        to.push(result)
    elif verb in ("pop", "move"):
        to.add(ir.WriteVariable(space, index, to.pop() if verb == "pop" else to.top()))
    else:
        to.add(ir.AddToVariable(space, index, 1 if verb == "inc" else -1))


_VARIABLE_NAMES: Final = tuple(
    f"{verb} {kind}" for verb in ("push", "pop", "move", "inc", "dec") for kind in ("gv", "lv")
)


@_for(*(f"{name},index" for name in _VARIABLE_NAMES))
def _variable_index(to: Lowering, step: Step) -> None:
    verb, kind = step.instruction.name.split()
    _access_variable(to, verb, _SPACES[kind][0], step.operands[0])


@_for(*_VARIABLE_NAMES)
def _variable(to: Lowering, step: Step) -> None:
    verb, kind = step.instruction.name.split()
    space, operand = _SPACES[kind]
    value = to.pop() if verb == "pop" else None
    index = to.pop()
    fault = to.fault(ExCode.INVALID_OPERAND, operand, index)
    count = _variable_count(to, space)
    to.add(ir.Guard(index, None, count - 1, fault) if count else ir.Fail(fault))
    if value is not None:
        to.push(value)
    _access_variable(to, verb, space, index)


# -- arithmetic and bits ----------------------------------------------------------------------

_BINARY: Final = {
    "add": WordOp.ADD,
    "sub": WordOp.SUB,
    "mul": WordOp.MUL,
    "and": WordOp.AND,
    "or": WordOp.OR,
    "xor": WordOp.XOR,
}


@_for(*_BINARY)
def _binary(to: Lowering, step: Step) -> None:
    right, left = to.pop(), to.pop()
    to.push(to.compute(_BINARY[step.instruction.name], left, right))


@_for("neg")
def _neg(to: Lowering, step: Step) -> None:
    to.push(to.compute(WordOp.XOR, to.pop(), WORD_MASK))


@_for("div", "idiv")
def _div(to: Lowering, step: Step) -> None:
    divisor, dividend = to.pop(), to.pop()
    to.guard(divisor, 1, None, ExCode.DIV_BY_ZERO)
    quotient, remainder = to.new(), to.new()
    signed = step.instruction.name == "idiv"
    to.add(ir.Divide(quotient, remainder, dividend, divisor, signed))
    to.push(remainder)
    to.push(quotient)


_SHIFTS: Final = {
    "rol": WordOp.ROL,
    "ror": WordOp.ROR,
    "shl": WordOp.SHL,
    "shr": WordOp.SHR,
}


@_for(*(f"{name} bits" for name in _SHIFTS))
def _shift_bits(to: Lowering, step: Step) -> None:
    to.push(to.compute(_SHIFTS[step.instruction.name], to.pop(), step.operands[0]))


@_for(*_SHIFTS)
def _shift(to: Lowering, step: Step) -> None:
    op = _SHIFTS[step.instruction.name]
    operand, count = to.pop(), to.pop()
    if op in (WordOp.ROL, WordOp.ROR):
        count = to.compute(WordOp.AND, count, WORD_BITS - 1)
    to.push(to.compute(op, operand, count))


_BIT_OPS: Final = {
    "pbl": WordOp.COPY_LEFT,
    "pbr": WordOp.COPY_RIGHT,
    "pzl": WordOp.ZERO_LEFT,
    "pzr": WordOp.ZERO_RIGHT,
}


@_for(*(f"{name} bit" for name in _BIT_OPS))
def _bit_immediate(to: Lowering, step: Step) -> None:
    to.push(to.compute(_BIT_OPS[step.instruction.name], to.pop(), step.operands[0]))


@_for(*_BIT_OPS)
def _bit(to: Lowering, step: Step) -> None:
    operand, bit = to.pop(), to.pop()
    to.guard(bit, 1, WORD_BITS, ExCode.INVALID_OPERAND, OPERAND_BIT, bit)
    to.push(to.compute(_BIT_OPS[step.instruction.name], operand, bit))


# -- stack ------------------------------------------------------------------------------------


@_for("xchg")
def _xchg(to: Lowering, step: Step) -> None:
    top, next_ = to.pop(), to.pop()
    to.push(top)
    to.push(next_)


@_for("dup count")
def _dup_count(to: Lowering, step: Step) -> None:
    count = step.operands[0]
    word = to.top()
    if to.static or count <= UNROLL:
        for _ in range(count):
            to.push(word)
        return
    to.flush()
    to.add(ir.PushCopies(count, word))
    to.moved(count)


@_for("dup")
def _dup(to: Lowering, step: Step) -> None:
    word, count = to.pop(), to.pop()
    copies = to.compute(WordOp.ADD, to.compute(WordOp.AND, count, 0xFF), 1)
    if to.wraps:
        depth = to.compute(WordOp.ADD, copies, to.depth())
        to.push(count)
        to.push(word)
        to.guard(depth, None, STACK_WORDS, ExCode.RPN_STACK_WRAP, Depth(0))
        to.drop(2)
    to.flush()
    to.add(ir.PushCopies(copies, word))
    to.charge(copies, 3)
    to.depth_is_unknown()


@_for("ros count")
def _ros(to: Lowering, step: Step) -> None:
    to.drop(step.operands[0])


def _slot(step: Step, offset: Word) -> tuple[Base, int, Word | None]:
    """The place of the stack word at an offset from SBP or from TOS."""
    base, plus = (Base.FRAME, 0) if step.instruction.name.endswith("sbp") else (Base.DEPTH, -1)
    return (base, plus + offset, None) if isinstance(offset, int) else (base, plus, offset)


@_for("push sbp,slot", "push tsp,slot", "push sbp", "push tsp")
def _push_slot(to: Lowering, step: Step) -> None:
    offset = step.operands[0] if step.operands else to.pop()
    to.flush()
    result = to.new()
    to.add(ir.StackLoad(result, *_slot(step, offset)))
    to.push(result)


@_for("copy sbp,slot", "copy tsp,slot", "copy sbp", "copy tsp")
def _copy_slot(to: Lowering, step: Step) -> None:
    offset = step.operands[0] if step.operands else to.pop()
    word = to.top()
    to.flush()
    to.add(ir.StackStore(word, *_slot(step, offset)))


@_for("pop sbp,slot", "pop tsp,slot", "pop sbp", "pop tsp")
def _pop_slot(to: Lowering, step: Step) -> None:
    word = to.pop()
    offset = step.operands[0] if step.operands else to.pop()
    to.push(word)
    to.flush()
    to.add(ir.StackStore(word, *_slot(step, offset)))
    to.drop(1)


@_for("save sbp")
def _save_sbp(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.ReadFrameBase(result))
    to.push(result)


@_for("restore sbp")
def _restore_sbp(to: Lowering, step: Step) -> None:
    to.add(ir.SetFrameBase(to.pop()))


@_for("save tsp")
def _save_tsp(to: Lowering, step: Step) -> None:
    to.push(to.compute(WordOp.AND, to.depth(), STACK_WORDS - 1))


@_for("restore tsp")
def _restore_tsp(to: Lowering, step: Step) -> None:
    depth = to.pop()
    to.flush()
    to.add(ir.SetDepth(depth))
    to.depth_is_unknown()


# -- registers and data -----------------------------------------------------------------------

#: In rflags; a thread that goes on with it set traps at its next instruction, and dies of that.
_TRAP_FLAG: Final = 0x100


@_for("push r,register", "push u,register")
def _push_register(to: Lowering, step: Step) -> None:
    register = REGISTERS[step.operands[0]]
    if register.kernel_only:
        to.invalid(step)
    elif register.fxsave:
        for offset, size in reversed(register.fxsave):
            result = to.new()
            to.add(ir.ReadFxsave(result, offset, size))
            to.push(result)
    else:
        result = to.new()
        to.add(ir.ReadRegister(result, register.user_index, (1 << register.bits) - 1))
        to.push(result)


@_for("pop r,register", "pop u,register")
def _pop_register(to: Lowering, step: Step) -> None:
    register = REGISTERS[step.operands[0]]
    if not register.may_pop(kernel=False):
        to.invalid(step)
    elif register.fxsave:
        for offset, size in register.fxsave:
            to.add(ir.WriteFxsave(offset, size, to.pop(), register.name == "mxcsr"))
    else:
        mask = (1 << register.bits) - 1
        if "rflags" in (register.name, register.part_of):
            mask &= ~_TRAP_FLAG
        to.add(ir.WriteRegister(register.user_index, to.pop(), mask))


@_for("push word")
def _push_word(to: Lowering, step: Step) -> None:
    to.push(step.operands[0])


_SIZES: Final = ("u8", "u16", "u32", "u64")


@_for(*(f"push mem,{size}" for size in _SIZES))
def _push_memory(to: Lowering, step: Step) -> None:
    address, result = to.pop(), to.new()
    fault = to.fault(ExCode.INVALID_ADDR, address)
    to.add(ir.Load(result, address, step.instruction.width, fault))
    to.push(result)


@_for(*(f"pop mem,{size}" for size in _SIZES))
def _pop_memory(to: Lowering, step: Step) -> None:
    width = step.instruction.width
    value, address = to.pop(), to.pop()
    if 8 * width < WORD_BITS:
        value = to.compute(WordOp.AND, value, (1 << 8 * width) - 1)
    fault = to.fault(ExCode.INVALID_ADDR, address)
    to.add(ir.Store(address, value, width, fault))


# -- system and checking ----------------------------------------------------------------------

_FACTS: Final = {
    "push task": Fact.TID,
    "push tid": Fact.TID,
    "push pid": Fact.PID,
    "push uid": Fact.UID,
    "push gid": Fact.GID,
    "push procid": Fact.CPU,
    "push time": Fact.NOW,
}


@_for(*_FACTS)
def _system(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.ReadFact(result, _FACTS[step.instruction.name]))
    to.push(result)


@_for("push wid")
def _push_wid(to: Lowering, step: Step) -> None:
    to.push((1 << WORD_BITS) - WORD_BITS)


@_for("push comm")
def _push_comm(to: Lowering, step: Step) -> None:
    low, high = to.new(), to.new()
    to.add(ir.ReadName(low, high))
    to.push(high)
    to.push(low)


@_for("vfy r", "vfy rw")
def _vfy(to: Lowering, step: Step) -> None:
    address, result = to.pop(), to.new()
    to.add(ir.CheckAccess(result, address, step.instruction.name == "vfy rw"))
    to.push(result)


# -- exceptions -------------------------------------------------------------------------------


@_for("sx label")
def _sx(to: Lowering, step: Step) -> None:
    target = step.operands[0]
    to.add(ir.SetHandler(to.number[target], to.code_offset(target)))


@_for("ux")
def _ux(to: Lowering, step: Step) -> None:
    to.add(ir.ClearHandler())


@_for("rx")
def _rx(to: Lowering, step: Step) -> None:
    code, parm1, parm2 = to.pop(), to.pop(), to.pop()
    raised = to.compute(WordOp.AND, code, to.unit.ex_mask | FATAL_EX_MASK)
    to.add(ir.Guard(raised, None, 0, to.fault(code, parm1, parm2)))


@_for("push x")
def _push_x(to: Lowering, step: Step) -> None:
    if to.static:
        # An exception ends such a program: there cannot have been one.
        for _ in range(3):
            to.push(0)
        return
    code, parm1, parm2 = to.new(), to.new(), to.new()
    to.add(ir.LastException(code, parm1, parm2))
    for word in (parm2, parm1, code):
        to.push(word)


@_for("log st")
def _log_st(to: Lowering, step: Step) -> None:
    to.flush()
    to.add(ir.AppendTrace())


@_for("purge st")
def _purge_st(to: Lowering, step: Step) -> None:
    to.add(ir.CutTrace(0))


_SHOWN: Final = {"lv": Shown.LOCALS, "gv": Shown.GLOBALS, "pv": Shown.STACK}


@_for("trace lv", "trace gv", "trace pv")
def _trace(to: Lowering, step: Step) -> None:
    count, first = to.pop(), to.pop()
    to.add(ir.ShowInTraces(_SHOWN[step.instruction.name[-2:]], first, count))


@_for("push stp")
def _push_stp(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.TraceLength(result))
    to.push(result)


@_for("pop stp")
def _pop_stp(to: Lowering, step: Step) -> None:
    to.add(ir.CutTrace(to.pop()))


# -- heap -------------------------------------------------------------------------------------


@_for("malloc")
def _malloc(to: Lowering, step: Step) -> None:
    size, result = to.pop(), to.new()
    to.add(ir.Allocate(result, size, to.fault(ExCode.HEAP_NOMEM, size)))
    to.charge(size, 6)
    to.push(result)


@_for("free")
def _free(to: Lowering, step: Step) -> None:
    handle = to.pop()
    to.add(ir.Free(handle, to.fault(ExCode.HEAP_INVALID_HANDLE, handle)))


def _heap_place(to: Lowering, step: Step, handle: Word, offset: Word) -> ir.HeapPlace:
    return ir.HeapPlace(
        handle,
        offset,
        step.instruction.width,
        step.operands[0],
        to.fault(ExCode.HEAP_INVALID_HANDLE, handle, offset),
        to.fault(ExCode.HEAP_INVALID_OFFSET, handle, offset),
    )


@_for(*(f"pushh {size},count" for size in _SIZES))
def _pushh(to: Lowering, step: Step) -> None:
    count = step.operands[0]
    offset, handle = to.pop(), to.pop()
    if to.static or count <= UNROLL:
        place = _heap_place(to, step, handle, offset)
        results = tuple(to.new() for _ in range(count))
        to.add(ir.HeapLoad(results, place))
        for result in reversed(results):
            to.push(result)
        return
    to.flush()
    to.add(ir.HeapPush(_heap_place(to, step, handle, offset)))
    to.moved(count)


@_for(*(f"poph {size},count" for size in _SIZES))
def _poph(to: Lowering, step: Step) -> None:
    count = step.operands[0]
    offset, handle = to.pop(), to.pop()
    words: ir.Words
    if to.static or count <= UNROLL:
        words = tuple(to.pop() for _ in range(count))
    else:
        to.flush()
        to.drop(count)
        words = TopWords(count)
    to.add(ir.HeapStore(words, _heap_place(to, step, handle, offset)))


# -- kernel -----------------------------------------------------------------------------------

for _instruction in INSTRUCTIONS:
    if _instruction.kernel_only:
        # Only the kernel's executor can do it; no user program that was verified has it.
        LOWERINGS[_instruction.key] = Lowering.invalid
