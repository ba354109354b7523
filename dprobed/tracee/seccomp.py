"""Seccomp filters of a stopped thread: whether they let it make a system call.

The kernel restarts a call with a time limit (``nanosleep``, ``poll``, ``futex``) as another one,
``restart_syscall``, which a filter may not know. A filter is a program of the classic BPF, which
the kernel shows to root (PTRACE_SECCOMP_GET_FILTER) and which is run here as the kernel runs it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from dprobed.arch.x86_64.registers import RIP, SYSCALL_ARGUMENTS
from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import PtraceError

#: One instruction: code, jumps if true and if false, operand (struct sock_filter).
Instruction = tuple[int, int, int, int]

# include/uapi/linux/seccomp.h, linux/audit.h
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF_0000
_LOG: Final = 0x7FFC_0000
_ACTION: Final = 0xFFFF_0000
_ARCH_X86_64: Final = 0xC000_003E
#: Filters of a thread at most that are looked at: a tower of many is nobody's but an attacker's.
_MOST: Final = 64
_WORD: Final = 0xFFFF_FFFF
# include/uapi/linux/bpf_common.h: the class of an instruction, and what the classes have.
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_CLASS: Final = 7
_MODE: Final = 0xE0
_IMM, _ABS, _MEM, _LEN = 0x00, 0x20, 0x60, 0x80
_OPERATION: Final = 0xF0
_DIV, _JA = 0x30, 0x00
_FROM_X: Final = 0x08
_RET_A: Final = 0x10
_TXA: Final = 0x80
_CELLS: Final = 16


def allows(tid: int, registers: Sequence[int], number: int) -> bool:
    """Whether a stopped thread with these registers may make a system call with their arguments.

    False also where we may not see its filters, or cannot follow them. Raises Gone.
    """
    found = procfs.status(tid)
    if found is None or not found.seccomp:
        return True
    if found.seccomp != _MODE_FILTER:
        return False
    arguments = [registers[index] for index in SYSCALL_ARGUMENTS]
    data = struct.pack("<IIQ6Q", number, _ARCH_X86_64, registers[RIP], *arguments)
    try:
        count = procfs.seccomp_filters(tid)
        if not 0 < count <= _MOST:
            return False
        filters = [ptrace.seccomp_filter(tid, index) for index in range(count)]
        return all(run(each, data) & _ACTION in (_ALLOW, _LOG) for each in filters)
    except (PtraceError, LookupError, ArithmeticError, ValueError):
        return False


def run(program: Sequence[Instruction], data: bytes) -> int:
    """What a filter returns for a system call (``struct seccomp_data``); raises LookupError,
    ValueError and ArithmeticError where it is none that the kernel would accept."""
    a = x = at = 0
    cells = [0] * _CELLS
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        kind = code & _CLASS
        operand = x if code & _FROM_X else k
        if kind == _LD:
            a = _loaded(code & _MODE, k, data, cells)
        elif kind == _LDX:
            x = _loaded(code & _MODE, k, data, cells)
        elif kind == _ST:
            cells[k] = a
        elif kind == _STX:
            cells[k] = x
        elif kind == _ALU:
            a = _computed(code & _OPERATION, a, operand)
        elif kind == _JMP:
            operation = code & _OPERATION
            if operation == _JA:
                at += k
            else:
                at += if_true if _COMPARISONS[operation](a, operand) else if_false
        elif kind == _RET:
            return a if code & _RET_A else k
        elif code & _TXA:
            a = x
        else:
            x = a


def _loaded(mode: int, k: int, data: bytes, cells: list[int]) -> int:
    if mode == _ABS:
        return int.from_bytes(data[k : k + 4], "little")
    if mode == _MEM:
        return cells[k]
    if mode == _LEN:
        return len(data)
    if mode == _IMM:
        return k
    raise ValueError("no mode of a seccomp filter's")


def _computed(operation: int, a: int, operand: int) -> int:
    if operation == _DIV:
        return a // operand
    return _RESULTS[operation](a, operand) & _WORD


_RESULTS: Final[dict[int, Callable[[int, int], int]]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << (b & 31),
    0x70: lambda a, b: a >> (b & 31),
    0x80: lambda a, b: -a,
    0xA0: lambda a, b: a ^ b,
}
_COMPARISONS: Final[dict[int, Callable[[int, int], bool]]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: bool(a & b),
}
