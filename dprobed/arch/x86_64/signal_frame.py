"""Signal frames (``struct rt_sigframe``), restart codes of system calls, sigaction layouts.

``struct rt_sigframe`` (arch/x86/include/asm/sigframe.h), from rsp at a handler's first instruction:
return address 8, uc_flags 8, uc_link 8, uc_stack 24, then the words of the mcontext.
"""

from __future__ import annotations

from typing import Final

_MCONTEXT: Final = 48
FRAME_RDI: Final = _MCONTEXT + 8 * 8
FRAME_RSI: Final = _MCONTEXT + 9 * 8
FRAME_RCX: Final = _MCONTEXT + 14 * 8
FRAME_RSP: Final = _MCONTEXT + 15 * 8
FRAME_RIP: Final = _MCONTEXT + 16 * 8

#: In rax when a signal interrupted a system call: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND,
#: ERESTART_RESTARTBLOCK (include/linux/errno.h).
RESTARTS: Final = frozenset((1 << 64) - number for number in (512, 513, 514, 516))

#: One of them: the kernel restarts the call unless a handler runs, and then it is EINTR.
ERESTARTNOHAND: Final = (1 << 64) - 514
#: Another, for which it makes another call (``restart_syscall``).
ERESTART_RESTARTBLOCK: Final = (1 << 64) - 516
EINTR: Final = (1 << 64) - 4

#: ``__restore_rt``: mov rax, 15 (rt_sigreturn); syscall. Unwinders know it by these bytes, too.
RESTORER_CODE: Final = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"
#: ``struct kernel_sigaction``: handler, flags, restorer, mask; and the flag for the third.
KERNEL_ACTION_SIZE: Final = 32
SA_RESTORER: Final = 0x0400_0000
SA_SIGINFO: Final = 4
#: libc's ``struct sigaction``: handler 0, mask 8 (128 bytes), flags 136.
LIBC_ACTION_MASK: Final = 8
LIBC_ACTION_FLAGS: Final = 136
