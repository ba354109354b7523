"""Which processes share memory: have one address space, by ``vfork`` or CLONE_VM."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from dprobed.proc import procfs

#: include/uapi/linux/kcmp.h
_KCMP_VM: Final = 1


@cache
def _kcmp() -> Callable[[int, int], int]:
    # Not before somebody asks: the daemon imports this module when it starts, and few daemons ask.
    import ctypes

    from dprobed.arch.x86_64.syscalls import SYS_KCMP

    call = ctypes.CDLL(None).syscall
    call.argtypes = [ctypes.c_long] * 6
    return lambda one, other: call(SYS_KCMP, one, other, _KCMP_VM, 0, 0)


def shares_memory(one: int, other: int) -> bool:
    """Whether two processes have one address space (kcmp(2); false where the kernel has it not)."""
    return _kcmp()(one, other) == 0


def relatives(pid: int) -> Iterator[int]:
    """The parent and the children of a process."""
    yield procfs.parent(pid)
    yield from procfs.children(pid)


def processes() -> Iterator[int]:
    """All processes. Who shares memory need not be a relative: CLONE_PARENT makes siblings, and
    one whose parent has ended is another's child."""
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdecimal():
                yield int(entry.name)


def sharers(tid: int, among: Iterator[int]) -> Iterator[int]:
    """Those of these processes that have a thread's memory; ``tid`` is alive.

    5 us for a process that does not; of a zombie leader, which has no memory itself, another thread
    is asked.
    """
    kcmp = _kcmp()
    for pid in among:
        compared = kcmp(tid, pid)
        if compared == 0 or (compared > 0 and kcmp(tid, _other_thread(pid)) == 0):
            yield pid


def _other_thread(pid: int) -> int:
    """The live thread of a process that may have a zombie leader; else 0."""
    try:
        # A folder's links: itself and "..", and one for each thread. Path.stat takes 18 us.
        alone = os.stat(f"/proc/{pid}/task").st_nlink <= 3  # noqa: PTH116
    except OSError:
        return 0
    live = pid if alone else procfs.live_thread(pid)
    return live if live != pid else 0
