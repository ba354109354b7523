"""The general registers of a thread as ptrace hands them over, and the CPU's debug registers.

The order is that of python-ptrace's ``user_regs_struct`` (arch/x86/include/asm/user_64.h): the
index of a name in ``REGISTER_NAMES`` is the index of its word.
"""

from __future__ import annotations

import ctypes
from typing import Final

from dprobed.arch.x86_64.python_ptrace import structures

REGISTER_NAMES: Final[tuple[str, ...]] = tuple(
    name for name, _ in structures.user_regs_struct._fields_
)
#: Bytes of ``struct user_regs_struct``.
REGISTERS_SIZE: Final[int] = ctypes.sizeof(structures.user_regs_struct)
#: Bytes of the FXSAVE image (Intel SDM vol. 1, table 10-2).
FPREGS_SIZE: Final[int] = ctypes.sizeof(structures.user_fpregs_struct)

R10: Final = REGISTER_NAMES.index("r10")
R9: Final = REGISTER_NAMES.index("r9")
R8: Final = REGISTER_NAMES.index("r8")
R11: Final = REGISTER_NAMES.index("r11")
R14: Final = REGISTER_NAMES.index("r14")
RAX: Final = REGISTER_NAMES.index("rax")
RCX: Final = REGISTER_NAMES.index("rcx")
RDX: Final = REGISTER_NAMES.index("rdx")
RSI: Final = REGISTER_NAMES.index("rsi")
RDI: Final = REGISTER_NAMES.index("rdi")
ORIG_RAX: Final = REGISTER_NAMES.index("orig_rax")
RIP: Final = REGISTER_NAMES.index("rip")
CS: Final = REGISTER_NAMES.index("cs")
RSP: Final = REGISTER_NAMES.index("rsp")
FS_BASE: Final = REGISTER_NAMES.index("fs_base")

#: The registers in which a system call takes its arguments.
SYSCALL_ARGUMENTS: Final = (RDI, RSI, RDX, R10, R8, R9)
#: In ``orig_rax``: the thread is in no system call, so the kernel restarts none.
NO_SYSCALL: Final = 0xFFFF_FFFF_FFFF_FFFF
#: In ``cs``: the thread runs 32-bit code (``__USER32_CS``).
USER_CODE_32: Final = 0x23

#: Offset of ``u_debugreg`` in ``struct user`` (arch/x86/include/asm/user_64.h).
DEBUGREG_OFFSET: Final = 848
#: The note type (include/uapi/linux/elf.h) that names the XSAVE area in PTRACE_GETREGSET.
NT_X86_XSTATE: Final = 0x202
#: More bytes than the XSAVE area of any machine has.
XSTATE_ROOM: Final = 16384
