"""The ``syscall`` instructions of a file, and which system call each makes.

Which one is told where the function that it is in has put a number into ``eax`` last before it, in
the order of its code; so compilers and assemblers write it. Where the number comes from elsewhere
(the function ``syscall`` of libc) it is not known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

import msgspec
from iced_x86 import Code, Decoder, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register

from dprobed.arch.x86_64.breakpoint import SYSCALL
from dprobed.binary.file import Binary
from dprobed.binary.symbols import STT_FUNC, STT_GNU_IFUNC

_FUNCTIONS: Final = (STT_FUNC, STT_GNU_IFUNC)
#: Bytes before an instruction that are looked at, where no symbol says where its function begins.
_BEFORE: Final = 1 << 12
_SAYS: Final = (OpAccess.WRITE, OpAccess.READ_WRITE, OpAccess.COND_WRITE, OpAccess.READ_COND_WRITE)


class SystemCalls(msgspec.Struct, frozen=True):
    """Addresses of instructions; ``unknown``: of those that may make any system call."""

    by_number: dict[int, tuple[int, ...]]
    unknown: tuple[int, ...]


def system_calls(elf: Binary) -> SystemCalls:
    """Those of a file; raises LocationError."""
    # A label within a function begins none.
    starts = sorted({each.value for each in elf.symbols.code() if each.type in _FUNCTIONS})
    found: dict[int, list[int]] = {}
    unknown: list[int] = []
    for segment in elf.segments:
        if not segment.executable:
            continue
        code = elf.read(segment.offset, segment.file_size)
        for address, number in _instructions(code, segment.vaddr, starts):
            if number is None:
                unknown.append(address)
            else:
                found.setdefault(number, []).append(address)
    return SystemCalls({number: tuple(each) for number, each in found.items()}, tuple(unknown))


def _instructions(code: bytes, base: int, starts: list[int]) -> Iterator[tuple[int, int | None]]:
    """Address and number of each ``syscall`` that is an instruction, and not a part of one."""
    at = code.find(SYSCALL)
    while at >= 0:
        index = bisect_right(starts, base + at) - 1
        start = starts[index] - base if index >= 0 else 0
        start = max(start, at - _BEFORE, 0)
        is_one, number = _number(code[start : at + len(SYSCALL)], at - start)
        if is_one:
            yield base + at, number
        at = code.find(SYSCALL, at + len(SYSCALL))


def _number(code: bytes, last: int) -> tuple[bool, int | None]:
    """Whether an instruction begins at ``last``, and what ``eax`` is before it."""
    factory = InstructionInfoFactory()
    number: int | None = None
    for instruction in Decoder(64, code):
        if instruction.ip >= last:
            return instruction.ip == last, number
        if instruction.code in (Code.MOV_R32_IMM32, Code.MOV_RM64_IMM32) and (
            _full(instruction.op0_register) == Register.RAX
        ):
            number = instruction.immediate32
        elif _is_zeroed(instruction):
            number = 0
        elif any(
            _full(used.register) == Register.RAX and used.access in _SAYS
            for used in factory.info(instruction).used_registers()
        ):
            number = None
    return False, None


def _is_zeroed(instruction: Instruction) -> bool:
    """Whether it is ``xor eax,eax``."""
    return (
        instruction.code in (Code.XOR_R32_RM32, Code.XOR_RM32_R32)
        and instruction.op1_kind == OpKind.REGISTER
        and instruction.op0_register == instruction.op1_register == Register.EAX
    )


def _full(register: int) -> int:
    return Register.RAX if register in (Register.EAX, Register.AX, Register.AL) else register
