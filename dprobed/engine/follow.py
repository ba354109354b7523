"""Where the tracer runs: on the CPU of the threads that hit probes.

A stop and its continuation cost a fifth there of what they cost across CPUs, so the tracer goes
where hits come from. On a machine with idle CPUs the kernel may wake the thread on one of these,
because its own is busy with us (select_idle_sibling, kernel/sched/fair.c); then we follow again,
and a hit costs four to five times as much. To make our CPU look idle (SCHED_IDLE) would mend that,
but a task of that kind can wait a second for a CPU that somebody else wants, and a stopped thread
of the target would wait with it.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

#: Hits in a row on another CPU after which the tracer goes there.
_AFTER: Final = 4


class Follower:
    """The affinity of this process; ``cpu`` is where it keeps itself, -1 for ``anywhere``."""

    def __init__(self) -> None:
        self.cpu = -1
        self.anywhere: Final = os.sched_getaffinity(0)
        self._elsewhere = 0

    def hit(self, cpu: int) -> None:
        """A hit happened on ``cpu``."""
        if cpu == self.cpu:
            self._elsewhere = 0
            return
        self._elsewhere += 1
        if self._elsewhere >= _AFTER:
            self._elsewhere = 0
            self.cpu = cpu
            # Where a cpuset keeps us from that CPU we stay where we are.
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, {cpu})

    def wander(self) -> None:
        """No hits for a while: let the scheduler place us again."""
        if self.cpu >= 0:
            self.cpu = -1
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self.anywhere)
