"""Restartable sequences (rseq(2)), in which a thread updates data of its CPU without a lock.

The kernel moves a thread that it finds within one to the sequence's abort address, whenever the
thread was preempted or gets a signal: so at each stop of ours, too. But it looks only when the
thread returns to user space, and at where it is *then*: a thread that we have moved elsewhere in
the stop is taken for one that has left the sequence, whose registration is cleared. Moved back it
would go on with nobody to protect what it updates. So who moves a thread elsewhere aborts its
sequence first (``abort``), as the kernel would have.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from dprobed.arch.x86_64.paging import WORD
from dprobed.arch.x86_64.registers import RIP
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import Registers

#: Why no probe can be within one: it is begun anew after each stop, and would come to it again.
REASON: Final = (
    "it is in a restartable sequence (rseq), which begins anew after each stop and would never end"
)
#: Where ``struct rseq`` has the address of the descriptor of the sequence that is registered.
_REGISTERED: Final = 8
# struct rseq_cs (include/uapi/linux/rseq.h): version, flags, start, length, abort address.
_DESCRIPTOR: Final = struct.Struct("<IIQQQ")


def abort_address(read: Callable[[int, int], bytes], area: int, address: int) -> int:
    """Where a thread goes on that is stopped at ``address`` within its sequence; 0: it is in none.

    ``read``: reads its memory; ``area``: of its ``struct rseq``.
    """
    if not area:
        return 0
    at = int.from_bytes(read(area + _REGISTERED, 8), "little")
    if not at:
        return 0
    data = read(at, _DESCRIPTOR.size)
    if len(data) != _DESCRIPTOR.size:
        return 0
    version, _, start, length, to = _DESCRIPTOR.unpack(data)
    return to if not version and (address - start & WORD) < length else 0


def unregister(write: Callable[[int, bytes], bool], area: int) -> bool:
    """Clear what a thread has registered, as the kernel does when it aborts a sequence."""
    return write(area + _REGISTERED, bytes(8))


def abort(
    tid: int,
    registers: Registers,
    read: Callable[[int, int], bytes],
    write: Callable[[int, bytes], bool],
) -> None:
    """Abort the sequence that a stopped thread is in, if it is in one; raises Gone."""
    area = ptrace.rseq_address(tid)
    if not area:
        return
    words = registers.load(tid)
    to = abort_address(read, area, words[RIP])
    if to and unregister(write, area):
        words[RIP] = to
        registers.store(tid)
