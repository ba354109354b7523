"""The exceptions of probe programs: their codes, and what comes with each."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec


class ExCode(IntEnum):
    """Exception codes; each is a bit, so that a set of them is a mask."""

    INVALID_ADDR = 0x1
    SEG_FAULT = 0x2
    MAX_JMPS = 0x4
    CALL_STACK_OVERFLOW = 0x10
    DIV_BY_ZERO = 0x20
    INVALID_OPERAND = 0x40
    INVALID_OPCODE = 0x80
    HEAP_NOMEM = 0x100
    HEAP_INVALID_HANDLE = 0x200
    HEAP_INVALID_OFFSET = 0x400
    LOG_OVERFLOW = 0x1000
    RPN_STACK_WRAP = 0x2000
    USER = 0x8000


class ExceptionInfo(msgspec.Struct, frozen=True):
    """What the triple of an exception means."""

    code: ExCode
    parm1: str
    parm2: str
    meaning: str


EXCEPTIONS: Final[tuple[ExceptionInfo, ...]] = (
    ExceptionInfo(ExCode.INVALID_ADDR, "the address", "0", "memory that cannot be accessed"),
    ExceptionInfo(
        ExCode.SEG_FAULT, "the selector", "the offset", "a bad segment (kernel programs only)"
    ),
    ExceptionInfo(ExCode.MAX_JMPS, "jmpmax", "0", "more jumps taken in one hit than jmpmax"),
    ExceptionInfo(
        ExCode.CALL_STACK_OVERFLOW,
        "the address called, or 0 for `ret`",
        "0",
        "more than 32 nested calls, or `ret` at the outermost level",
    ),
    ExceptionInfo(ExCode.DIV_BY_ZERO, "0", "0", "division by zero"),
    ExceptionInfo(
        ExCode.INVALID_OPERAND,
        "1 local, 2 global, 3 bit index, 4 facility, 5 string of a key, 6 hook, 7 register, 8 port",
        "the value",
        "an operand out of range at run time",
    ),
    ExceptionInfo(ExCode.INVALID_OPCODE, "the opcode", "0", "not an instruction"),
    ExceptionInfo(ExCode.HEAP_NOMEM, "the size asked for", "0", "no heap left for `malloc`"),
    ExceptionInfo(ExCode.HEAP_INVALID_HANDLE, "the handle", "the offset", "no such heap block"),
    ExceptionInfo(
        ExCode.HEAP_INVALID_OFFSET, "the handle", "the offset", "outside of the heap block"
    ),
    ExceptionInfo(ExCode.LOG_OVERFLOW, "logmax", "0", "the item does not fit into the log"),
    ExceptionInfo(
        ExCode.RPN_STACK_WRAP, "the depth", "0", "more than 1024 words pushed, or popped when empty"
    ),
    ExceptionInfo(ExCode.USER, "any", "any", "free for programs, raised by `rx`"),
)

#: INVALID_OPERAND's first parameter.
OPERAND_LOCAL: Final = 1
OPERAND_GLOBAL: Final = 2
OPERAND_BIT: Final = 3
OPERAND_FACILITY: Final = 4
OPERAND_KEY: Final = 5
OPERAND_HOOK: Final = 6
OPERAND_REGISTER: Final = 7
OPERAND_PORT: Final = 8

#: Which exceptions reach handlers unless a probe's ``ex_mask`` says otherwise; of the others, those
#: within this mask end the program and the rest are ignored.
DEFAULT_EX_MASK: Final = 0x0FFF
FATAL_EX_MASK: Final = 0x0FFF
