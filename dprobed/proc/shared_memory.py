"""Whether two processes share memory: have one address space, by ``vfork`` or CLONE_VM."""

from __future__ import annotations

import ctypes
from typing import Final

from dprobed.arch.x86_64.syscalls import SYS_KCMP

#: include/uapi/linux/kcmp.h
_KCMP_VM: Final = 1

_libc = ctypes.CDLL(None)


def shares_memory(one: int, other: int) -> bool:
    """Whether two processes have one address space (kcmp(2); false where the kernel has it not)."""
    return bool(_libc.syscall(SYS_KCMP, one, other, _KCMP_VM, 0, 0) == 0)
