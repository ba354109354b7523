"""A wait status of ``waitpid``, decoded once into a value. Nothing else looks at its bits."""

from __future__ import annotations

import signal
from enum import Enum, auto
from typing import Final

import msgspec

from dprobed.arch.x86_64.python_ptrace import binding

PTRACE_EVENT_STOP = 128


class Kind(Enum):
    """Why ``waitpid`` returned for a thread (ptrace(2), "Stopped states")."""

    EXITED = auto()
    KILLED = auto()
    #: SIGTRAP: a breakpoint, a debug register, a single step, or a SIGTRAP that was sent.
    TRAP = auto()
    SIGNAL = auto()
    #: PTRACE_EVENT_STOP with a stopping signal: job control stopped the process.
    GROUP_STOP = auto()
    #: PTRACE_EVENT_STOP with SIGTRAP: our interrupt, a new child's first stop, or SIGCONT.
    STOP = auto()
    CLONE = auto()
    FORK = auto()
    VFORK = auto()
    EXEC = auto()
    #: Entry or exit of a system call, during a remote one (PTRACE_O_TRACESYSGOOD).
    SYSCALL = auto()
    #: A PTRACE_EVENT that we did not ask for.
    OTHER = auto()


class Stop(msgspec.Struct, frozen=True):
    """One stop, or the end, of a thread. ``value``: the exit code, or the signal."""

    kind: Kind
    value: int


_EVENTS: Final[dict[int, Kind]] = {
    binding.PTRACE_EVENT_CLONE: Kind.CLONE,
    binding.PTRACE_EVENT_FORK: Kind.FORK,
    binding.PTRACE_EVENT_VFORK: Kind.VFORK,
    binding.PTRACE_EVENT_EXEC: Kind.EXEC,
}


def decode(status: int) -> Stop:
    """The stop that a wait status says."""
    low = status & 0x7F
    if low == 0:
        return Stop(Kind.EXITED, (status >> 8) & 0xFF)
    if low != 0x7F:
        return Stop(Kind.KILLED, low)
    number = (status >> 8) & 0xFF
    event = status >> 16
    if event == PTRACE_EVENT_STOP:
        return Stop(Kind.STOP if number == signal.SIGTRAP else Kind.GROUP_STOP, number)
    if event:
        return Stop(_EVENTS.get(event, Kind.OTHER), number)
    if number == signal.SIGTRAP:
        return Stop(Kind.TRAP, number)
    return Stop(Kind.SYSCALL if number & 0x80 else Kind.SIGNAL, number)
