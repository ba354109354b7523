"""Where the tracer runs: on the CPU of the threads that hit probes.

A stop and its continuation cost a fifth there of what they cost across CPUs. Two things are needed:

* The tracer goes where hits come from (affinity).
* The thread must stay there. When it is woken its CPU is busy, with us; the kernel would send it
  to an idle one (select_idle_sibling, kernel/sched/fair.c), where we would follow it, and so on. A
  CPU that runs nothing but SCHED_IDLE tasks counts as idle there: so we are one of these while
  nobody else wants that CPU. Where somebody does, we would hardly ever run; how long we waited
  for a CPU (/proc/self/schedstat) tells within one tick, and we are an ordinary task for a while.
  The way back needs a right (user_check_sched_setscheduler, kernel/sched/syscalls.c): who does
  not have it stays an ordinary task.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Final

from dprobed.target import procfs

#: Hits in a row on another CPU after which the tracer goes there.
_AFTER: Final = 4
#: Nanoseconds that we may wait for a CPU at a hit, on the average of a tick, and still give way. A
#: few microseconds of it are the thread itself, which we let go on before we are through.
_WAIT: Final = 100_000
_CAP_SYS_NICE: Final = 1 << 23
#: RLIMIT_NICE that allows nice 0 (getrlimit(2): 20 - nice).
_NICE_0: Final = 20
#: Ticks as an ordinary task after that.
_ORDINARY: Final = 100


class Follower:
    """The scheduling of this process; ``cpu`` is where it keeps itself, -1 for anywhere."""

    def __init__(self) -> None:
        self.cpu = -1
        self._anywhere: Final = os.sched_getaffinity(0)
        self._elsewhere = 0
        self._may_give_way: Final = _may_return()
        self._gives_way = False
        self._ordinary = 0
        self._waited = 0

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
            if not self._ordinary:
                self._give_way(True)

    def tick(self, hits: int) -> None:
        """Some time has passed, with so many hits."""
        if self._ordinary:
            self._ordinary -= 1
            if not self._ordinary and self.cpu >= 0:
                self._give_way(True)
        elif self._gives_way:
            waited = _run_delay()
            if waited - self._waited > hits * _WAIT:
                self._give_way(False)
                self._ordinary = _ORDINARY
            self._waited = waited

    def hurry(self) -> None:
        """Something is to be done for which the whole target waits."""
        self._give_way(False)

    def wander(self) -> None:
        """No hits for a while: let the scheduler place us again."""
        self._give_way(False)
        if self.cpu >= 0:
            self.cpu = -1
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._anywhere)

    def _give_way(self, wanted: bool) -> None:
        if wanted == self._gives_way or not self._may_give_way:
            return
        policy = os.SCHED_IDLE if wanted else os.SCHED_OTHER
        with contextlib.suppress(OSError):
            self._waited = _run_delay()
            os.sched_setscheduler(0, policy, os.sched_param(0))
            self._gives_way = wanted


def _run_delay() -> int:
    """Nanoseconds that this process has waited for a CPU; raises OSError on a kernel without it."""
    with open("/proc/self/schedstat", "rb") as file:
        return int(file.read().split()[1])


def _may_return() -> bool:
    """Whether we may be an ordinary task again once we were SCHED_IDLE."""
    status = procfs.status(os.getpid())
    capable = status is not None and bool(status.capabilities & _CAP_SYS_NICE)
    return capable or resource.getrlimit(resource.RLIMIT_NICE)[0] >= _NICE_0
