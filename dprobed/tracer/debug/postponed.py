"""Signals that wait while a thread is stepped, so that its step gets somewhere.

A debugger that steps a thread is told of its signals, also of those that it wants to know nothing
of: it has the thread run through the handler, and steps on. That takes it longer than it takes a
timer to send the next signal, and it would never come to the end of a line. So such a signal waits
for the end of the step, or for a moment.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from dprobed.arch.x86_64.registers import ORIG_RAX
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Thread

#: Seconds for which a signal waits.
_MOMENT: Final = 0.05
#: Signals from here on are queued, each for itself (signal(7)).
_REALTIME: Final = 32


class _Signal(msgspec.Struct):
    number: int
    siginfo: bytes
    since: float
    sent: bool = False


class PostponedSignals:
    """At most one for each thread."""

    def __init__(self) -> None:
        self._waiting: Final[dict[int, _Signal]] = {}
        self._registers: Final = Registers()

    def postpone(self, thread: Thread) -> bool:
        """Have the signal that a thread is about to get wait; false: it is due. Raises Gone."""
        waiting = self._waiting.get(thread.tid)
        if waiting is not None:
            # As while it is blocked: one is as good as two.
            if waiting.number != thread.signal or waiting.number >= _REALTIME or waiting.sent:
                return False
        elif not self._registers.load(thread.tid)[ORIG_RAX] >> 63:
            return False  # a system call was interrupted, which may be what it is for
        else:
            info = thread.siginfo or ptrace.get_siginfo(thread.tid)
            self._waiting[thread.tid] = _Signal(thread.signal, info, time.monotonic())
        if time.monotonic() > self._waiting[thread.tid].since + _MOMENT:
            return False
        thread.signal, thread.siginfo = 0, None
        return True

    def resume(self, thread: Thread, *, steps: bool) -> None:
        """A thread goes on: send its signal again, if that has waited long enough. Raises Gone."""
        waiting = self._waiting.get(thread.tid)
        if waiting is None or waiting.sent:
            return
        if not steps or time.monotonic() > waiting.since + _MOMENT:
            # Not every stop can deliver one.
            waiting.sent = True
            ptrace.send(thread.tgid, thread.tid, waiting.number)

    def arrived(self, thread: Thread) -> None:
        """Where a thread's signal is the one that waited, it is what it was then."""
        waiting = self._waiting.get(thread.tid)
        if waiting is not None and waiting.number == thread.signal:
            del self._waiting[thread.tid]
            thread.siginfo = waiting.siginfo

    def forget(self, tid: int) -> None:
        """A thread ended."""
        self._waiting.pop(tid, None)

    def clear(self) -> None:
        """No thread is what it was."""
        self._waiting.clear()
