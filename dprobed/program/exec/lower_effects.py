"""Lowers the instructions of control flow, the log, exceptions and the heap.

Every function below lowers one instruction, or a family of them. An instruction that fails has
popped its operands, and has done and pushed nothing (but `log str` and `log mrf`, which have logged
what they could read).
"""

from __future__ import annotations

from typing import Final

from dprobed.program.blocks import Step
from dprobed.program.exceptions import FATAL_EX_MASK, OPERAND_FACILITY, ExCode
from dprobed.program.exec import ir
from dprobed.program.exec.ir import Depth, Shown, Test, TopWords, Word, WordOp
from dprobed.program.exec.lower_table import LOWERINGS, SIZES, SPACES, lowers, variable_count
from dprobed.program.exec.lowering import FRAME_COST, UNROLL, Lowering
from dprobed.program.exits import ABORT, DUMP_ONCE, EXIT, REM
from dprobed.program.isa import BY_KEY, INSTRUCTIONS
from dprobed.program.items import value_frame
from dprobed.program.user_stack import USUAL_FRAMES
from dprobed.program.values import KIND_NUMBERS

# -- control ----------------------------------------------------------------------------------


@lowers("nop")
def _nop(to: Lowering, step: Step) -> None:
    pass


@lowers("jmp label")
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


@lowers(*(f"{name} label" for name in _TESTS))
def _branch(to: Lowering, step: Step) -> None:
    word = to.leave_block_for_test()
    test, target = _TESTS[step.instruction.name], to.number[step.operands[0]]
    to.end(ir.Branch(test, word, to.count_jump(), target, to.number[step.next]))


@lowers("loop label")
def _loop(to: Lowering, step: Step) -> None:
    count = to.count_jump()
    if count is not None:
        to.add(count)
    to.push(to.compute(WordOp.SUB, to.pop(), 1))
    word = to.leave_block_for_test()
    to.end(ir.Branch(Test.NE, word, None, to.number[step.operands[0]], to.number[step.next]))


@lowers("call label")
def _call(to: Lowering, step: Step) -> None:
    to.leave_block()
    target = step.operands[0]
    called, returns = to.code_offset(target), to.code_offset(step.next)
    fault = to.fault(ExCode.CALL_STACK_OVERFLOW, called)
    to.end(ir.Call(to.number[target], called, to.number[step.next], returns, fault))


@lowers("ret")
def _ret(to: Lowering, step: Step) -> None:
    to.leave_block()
    to.end(ir.Return(to.fault(ExCode.CALL_STACK_OVERFLOW)))


@lowers("abort")
def _abort(to: Lowering, step: Step) -> None:
    to.end(ir.End(ABORT, logged=False))


@lowers("rem")
def _rem(to: Lowering, step: Step) -> None:
    to.end(ir.End(REM))


@lowers("exit")
def _exit(to: Lowering, step: Step) -> None:
    to.end(ir.End(EXIT))


@lowers("exit facility", "exit facility once")
def _exit_facility(to: Lowering, step: Step) -> None:
    number = to.unit.facilities[step.operands[0]]
    fault = to.fault(ExCode.INVALID_OPERAND, OPERAND_FACILITY, number)
    to.add(ir.GuardFacility(number, fault))
    to.end(ir.End(DUMP_ONCE if step.instruction.suffix else number))


@lowers("suspend")
def _suspend(to: Lowering, step: Step) -> None:
    to.add(ir.Suspend())


@lowers("resume")
def _resume(to: Lowering, step: Step) -> None:
    to.add(ir.Resume())


# -- log --------------------------------------------------------------------------------------


@lowers("setmin index", "setmin", "setmaj index", "setmaj")
def _set_number(to: Lowering, step: Step) -> None:
    word = step.operands[0] if step.operands else to.compute(WordOp.AND, to.pop(), 0xFFFF)
    to.add(ir.SetNumber(step.instruction.name == "setmaj", word))


@lowers("log str", "log mrf")
def _log_memory(to: Lowering, step: Step) -> None:
    address, length = to.pop(), to.pop()
    # A read costs what it may read, also when then nothing is logged of it.
    to.charge(length, 6, to.header.logmax)
    bad = to.new()
    fault = to.fault(ExCode.INVALID_ADDR, bad)
    string = step.instruction.name == "log str"
    to.add(ir.LogMemory(bad, string, address, length, to.overflow(), fault))


