"""SIGTRAP's disposition in the kernel, read and set by system calls of a borrowed thread.

/proc says only whether a signal is caught or ignored.
"""

from __future__ import annotations

import logging
import signal
from typing import Final

from dprobed.arch.x86_64.registers import RSP
from dprobed.arch.x86_64.signal_frame import (
    KERNEL_ACTION_SIZE,
    LIBC_ACTION_FLAGS,
    LIBC_ACTION_MASK,
    SA_RESTORER,
)
from dprobed.arch.x86_64.syscalls import SYS_RT_SIGACTION
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.errors import SpaceError
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup

SIG_DFL: Final = 0
SIG_IGN: Final = 1
#: Below the red zone of a borrowed stack (System V ABI, 3.2.2).
_SCRATCH: Final = 512

_log = logging.getLogger(__name__)


def handler_of(action: bytes | None) -> int:
    """The handler of a ``struct kernel_sigaction``; 0: SIG_DFL."""
    return int.from_bytes(action[:8], "little") if action is not None else 0


def action_of_libc(space: AddressSpace, address: int, restorer: int) -> bytes | None:
    """What libc will give the kernel for its ``struct sigaction`` there; None: the default."""

    def word(offset: int, size: int = 8) -> int:
        return int.from_bytes(space.memory.peek(address + offset, size), "little")

    handler = word(0)
    if handler == SIG_DFL:
        return None
    flags = word(LIBC_ACTION_FLAGS, 4) | SA_RESTORER
    parts = (handler, flags, restorer, word(LIBC_ACTION_MASK))
    return b"".join(part.to_bytes(8, "little") for part in parts)


class Sigaction:
    """``rt_sigaction`` of SIGTRAP, for one target."""

    def __init__(self, group: ThreadGroup) -> None:
        self._group: Final = group
        self._registers: Final = Registers()

    def exchange(self, thread: Thread, space: AddressSpace, action: int) -> bytes | None:
        """Set the disposition to the one at this address (0: only look); returns the former, None
        if that failed. Raises Gone."""
        scratch, saved = self._scratch(thread, space)
        try:
            result = self._call(thread, action, scratch, space)
            before = space.memory.peek(scratch, KERNEL_ACTION_SIZE)
        finally:
            space.memory.poke(scratch, saved)
        return before if result == 0 and len(before) == KERNEL_ACTION_SIZE else None

    def store(self, thread: Thread, space: AddressSpace, action: bytes) -> None:
        """Set the disposition to this one. Raises Gone."""
        scratch, saved = self._scratch(thread, space)
        try:
            space.memory.poke(scratch, action)
            result = self._call(thread, scratch, 0, space)
            if result:
                _log.warning(
                    "process %d: SIGTRAP's handler could not be put back (%d)", space.tgid, result
                )
        finally:
            space.memory.poke(scratch, saved)

    def _scratch(self, thread: Thread, space: AddressSpace) -> tuple[int, bytes]:
        address = (self._registers.load(thread.tid)[RSP] - _SCRATCH) & ~15
        return address, space.memory.peek(address, KERNEL_ACTION_SIZE)

    def _call(self, thread: Thread, new: int, old: int, space: AddressSpace) -> int:
        try:
            return space.calls.call(
                self._group, thread, SYS_RT_SIGACTION, signal.SIGTRAP, new, old, 8
            )
        except SpaceError as error:
            _log.warning("process %d: SIGTRAP's handler: %s", space.tgid, error)
            return -1
