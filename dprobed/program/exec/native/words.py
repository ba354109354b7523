"""Operations on words, registers, memory, variables and the stack as LLVM's representation."""

from __future__ import annotations

from typing import Final

from dprobed.arch.x86_64.fxsave import DEFAULT_MXCSR_MASK, MXCSR_MASK
from dprobed.program.exec import ir
from dprobed.program.exec.ir import Fact, Space, WordOp
from dprobed.program.exec.native.abi import Data, Flags, Hit, Needs
from dprobed.program.exec.native.code import Value, word
from dprobed.program.exec.native.emitter import FunctionEmitter, emits
from dprobed.program.isa import STACK_WORDS, WORD_BITS, WORD_MASK

_INDEX: Final = STACK_WORDS - 1
_PLAIN: Final = {
    WordOp.ADD: "add",
    WordOp.SUB: "sub",
    WordOp.MUL: "mul",
    WordOp.AND: "and_",
    WordOp.OR: "or_",
    WordOp.XOR: "xor",
}


@emits(ir.Compute)
def _compute(to: FunctionEmitter, op: ir.Compute) -> None:
    left, right = to.word(op.left), to.word(op.right)
    if op.op in _PLAIN:
        found = getattr(to.c.b, _PLAIN[op.op])(left, right)
    elif op.op in (WordOp.ROL, WordOp.ROR, WordOp.SHL, WordOp.SHR):
        found = _shifted(to, op.op, left, right)
    else:
        found = _spread(to, op.op, left, right)
    to.give(op.result, found)


def _shifted(to: FunctionEmitter, op: WordOp, left: Value, count: Value) -> Value:
    b = to.c.b
    # A shift by as many bits as a word has is undefined.
    by = b.and_(count, word(WORD_BITS - 1))
    if op in (WordOp.SHL, WordOp.SHR):
        shifted = b.shl(left, by) if op is WordOp.SHL else b.lshr(left, by)
        return to.c.choose(to.c.test("<", count, WORD_BITS), shifted, 0)
    back = b.and_(b.sub(word(WORD_BITS), by), word(WORD_BITS - 1))
    if op is WordOp.ROL:
        return b.or_(b.shl(left, by), b.lshr(left, back))
    return b.or_(b.lshr(left, by), b.shl(left, back))


def _spread(to: FunctionEmitter, op: WordOp, operand: Value, bit: Value) -> Value:
    b = to.c.b
    above = b.and_(b.sub(word(WORD_BITS), bit), word(WORD_BITS - 1))
    below = b.and_(b.sub(bit, word(1)), word(WORD_BITS - 1))
    match op:
        case WordOp.COPY_LEFT:
            return b.ashr(b.shl(operand, above), above)
        case WordOp.ZERO_LEFT:
            return b.lshr(b.shl(operand, above), above)
        case WordOp.ZERO_RIGHT:
            return b.shl(b.lshr(operand, below), below)
        case _:
            mask = b.sub(b.shl(word(1), below), word(1))
            is_set = b.trunc(b.lshr(operand, below), to.c.test("==", operand, 0).type)
            return to.c.choose(is_set, b.or_(operand, mask), b.and_(operand, b.not_(mask)))


@emits(ir.Divide)
def _divide(to: FunctionEmitter, op: ir.Divide) -> None:
    c, b = to.c, to.c.b
    dividend, divisor = to.word(op.dividend), to.word(op.divisor)
    if not op.signed:
        to.give(op.quotient, b.udiv(dividend, divisor))
        to.give(op.remainder, b.urem(dividend, divisor))
        return
    # By magnitude: the least number divided by -1 is a fault of the processor's.
    negative = c.test("s<", dividend, 0)
    opposite = c.test("s<", b.xor(dividend, divisor), 0)
    dividend = c.choose(negative, b.neg(dividend), dividend)
    divisor = c.choose(c.test("s<", divisor, 0), b.neg(divisor), divisor)
    quotient, remainder = b.udiv(dividend, divisor), b.urem(dividend, divisor)
    to.give(op.quotient, c.choose(opposite, b.neg(quotient), quotient))
    to.give(op.remainder, c.choose(negative, b.neg(remainder), remainder))


@emits(ir.Guard)
def _guard(to: FunctionEmitter, op: ir.Guard) -> None:
    c, b = to.c, to.c.b
    value = to.word(op.word)
    # A depth may be below 0, and is then below every bound.
    sign = "s" if isinstance(op.word, ir.Depth) else ""
    bad = []
    if op.low is not None:
        bad.append(c.test(f"{sign}<", value, op.low))
    if op.high is not None:
        high = to.word(op.high)
        bad.append(c.test(f"{sign}>", value, high))
        if isinstance(op.high, ir.Depth):
            bad.append(c.test("s<", high, 0))
    condition = bad[0]
    for each in bad[1:]:
        condition = b.or_(condition, each)
    to.fail_if(condition, op.fault)


@emits(ir.Fail)
def _fail(to: FunctionEmitter, op: ir.Fail) -> None:
    to.fail(op.fault)


