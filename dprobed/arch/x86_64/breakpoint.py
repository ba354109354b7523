"""Breakpoint and system call instructions, and the kernel's ``si_code`` for breakpoints."""

from __future__ import annotations

from typing import Final

#: One byte, so that no instruction is shorter; rip is behind it when the SIGTRAP comes.
INT3: Final = b"\xcc"
#: The instruction of a system call, and one that is always invalid (``ud2``).
SYSCALL: Final = b"\x0f\x05"
UD2: Final = b"\x0f\x0b"
#: ``si_code`` of a SIGTRAP (include/uapi/asm-generic/siginfo.h): by an ``int3``; what debuggers are
#: told of one; by a debug register.
SI_KERNEL: Final = 0x80
TRAP_BRKPT: Final = 1
TRAP_HWBKPT: Final = 4
