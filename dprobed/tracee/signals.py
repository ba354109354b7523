"""Signals that an instruction raises about itself, and whether one is pending."""

from __future__ import annotations

import signal
from typing import Final

from dprobed.proc import procfs

#: They stay unblocked while a thread is borrowed: a blocked one would make the kernel reset its
#: handler (force_sig_info_to_task, kernel/signal.c).
SYNCHRONOUS: Final = frozenset(
    (
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGSYS,
    )
)
#: As sets in the kernel's form: bit n-1 is signal n.
SYNCHRONOUS_SET: Final = sum(1 << (number - 1) for number in SYNCHRONOUS)
ALL_BUT_SYNCHRONOUS_SET: Final = 0xFFFF_FFFF_FFFF_FFFF & ~SYNCHRONOUS_SET
SIGTRAP_SET: Final = 1 << (signal.SIGTRAP - 1)
#: What no mask has.
_NEVER_BLOCKED: Final = 1 << (signal.SIGKILL - 1) | 1 << (signal.SIGSTOP - 1)


def held_mask(mask: int) -> int:
    """The mask of a thread to which only what an instruction raises itself is to come.

    SIGTRAP among it: a blocked one would make the kernel reset its handler. ``mask``: its own.
    """
    return (mask | ALL_BUT_SYNCHRONOUS_SET) & ~SIGTRAP_SET & ~_NEVER_BLOCKED


def is_pending(tid: int, signals: int) -> bool:
    """Whether one of a set of signals is pending for this stopped thread, and not blocked."""
    found = procfs.status(tid)
    return found is not None and bool(found.pending & ~found.blocked & signals)


def trap_is_pending(tid: int) -> bool:
    """Whether a SIGTRAP is pending for this stopped thread, and not blocked."""
    return is_pending(tid, SIGTRAP_SET)
