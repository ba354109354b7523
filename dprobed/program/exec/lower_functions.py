"""Lowers the instructions about a function: its arguments, and what is kept until it returns.

Arguments are where the System V calling convention has them when a function is entered; those of
a static probe, where its place says.
"""

from __future__ import annotations

from typing import Final

from dprobed.program.blocks import Step
from dprobed.program.exceptions import ExCode
from dprobed.program.exec import ir
from dprobed.program.exec.ir import WordOp
from dprobed.program.exec.lower_table import lowers
from dprobed.program.exec.lowering import Lowering
from dprobed.program.isa import WORD_MASK
from dprobed.program.registers import REGISTER_INDEX, REGISTERS, USER_REGS

_INTEGERS: Final = tuple(map(USER_REGS.index, ("rdi", "rsi", "rdx", "rcx", "r8", "r9")))
_RSP: Final = USER_REGS.index("rsp")


@lowers("push a,argument")
def _push_integer(to: Lowering, step: Step) -> None:
    number, result = step.operands[0], to.new()
    if to.unit.static_probe:
        address = to.new()
        to.add(ir.ReadArgument(result, number, address, to.fault(ExCode.INVALID_ADDR, address)))
    elif number < len(_INTEGERS):
        to.add(ir.ReadRegister(result, _INTEGERS[number], WORD_MASK))
    else:
        # The return address is on the top of the stack, the arguments behind it.
        to.add(ir.ReadRegister(result, _RSP, WORD_MASK))
        address = to.compute(WordOp.ADD, result, 8 * (number - len(_INTEGERS) + 1))
        result = to.new()
        to.add(ir.Load(result, address, 8, to.fault(ExCode.INVALID_ADDR, address)))
    to.push(result)


@lowers("push f,argument")
def _push_float(to: Lowering, step: Step) -> None:
    low, *_ = REGISTERS[REGISTER_INDEX[f"xmm{step.operands[0]}"]].fxsave
    result = to.new()
    to.add(ir.ReadFxsave(result, *low))
    to.push(result)


@lowers("push e,kept")
def _push_kept(to: Lowering, step: Step) -> None:
    result = to.new()
    to.add(ir.ReadKept(result, step.operands[0]))
    to.push(result)


@lowers("pop e,kept")
def _pop_kept(to: Lowering, step: Step) -> None:
    to.add(ir.WriteKept(step.operands[0], to.pop()))