@lowers("log ustack", "log ustack,depth")
def _log_user_stack(to: Lowering, step: Step) -> None:
    depth = step.operands[0] if step.operands else USUAL_FRAMES
    # Also when there is no room for it.
    to.charge(FRAME_COST * depth, 0)
    to.add(ir.LogUserStack(depth, to.overflow()))


@lowers("log count")
def _log_count(to: Lowering, step: Step) -> None:
    count = step.operands[0]
    if to.static or count <= UNROLL:
        words = tuple(to.pop() for _ in range(count))
        to.add(ir.LogWords(words, to.overflow()))
        return
    to.flush()
    to.drop(count)
    to.add(ir.LogWords(TopWords(count), to.overflow()))


@lowers(*(key for key in BY_KEY if key.partition(",")[0].removeprefix("log ") in KIND_NUMBERS))
def _log_value(to: Lowering, step: Step) -> None:
    kind = KIND_NUMBERS[step.instruction.name.split()[1]]
    name = to.unit.names[step.operands[0]] if step.operands else ""
    before, behind = value_frame(kind, name)
    to.add(ir.LogValue(before, to.pop(), behind, to.overflow()))


@lowers("log")
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


@lowers("log lv", "log gv")
def _log_variables(to: Lowering, step: Step) -> None:
    space, operand = SPACES[step.instruction.name[-2:]]
    count, index, bad = to.pop(), to.pop(), to.new()
    fault = to.fault(ExCode.INVALID_OPERAND, operand, bad)
    to.add(ir.GuardRun(bad, index, count, variable_count(to, space), fault))
    to.charge(count, 3)
    to.add(ir.LogVariables(space, index, count, to.overflow()))


@lowers("push lp")
def _push_lp(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.LogLength(result))
    to.push(result)


@lowers("push plp")
def _push_plp(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.LastItem(result))
    to.push(result)


@lowers("pop lp")
def _pop_lp(to: Lowering, step: Step) -> None:
    to.add(ir.CutLog(to.pop()))


# -- exceptions -------------------------------------------------------------------------------


@lowers("sx label")
def _sx(to: Lowering, step: Step) -> None:
    target = step.operands[0]
    to.add(ir.SetHandler(to.number[target], to.code_offset(target)))


@lowers("ux")
def _ux(to: Lowering, step: Step) -> None:
    to.add(ir.ClearHandler())


@lowers("rx")
def _rx(to: Lowering, step: Step) -> None:
    code, parm1, parm2 = to.pop(), to.pop(), to.pop()
    raised = to.compute(WordOp.AND, code, to.unit.ex_mask | FATAL_EX_MASK)
    to.add(ir.Guard(raised, None, 0, to.fault(code, parm1, parm2)))


@lowers("push x")
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


@lowers("log st")
def _log_st(to: Lowering, step: Step) -> None:
    to.flush()
    to.add(ir.AppendTrace())


@lowers("purge st")
def _purge_st(to: Lowering, step: Step) -> None:
    to.add(ir.CutTrace(0))


_SHOWN: Final = {"lv": Shown.LOCALS, "gv": Shown.GLOBALS, "pv": Shown.STACK}


@lowers("trace lv", "trace gv", "trace pv")
def _trace(to: Lowering, step: Step) -> None:
    count, first = to.pop(), to.pop()
    to.add(ir.ShowInTraces(_SHOWN[step.instruction.name[-2:]], first, count))


@lowers("push stp")
def _push_stp(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.TraceLength(result))
    to.push(result)


@lowers("pop stp")
def _pop_stp(to: Lowering, step: Step) -> None:
    to.add(ir.CutTrace(to.pop()))


# -- heap -------------------------------------------------------------------------------------


@lowers("malloc")
def _malloc(to: Lowering, step: Step) -> None:
    size, result = to.pop(), to.new()
    to.add(ir.Allocate(result, size, to.fault(ExCode.HEAP_NOMEM, size)))
    to.charge(size, 6)
    to.push(result)


@lowers("free")
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


@lowers(*(f"pushh {size},count" for size in SIZES))
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


@lowers(*(f"poph {size},count" for size in SIZES))
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
