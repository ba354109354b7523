"""CPU affinity and scheduling policy of the tracer: on the CPU of the threads that hit probes.

A stop and its continuation cost a fifth there of what they cost across CPUs, so the tracer goes
where hits come from. But a thread that it resumes is woken on an idle CPU if there is one, because
its own is busy with us (select_idle_sibling, kernel/sched/fair.c): hits *stray*, and tracer and
thread run after each other. A CPU that runs nothing but SCHED_IDLE tasks counts as idle
(sched_idle_cpu), so where hits stray the tracer becomes one: then the thread stays where it is.

On a busy machine that is the wrong thing. A SCHED_IDLE task waits long beside others, and a stopped
thread of the target waits with it. These keep that away:

* It is done only where the tracer is a scheduling group of its own: the weight of a *group* does
  not depend on the policy of its tasks. The leader of a session is one where the kernel groups
  tasks by session (sched_autogroup, sched(7)) and no cgroup does so instead.
* It is done only where it can be undone: RLIMIT_NICE or CAP_SYS_NICE must allow the way back.
* It is done only while one thread makes the hits and nobody else wants its CPU: ``review`` looks
  every few hits, and stays away from it for a while after it was wrong.

Where it cannot be done (nobody but root has the way back), the tracer *polls* instead while hits
stray and come close together, on a CPU that nobody else wants: it does not sleep between them, so
that only the thread has to be woken. Then it does not follow the thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Final

from dprobed.tracee.thread import Thread

#: Hits in a row on another CPU after which the tracer goes there.
_AFTER: Final = 4
#: Hits after which ``review`` looks, and nanoseconds after which it does so in any case.
_REVIEW: Final = 256
_REVIEW_NS: Final = 5_000_000
#: Share of our time for which we may be kept waiting for a CPU.
_WAITING: Final = 0.7
#: Nanoseconds between hits that are close enough together to poll for.
_CLOSE: Final = 150_000
#: Share of our time for which one who polls may be kept waiting.
_POLL_WAITING: Final = 0.1
#: Nanoseconds for which it stays away from either after that: the first, and the longest.
_PATIENCE: Final = 250_000_000
_LONGEST: Final = 16_000_000_000
#: The inode number of the first cgroup namespace (PROC_CGROUP_INIT_INO, include/linux/proc_ns.h).
_FIRST_NAMESPACE: Final = "cgroup:[4026531835]"
#: CPUCLOCK_SCHED (include/linux/posix-timers.h): the CPU time of a process is a clock of its own.
_CPUCLOCK_SCHED: Final = 2


def become_scheduling_group(root: Path = Path("/")) -> bool:
    """Make this process a scheduling group of its own, by a new session; whether it is one.

    For a process that leads no process group. ``root``: where proc and sys are.
    """
    if not _sessions_are_groups(root):
        return False
    try:
        os.setsid()
    except OSError:
        return False
    return True


def _sessions_are_groups(root: Path) -> bool:
    """Whether a new session of this process will be scheduled as a group.

    As task_wants_autogroup (kernel/sched/autogroup.c) says: if its cgroup for CPU time is the root.
    Only from the first cgroup namespace can that be seen.
    """
    try:
        if (root / "proc/sys/kernel/sched_autogroup_enabled").read_text().strip() != "1":
            return False
        if str((root / "proc/self/ns/cgroup").readlink()) != _FIRST_NAMESPACE:
            return False
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        # cgroups(7): hierarchy, controllers, path. Number 0 is version 2.
        number, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(",") and path != "/":
            return False
        if number == "0" and _is_weighed(root / "sys/fs/cgroup", path):
            return False
    return True


def _is_weighed(top: Path, path: str) -> bool:
    """Whether a version 2 cgroup, or one above it, takes part in the sharing of CPU time."""
    here = Path(path.lstrip("/"))
    return any((top / each / "cpu.weight").exists() for each in (here, *here.parents))


def _can_come_back() -> bool:
    """Whether we may leave SCHED_IDLE again: tried in a thread, since the policy is per thread."""
    result = False

    def there_and_back() -> None:
        nonlocal result
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            result = True

    thread = threading.Thread(target=there_and_back)
    thread.start()
    thread.join()
    return result


class Affinity:
    """CPU affinity and scheduling policy of this process. ``cpu``: the one it is bound to, or -1.

    ``alone``: it is a scheduling group of its own.
    """

    def __init__(self, alone: bool = False) -> None:
        self.cpu = -1
        self.allowed: Final = os.sched_getaffinity(0)
        #: Whether it is SCHED_IDLE.
        self.is_idle_policy = False
        #: Whether it polls for the next stop for a while before it sleeps.
        self.polls = False
        self._may: bool | None = None if alone else False
        #: Hits in a row on another CPU than ``cpu``.
        self.elsewhere = 0
        self._strayed = 0
        self._turns = _REVIEW
        self._not_before = 0
        self._patience = _PATIENCE
        self._since = 0
        #: Thread that made the hits since the last look; -1: more than one did.
        self._tid = 0
        #: Process, time, its CPU time and our waiting time, at the last look.
        self._then = (0, 0, 0, 0)

    def hit(self, cpu: int) -> None:
        """A hit happened on ``cpu``."""
        if cpu == self.cpu or self.polls:
            self.elsewhere = 0
            return
        self.elsewhere += 1
        if self.elsewhere >= _AFTER:
            self.elsewhere = 0
            self.cpu = cpu
            # Where a cpuset keeps us from that CPU we stay where we are.
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, {cpu})

    def review(self, thread: Thread, cpu: int, hits: int, now: int) -> None:
        """``hits`` more were served, the last of ``thread`` on ``cpu``: is the policy right?"""
        if cpu != self.cpu:
            self._strayed += hits
        if self._tid != thread.tid:
            self._tid = thread.tid if not self._tid else -1
        self._turns -= hits
        if self._turns <= 0 or (self.is_idle_policy and now - self._then[1] > _REVIEW_NS):
            self._look(thread.tgid, now)

    def _look(self, pid: int, now: int) -> None:
        before = self._then[1]
        waited = self._kept_waiting(pid, now)
        alone = self._tid > 0 and waited <= _WAITING
        strays = 4 * self._strayed > _REVIEW
        close = now - before < _CLOSE * (_REVIEW - self._turns) and waited <= _POLL_WAITING
        self._tid, self._strayed, self._turns = 0, 0, _REVIEW
        if self.is_idle_policy:
            if not alone:
                self._back_to_normal(now)
        elif self.polls:
            # Now and then it sees whether to follow the thread is right again.
            if not (alone and strays and close) or now - self._since > _LONGEST:
                self._back_to_normal(now)
        elif alone and strays and now > self._not_before:
            self._yield_or_poll(now, close)

    def _kept_waiting(self, pid: int, now: int) -> float:
        """For which share of the time since the last look others than the target have had the CPU
        that we wanted; 1 where that is not known.

        What the target runs does not count: it takes the CPU when we resume it, before we sleep.
        """
        try:
            before, self._then = self._then, (pid, now, *_times(pid))
        except OSError:  # no descriptor is left, or this kernel does not count it
            return 1.0
        if before[0] != pid:
            return 1.0
        passed, run, waited = (self._then[each] - before[each] for each in (1, 2, 3))
        return (waited - run) / max(passed, 1)

    def _yield_or_poll(self, now: int, close: bool) -> None:
        if self._may is None:
            self._may = _can_come_back()
        self._since = now
        if self._may:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            self.is_idle_policy = True
        else:
            self.polls = close

    def _back_to_normal(self, now: int) -> None:
        if self.is_idle_policy:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        self.is_idle_policy = self.polls = False
        lasted = now - self._since
        self._patience = _PATIENCE if lasted > _LONGEST else min(2 * self._patience, _LONGEST)
        self._not_before = now + self._patience

    def release_cpu(self) -> None:
        """No hits for a while: let the scheduler place us again."""
        if self.is_idle_policy or self.polls:
            self._back_to_normal(time.monotonic_ns())
            self._not_before, self._patience = 0, _PATIENCE
        if self.cpu >= 0:
            self.cpu = -1
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self.allowed)


def _times(pid: int) -> tuple[int, int]:
    """Nanoseconds: of CPU that the process has had, and for which we have waited for one."""
    try:
        run = time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)
    except OSError:  # it is gone
        run = 0
    # Documentation/scheduler/sched-stats.rst: run time, waiting time, time slices.
    with open("/proc/thread-self/schedstat", "rb") as file:
        return run, int(file.read().split()[1])
