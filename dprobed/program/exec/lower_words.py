"""Lowers the instructions on words: variables, arithmetic, the stack, registers, memory, system.

Every function below lowers one instruction, or a family of them. An instruction that fails has
popped its operands, and has done and pushed nothing (but `log str` and `log mrf`, which have logged
what they could read).
"""

from __future__ import annotations

from typing import Final

from dprobed.program.blocks import Step
from dprobed.program.exceptions import OPERAND_BIT, ExCode
from dprobed.program.exec import ir
from dprobed.program.exec.ir import Base, Depth, Fact, Space, Word, WordOp
from dprobed.program.exec.lower_table import SIZES, SPACES, lowers, variable_count
from dprobed.program.exec.lowering import UNROLL, Lowering
from dprobed.program.isa import STACK_WORDS, WORD_BITS, WORD_MASK
from dprobed.program.registers import REGISTER_INDEX, REGISTERS

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


@lowers(*(f"{name},index" for name in _VARIABLE_NAMES))
def _variable_index(to: Lowering, step: Step) -> None:
    verb, kind = step.instruction.name.split()
    _access_variable(to, verb, SPACES[kind][0], step.operands[0])


@lowers(*_VARIABLE_NAMES)
def _variable(to: Lowering, step: Step) -> None:
    verb, kind = step.instruction.name.split()
    space, operand = SPACES[kind]
    value = to.pop() if verb == "pop" else None
    index = to.pop()
    fault = to.fault(ExCode.INVALID_OPERAND, operand, index)
    count = variable_count(to, space)
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


@lowers(*_BINARY)
def _binary(to: Lowering, step: Step) -> None:
    right, left = to.pop(), to.pop()
    to.push(to.compute(_BINARY[step.instruction.name], left, right))


@lowers("neg")
def _neg(to: Lowering, step: Step) -> None:
    to.push(to.compute(WordOp.XOR, to.pop(), WORD_MASK))


@lowers("div", "idiv")
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


@lowers(*_SHIFTS)
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


@lowers(*(f"{name} bits" for name in _SHIFTS), *(f"{name} bit" for name in _BIT_OPS))
def _by_operand(to: Lowering, step: Step) -> None:
    op = (_SHIFTS | _BIT_OPS)[step.instruction.name]
    to.push(to.compute(op, to.pop(), step.operands[0]))


@lowers(*_BIT_OPS)
def _bit(to: Lowering, step: Step) -> None:
    operand, bit = to.pop(), to.pop()
    to.guard(bit, 1, WORD_BITS, ExCode.INVALID_OPERAND, OPERAND_BIT, bit)
    to.push(to.compute(_BIT_OPS[step.instruction.name], operand, bit))


# -- stack ------------------------------------------------------------------------------------


@lowers("xchg")
def _xchg(to: Lowering, step: Step) -> None:
    top, next_ = to.pop(), to.pop()
    to.push(top)
    to.push(next_)


@lowers("dup count")
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


@lowers("dup")
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


@lowers("ros count")
def _ros(to: Lowering, step: Step) -> None:
    to.drop(step.operands[0])


def _slot(step: Step, offset: Word) -> tuple[Base, int, Word | None]:
    """The place of the stack word at an offset from SBP or from TOS."""
    base, plus = (Base.FRAME, 0) if step.instruction.name.endswith("sbp") else (Base.DEPTH, -1)
    return (base, plus + offset, None) if isinstance(offset, int) else (base, plus, offset)


@lowers("push sbp,slot", "push tsp,slot", "push sbp", "push tsp")
def _push_slot(to: Lowering, step: Step) -> None:
    if to.static:
        to.push(to.at_slot(step))
        return
    offset = step.operands[0] if step.operands else to.pop()
    to.flush()
    result = to.new()
    to.add(ir.StackLoad(result, *_slot(step, offset)))
    to.push(result)


@lowers("copy sbp,slot", "copy tsp,slot", "copy sbp", "copy tsp")
def _copy_slot(to: Lowering, step: Step) -> None:
    if to.static:
        to.set_slot(step, pops=False)
        return
    offset = step.operands[0] if step.operands else to.pop()
    word = to.top()
    to.flush()
    to.add(ir.StackStore(word, *_slot(step, offset)))


@lowers("pop sbp,slot", "pop tsp,slot", "pop sbp", "pop tsp")
def _pop_slot(to: Lowering, step: Step) -> None:
    if to.static:
        to.set_slot(step, pops=True)
        return
    word = to.pop()
    offset = step.operands[0] if step.operands else to.pop()
    to.push(word)
    to.flush()
    to.add(ir.StackStore(word, *_slot(step, offset)))
    to.drop(1)


@lowers("save sbp")
def _save_sbp(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.ReadFrameBase(result))
    to.push(result)


@lowers("restore sbp")
def _restore_sbp(to: Lowering, step: Step) -> None:
    to.add(ir.SetFrameBase(to.pop()))


@lowers("save tsp")
def _save_tsp(to: Lowering, step: Step) -> None:
    to.push(to.compute(WordOp.AND, to.depth(), STACK_WORDS - 1))


@lowers("restore tsp")
def _restore_tsp(to: Lowering, step: Step) -> None:
    depth = to.pop()
    to.flush()
    to.add(ir.SetDepth(depth))
    to.depth_is_unknown()


# -- registers and data -----------------------------------------------------------------------

#: In rflags; a thread that goes on with it set traps at its next instruction, and dies of that.
_FS_BASE: Final = REGISTERS[REGISTER_INDEX["fs_base"]]
_TRAP_FLAG: Final = 0x100


@lowers("push r,register", "push u,register")
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


@lowers("push addr,symbol", "push tls,symbol")
def _push_symbol(to: Lowering, step: Step) -> None:
    value = to.new()
    to.add(ir.ReadSymbol(value, step.operands[0]))
    if step.instruction.name == "push tls":
        base = to.new()
        to.add(ir.ReadRegister(base, _FS_BASE.user_index, (1 << _FS_BASE.bits) - 1))
        to.push(to.compute(WordOp.ADD, base, value))
    else:
        to.push(value)


@lowers("pop r,register", "pop u,register")
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


@lowers("push word")
def _push_word(to: Lowering, step: Step) -> None:
    to.push(step.operands[0])


@lowers(*(f"push mem,{size}" for size in SIZES))
def _push_memory(to: Lowering, step: Step) -> None:
    address, result = to.pop(), to.new()
    fault = to.fault(ExCode.INVALID_ADDR, address)
    to.add(ir.Load(result, address, step.instruction.width, fault))
    to.push(result)


@lowers(*(f"pop mem,{size}" for size in SIZES))
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


@lowers(*_FACTS)
def _system(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.ReadFact(result, _FACTS[step.instruction.name]))
    to.push(result)


@lowers("push wid")
def _push_wid(to: Lowering, step: Step) -> None:
    to.push((1 << WORD_BITS) - WORD_BITS)


@lowers("push comm")
def _push_comm(to: Lowering, step: Step) -> None:
    low, high = to.new(), to.new()
    to.add(ir.ReadName(low, high))
    to.push(high)
    to.push(low)


@lowers("vfy r", "vfy rw")
def _vfy(to: Lowering, step: Step) -> None:
    address, result = to.pop(), to.new()
    to.add(ir.CheckAccess(result, address, step.instruction.name == "vfy rw"))
    to.push(result)
