"""The kind of child that ``fork``, ``vfork``, ``clone`` or ``clone3`` is making."""

from __future__ import annotations

from typing import Final, NamedTuple

from dprobed.arch.x86_64.registers import CS, ORIG_RAX, RDI, USER_CODE_32
from dprobed.arch.x86_64.syscalls import SYS_CLONE, SYS_CLONE3, SYS_VFORK
from dprobed.tracee import memory
from dprobed.tracee.ptrace import Registers

# include/uapi/linux/sched.h
_CLONE_VM: Final = 0x100
_CLONE_THREAD: Final = 0x10000


class Child(NamedTuple):
    """Whether a child shares its parent's memory, and whether it is a thread of its parent's."""

    shares_memory: bool
    is_thread: bool


def child_of(parent: int, registers: Registers) -> Child:
    """The kind of child of a thread that is in a clone, fork or vfork event; raises Gone.

    It is inside its system call, so its registers, which are loaded into ``registers``, still tell
    the arguments.
    """
    words = registers.load(parent)
    number = words[ORIG_RAX]
    if words[CS] == USER_CODE_32:
        return Child(shares_memory=False, is_thread=False)
    if number == SYS_VFORK:
        return Child(shares_memory=True, is_thread=False)
    if number == SYS_CLONE:
        flags = words[RDI]
    elif number == SYS_CLONE3:
        # The first word of its ``struct clone_args``.
        flags = int.from_bytes(memory.read_present(parent, words[RDI], 8), "little")
    else:
        flags = 0
    return Child(bool(flags & _CLONE_VM), bool(flags & _CLONE_THREAD))