# -- the thread -------------------------------------------------------------------------------

_FACTS: Final = {
    Fact.TID: (Hit.TID, Needs.TID),
    Fact.PID: (Hit.PID, Needs.PID),
    Fact.CPU: (Hit.CPU, Needs.CPU),
    Fact.NOW: (Hit.TIME, Needs.TIME),
}


#: The number of the system call that says it.
_ASKED: Final = {Fact.UID: (102, Needs.UID), Fact.GID: (104, Needs.GID)}


@emits(ir.ReadFact)
def _read_fact(to: FunctionEmitter, op: ir.ReadFact) -> None:
    if op.fact in _ASKED:
        number, need = _ASKED[op.fact]
        to.needs |= need
        to.give(op.result, to.c.b.and_(to.c.system_call(number), word(0xFFFF_FFFF)))
        return
    field, need = _FACTS[op.fact]
    to.needs |= need
    to.give(op.result, to.c.load(to.hit, field))


@emits(ir.ReadName)
def _read_name(to: FunctionEmitter, op: ir.ReadName) -> None:
    to.needs |= Needs.COMM
    name = to.c.call(to.library("name"))
    to.give(op.low, to.c.first(name))
    to.give(op.high, to.c.second(name))


@emits(ir.ReadRegister)
def _read_register(to: FunctionEmitter, op: ir.ReadRegister) -> None:
    to.reads |= 1 << op.index
    value = to.c.load(to.hit, Hit.REGS + 8 * op.index)
    to.give(op.result, value if op.mask == WORD_MASK else to.c.b.and_(value, word(op.mask)))


@emits(ir.WriteRegister)
def _write_register(to: FunctionEmitter, op: ir.WriteRegister) -> None:
    to.reads |= 1 << op.index
    to.writes |= 1 << op.index
    value = to.c.b.and_(to.word(op.word), word(op.mask))
    to.c.store(value, to.hit, Hit.REGS + 8 * op.index)


@emits(ir.ReadFxsave)
def _read_fxsave(to: FunctionEmitter, op: ir.ReadFxsave) -> None:
    to.needs |= Needs.FXSAVE
    image = to.c.load_pointer(to.hit, Hit.FXSAVE)
    to.give(op.result, to.c.load(image, op.offset, op.size))


@emits(ir.WriteFxsave)
def _write_fxsave(to: FunctionEmitter, op: ir.WriteFxsave) -> None:
    c, b = to.c, to.c.b
    to.needs |= Needs.FXSAVE | Needs.FLAGS
    image = c.load_pointer(to.hit, Hit.FXSAVE)
    value = to.word(op.word)
    if op.mxcsr:
        mask = c.load(image, MXCSR_MASK, 4)
        mask = c.choose(c.test("==", mask, 0), DEFAULT_MXCSR_MASK, mask)
        value = b.and_(b.and_(value, mask), word(0xFFFF))
    c.store(value, image, op.offset, op.size)
    _flag(to, Flags.FP_DIRTY)


def _flag(to: FunctionEmitter, flag: Flags) -> None:
    to.needs |= Needs.FLAGS
    to.c.set(to.flags, to.c.b.or_(to.c.get(to.flags), word(flag)))


@emits(ir.Suspend)
def _suspend(to: FunctionEmitter, op: ir.Suspend) -> None:
    _flag(to, Flags.SUSPEND)


@emits(ir.Resume)
def _resume(to: FunctionEmitter, op: ir.Resume) -> None:
    _flag(to, Flags.RESUME)


@emits(ir.Load)
def _load(to: FunctionEmitter, op: ir.Load) -> None:
    to.needs |= Needs.MEMORY
    read = to.library(f"read_{op.width}")
    found = to.c.call(read, to.hit, to.data, to.word(op.address))
    to.fail_if(to.c.test("==", to.c.second(found), 0), op.fault)
    to.give(op.result, to.c.first(found))


@emits(ir.Store)
def _store(to: FunctionEmitter, op: ir.Store) -> None:
    to.needs |= Needs.MEMORY | Needs.STORES
    write = to.library(f"write_{op.width}")
    done = to.c.call(write, to.hit, to.word(op.address), to.word(op.word))
    to.fail_if(to.c.test("==", done, 0), op.fault)


@emits(ir.CheckAccess)
def _check_access(to: FunctionEmitter, op: ir.CheckAccess) -> None:
    to.needs |= Needs.MEMORY
    found = to.c.call(to.library("read_1"), to.hit, to.data, to.word(op.address))
    to.give(op.result, to.c.b.xor(to.c.second(found), word(1)))


@emits(ir.ReadArgument)
def _read_argument(to: FunctionEmitter, op: ir.ReadArgument) -> None:
    to.needs |= Needs.MEMORY
    bad = to.c.variable(word(0))
    argument = to.library("argument")
    found = to.c.call(argument, to.hit, to.data, to.place, op.index, bad)
    to.give(op.address, to.c.get(bad))
    to.fail_if(to.c.test("==", to.c.second(found), 0), op.fault)
    to.give(op.result, to.c.first(found))


