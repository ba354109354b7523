"""Whether two processes share memory: have one address space, by ``vfork`` or CLONE_VM."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

#: include/uapi/linux/kcmp.h
_KCMP_VM: Final = 1


@cache
def _kcmp() -> Callable[[int, int], int]:
    # Not before somebody asks: the daemon imports this module when it starts, and few daemons ask.
    import ctypes

    from dprobed.arch.x86_64.syscalls import SYS_KCMP

    call = ctypes.CDLL(None).syscall
    return lambda one, other: int(call(SYS_KCMP, one, other, _KCMP_VM, 0, 0))


def shares_memory(one: int, other: int) -> bool:
    """Whether two processes have one address space (kcmp(2); false where the kernel has it not)."""
    return _kcmp()(one, other) == 0