def _kept(to: FunctionEmitter, index: int) -> Value:
    to.needs |= Needs.KEPT
    return to.c.at(to.c.load_pointer(to.hit, Hit.KEPT), 8 * index)


@emits(ir.ReadKept)
def _read_kept(to: FunctionEmitter, op: ir.ReadKept) -> None:
    to.give(op.result, to.c.load(_kept(to, op.index)))


@emits(ir.WriteKept)
def _write_kept(to: FunctionEmitter, op: ir.WriteKept) -> None:
    to.c.store(to.word(op.word), _kept(to, op.index))


@emits(ir.ReadSymbol)
def _read_symbol(to: FunctionEmitter, op: ir.ReadSymbol) -> None:
    offset = Data.LOCALS + 8 * (to.header.vars + op.index)
    to.give(op.result, to.c.load(to.data, offset))


# -- variables --------------------------------------------------------------------------------


def _variable(to: FunctionEmitter, space: Space, index: ir.Word) -> Value:
    c = to.c
    first = (
        c.at(to.data, Data.LOCALS)
        if space is Space.LOCAL
        else c.load_pointer(to.data, Data.GLOBALS)
    )
    return c.at(first, c.b.shl(to.word(index), word(3)))


@emits(ir.ReadVariable)
def _read_variable(to: FunctionEmitter, op: ir.ReadVariable) -> None:
    place = _variable(to, op.space, op.index)
    to.give(op.result, to.c.load_whole(place))


@emits(ir.WriteVariable)
def _write_variable(to: FunctionEmitter, op: ir.WriteVariable) -> None:
    place = _variable(to, op.space, op.index)
    to.c.store_whole(to.word(op.word), place)


@emits(ir.AddToVariable)
def _add_to_variable(to: FunctionEmitter, op: ir.AddToVariable) -> None:
    place = _variable(to, op.space, op.index)
    to.c.b.atomic_rmw("add", place, word(op.number), "monotonic")


@emits(ir.GuardRun)
def _guard_run(to: FunctionEmitter, op: ir.GuardRun) -> None:
    c, b = to.c, to.c.b
    index, count = to.word(op.index), to.word(op.count)
    over = b.or_(c.test(">", index, op.size), c.test(">", count, b.sub(word(op.size), index)))
    to.give(op.bad, c.most(index, op.size))
    to.fail_if(b.and_(over, c.test("!=", count, 0)), op.fault)


# -- the stack --------------------------------------------------------------------------------


@emits(ir.StackLoad)
def _stack_load(to: FunctionEmitter, op: ir.StackLoad) -> None:
    to.give(op.result, to.load_stack(to.position(op.base, op.plus, op.index)))


@emits(ir.StackStore)
def _stack_store(to: FunctionEmitter, op: ir.StackStore) -> None:
    to.store_stack(to.position(op.base, op.plus, op.index), to.word(op.word))


@emits(ir.MoveDepth)
def _move_depth(to: FunctionEmitter, op: ir.MoveDepth) -> None:
    to.c.add_to(to.depth, word(op.words))


@emits(ir.DropWords)
def _drop_words(to: FunctionEmitter, op: ir.DropWords) -> None:
    c, b = to.c, to.c.b
    depth, count = c.get(to.depth), to.word(op.count)
    below = b.or_(c.test("s<", depth, 0), c.test(">", count, depth))
    left = b.sub(depth, count)
    c.set(to.depth, c.choose(below, b.and_(left, word(_INDEX)), left))


@emits(ir.SetDepth)
def _set_depth(to: FunctionEmitter, op: ir.SetDepth) -> None:
    to.c.set(to.depth, to.c.b.and_(to.word(op.word), word(_INDEX)))


@emits(ir.PushCopies)
def _push_copies(to: FunctionEmitter, op: ir.PushCopies) -> None:
    count, value = to.word(op.count), to.word(op.word)
    with to.c.each(count):
        to.store_stack(to.position(ir.Base.DEPTH, 0), value)
        to.c.add_to(to.depth, word(1))


@emits(ir.ReadFrameBase)
def _read_frame_base(to: FunctionEmitter, op: ir.ReadFrameBase) -> None:
    sbp = to.c.load(to.scratch, to.layout.sbp)
    to.give(op.result, to.c.b.and_(sbp, word(_INDEX)))


@emits(ir.SetFrameBase)
def _set_frame_base(to: FunctionEmitter, op: ir.SetFrameBase) -> None:
    sbp = to.c.b.and_(to.word(op.word), word(_INDEX))
    to.c.store(sbp, to.scratch, to.layout.sbp)


@emits(ir.MoveSlots)
def _move_slots(to: FunctionEmitter, op: ir.MoveSlots) -> None:
    words = [to.word(each) for each in op.words]
    for slot, value in zip(op.slots, words, strict=True):
        to.c.set(to.slot(slot.number), value)
