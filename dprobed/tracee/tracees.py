"""All tracees of a tracer process, of all its targets, and the ``waitpid`` for them.

The kernel tells of all tracees through one ``waitpid``. Each wait status goes to the thread's own
group, with two exceptions that keep the targets of a tracer apart:

* While one target is waited for (its threads are being stopped), stops of *other* targets are not
  reacted to from within: a plain hit is served, because that stops nobody; everything else is
  deferred, and dispatched by the main loop right after. So no work on a target begins within
  work on another.
* A child can make its first stop before its parent's event says whose it is (``first_stops``), and
  its parent may be killed before it says so. Such an orphan is known by the copy of our changes
  that it has in its memory, also for a while after its parent's end. Who made it cannot be seen
  where it is a child of a target that lives (CLONE_PARENT): then it is an orphan when no event has
  told of it for a while.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dprobed.arch.x86_64.resume_and_wait import TRAP_STATUS
from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.hit_wait import HitWait
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import WALL, Gone
from dprobed.tracee.ptrace import raw_waitpid as _waitpid
from dprobed.tracee.status import Kind, Stop, decode
from dprobed.tracee.thread import Group, Thread

#: Seconds for which we wait for a child's first stop after its parent's end.
ORPHAN_TIMEOUT: Final = 10.0
#: The same where it cannot be told whether there is such a child.
_UNSURE_ORPHAN_TIMEOUT: Final = 2.0
#: Seconds within which the parent's event comes after its child's first stop, if it comes at all.
_EVENT_TIMEOUT: Final = 0.1
#: Seconds between two looks for a stop.
_PAUSE: Final = 0.001
#: Stops of any thread between two looks at each of those that are waited for, at least. The kernel
#: looks for a stop always from the same end of its list (ptrace_do_wait), so threads that hit all
#: the time would be all that is ever found.
SWEEP: Final = 64


def is_ours(tid: int) -> bool:
    """Whether we are the tracer of a thread."""
    found = procfs.status(tid)
    return found is not None and found.tracer == os.getpid()


class Tracees:
    """The tracees of this tracer process, and the one place that waits for them."""

    def __init__(self) -> None:
        self.threads: dict[int, Thread] = {}
        #: The wait of the loop that serves hits.
        self.hits: Final = HitWait()
        #: Something waits to be done in the main loop.
        self.attention = False
        self.status = ctypes.c_int(0)
        self.status_address: Final[int] = ctypes.addressof(self.status)
        #: The groups of the targets, and of ended ones of which a child may still appear.
        self.groups: list[Group] = []
        #: Processes of ours that are waited for, too, and what is called at each of their stops.
        self.others: dict[int, Callable[[Stop], None]] = {}
        #: Zombie leaders of processes that we detached from: we stay their tracer.
        self.zombies: set[int] = set()
        #: First stops of children whose parent's event has not come yet, and when they came.
        self.first_stops: dict[int, tuple[Stop, float]] = {}
        #: The group being worked for: an internal error is attributed to it.
        self.blamed: Group | None = None
        self._deferred: deque[tuple[int, int]] = deque()
        #: Stops until ``wait`` looks at each thread.
        self._turns = SWEEP

    # --- waiting ---

    def wait(self, group: Group) -> bool:
        """Wait for one stop, on behalf of ``group``; false when a signal ended the wait, or no
        tracee is left.

        One that was deferred counts: while a thread of the group itself did something for us, the
        stops of its others were.
        """
        if self._deferred and self.dispatch_deferred(group):
            return True
        self._turns -= 1
        if self._turns <= 0:
            self._turns = max(SWEEP, len(group.threads))
            if self._look_at_each(group.threads):
                return True
        tid = self.hits.next()
        if tid <= 0:
            self._none_left(tid)
            return False
        self._sort(tid, self.hits.status, group)
        return True

    def pause(self, seconds: float) -> None:
        """Wait that long; meanwhile nothing but plain hits is served."""
        deadline = time.monotonic() + seconds
        while True:
            tid = self.hits.next(os.WNOHANG)
            if tid > 0:
                self._sort(tid, self.hits.status, None)
            # Looked at in either case: many busy threads hit without end.
            if time.monotonic() >= deadline:
                return
            if tid <= 0:
                time.sleep(_PAUSE)

    def await_stop(self, wanted: int, seconds: float) -> bool | None:
        """Wait that long for the next wait status of one thread, left in ``status``.

        Meanwhile nothing but plain hits is served. False: there is no such thread; None: it did not
        stop. The registers in ``hits`` stay: this may be in the middle of that very thread's hit.
        """
        before = bytes(self.hits.registers.data)
        try:
            return self._await_stop(wanted, time.monotonic() + seconds)
        finally:
            self.hits.registers.data[:] = before

    def _await_stop(self, wanted: int, deadline: float) -> bool | None:
        while time.monotonic() < deadline:
            # That one first: others may hit all the time (SWEEP).
            tid = self.hits.next(os.WNOHANG, wanted) or self.hits.next(os.WNOHANG)
            if tid == wanted:
                self.status.value = self.hits.status
                if self.hits.status != TRAP_STATUS:
                    return True
                if (thread := self.threads.get(tid)) is not None:
                    thread.group.handler.rewind(thread)
                if _waitpid(tid, self.status_address, WALL | os.WNOHANG) == tid:
                    return True
            elif tid > 0:
                self._sort(tid, self.hits.status, None)
            elif tid < 0:
                return False
            else:
                time.sleep(_PAUSE)
        return None

    def drain(self) -> bool:
        """Dispatch the stops that are there already; false: more may be there, since some threads
        hit all the time."""
        self.dispatch_deferred()
        turns = max(SWEEP, len(self.threads))
        while self.threads:
            if not turns:
                self._look_at_each(self.threads)
                return False
            turns -= 1
            tid = self.hits.next(os.WNOHANG)
            if tid <= 0:
                self._none_left(tid)
                break
            self.dispatch(tid, self.hits.status)
        return True

    def look_at(self, tid: int) -> bool:
        """Dispatch a stop of this thread that is there already, or was deferred; whether there is
        one."""
        for entry in self._deferred:
            if entry[0] == tid:
                self._deferred.remove(entry)
                self._dispatch(*entry)
                return True
        if self.hits.next(os.WNOHANG, tid) != tid:
            return False
        self.dispatch(tid, self.hits.status)
        return True

    def _look_at_each(self, threads: dict[int, Thread]) -> bool:
        """Dispatch a stop of each of these threads that is there already; whether there is one."""
        found = False
        for tid in list(threads):
            found = self.look_at(tid) or found
        return found

    def _none_left(self, result: int) -> None:
        if result == -errno.ECHILD:
            for thread in list(self.threads.values()):
                thread.group.drop(thread.tid)
            self.attention = True

    def _sort(self, tid: int, status: int, group: Group | None) -> None:
        """React to a stop if it is of ``group`` or a plain hit; else defer it."""
        thread = self.threads.get(tid)
        if thread is None or thread.group is group:
            self.dispatch(tid, status)
            return
        if status == TRAP_STATUS and thread.state is State.RUNNING:
            before = self.blamed
            try:
                if thread.group.handler.serve_hit(thread, time.monotonic_ns()):
                    self.hits.flush()
                    return
            except Exception as error:
                # Not to be attributed to the target that we wait for.
                self.blamed = before
                thread.group.fail(error)
                return
        taken = self._take(tid, status)
        if taken is not None:
            self._deferred.append((tid, taken))
            self.attention = True

    def take(self, thread: Thread) -> None:
        """Take the stop of a thread that is to stay in it, and was moved on already."""
        if _waitpid(thread.tid, self.status_address, WALL | os.WNOHANG) == thread.tid:
            status = self.status.value
            if status != TRAP_STATUS:  # it was killed
                self._deferred.append((thread.tid, status))
                self.attention = True

    def _take(self, tid: int, status: int) -> int | None:
        """Take a stop that was only looked at from the kernel, as what does not end at once has to
        be; its wait status. None: it is not there any more."""
        if status != TRAP_STATUS:
            return status
        thread = self.threads.get(tid)
        if thread is not None:
            thread.group.handler.rewind(thread)
        if _waitpid(tid, self.status_address, WALL | os.WNOHANG) != tid:
            return None
        return self.status.value

    def dispatch_deferred(self, group: Group | None = None) -> bool:
        """Dispatch the stops that were deferred: all of them, or those of ``group``; whether there
        was one."""
        found = False
        for _ in range(len(self._deferred)):
            if not self._deferred:
                break  # dispatching one dispatched the others
            tid, status = self._deferred.popleft()
            thread = self.threads.get(tid)
            if group is None or (thread is not None and thread.group is group):
                found = True
                self._dispatch(tid, status)
            else:
                self._deferred.append((tid, status))
        return found

    def dispatch(self, tid: int, status: int) -> None:
        """React to what ``hits`` found: a stop, or an end."""
        taken = self._take(tid, status)
        if taken is not None:
            self._dispatch(tid, taken)

    def _dispatch(self, tid: int, status: int) -> None:
        """Decode a wait status and give it to the group, or the process, that it concerns."""
        thread = self.threads.get(tid)
        if thread is not None:
            before, self.blamed = self.blamed, thread.group
            thread.group.dispatch(thread, decode(status))
            self.blamed = before
            return
        stop = decode(status)
        if (other := self.others.get(tid)) is not None:
            other(stop)
        elif stop.kind in (Kind.EXITED, Kind.KILLED):
            self.first_stops.pop(tid, None)
            self.zombies.discard(tid)
        elif stop.kind in (Kind.STOP, Kind.GROUP_STOP):
            self.first_stops[tid] = stop, time.monotonic()
            self.attention = True

    # --- orphans: children that no parent's event told of ---

    def adopt_orphans(self, executing: Thread | None = None) -> None:
        """Adopt the fork children whose parent was killed before its event told us of them.

        ``executing``: a thread in ``exec``, whose process's other threads are gone, and with them
        their events; only children of that target are looked for.
        """
        if not self.first_stops:
            return
        parents = {thread.tgid for thread in self.threads.values()}
        if executing is not None:
            parents.discard(executing.tgid)
        now = time.monotonic()
        for tid, (stop, since) in list(self.first_stops.items()):
            found = procfs.status(tid)
            if found is None or found.tgid != tid:
                continue
            if procfs.parent(tid) in parents and now < since + _EVENT_TIMEOUT:
                continue
            group = self._origin(tid, self.groups if executing is None else [executing.group])
            if group is None and executing is not None:
                continue
            del self.first_stops[tid]
            if group is None:
                # None of our breakpoints is in it.
                with contextlib.suppress(Gone):
                    ptrace.detach(tid)
                continue
            before, self.blamed = self.blamed, group
            group.adopt_orphan(tid, stop)
            self.blamed = before

    @staticmethod
    def _origin(tid: int, groups: list[Group]) -> Group | None:
        """The group that an orphan is a child of: it shares their memory, or has a copy of it."""
        for group in groups:
            if group.shares_memory(tid):
                return group
        return next((group for group in groups if group.is_fork_copy(tid)), None)

    @property
    def has_unreported_children(self) -> bool:
        """Whether we are the tracer of a child that no event told us of, now that all tracees that
        we know of have ended: ``waitpid`` would wait for it."""
        if self.threads or self.others or self.zombies:
            return False
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def await_unreported_child(self) -> None:
        """Wait until such a child stops, or a signal comes."""
        tid = self.hits.next()
        if tid > 0:
            self.dispatch(tid, self.hits.status)

    def await_orphans(self) -> None:
        """Wait, when all targets have ended, for fork children that they have just made, and detach
        from these."""
        unsure = self.others or self.zombies
        deadline = time.monotonic() + (_UNSURE_ORPHAN_TIMEOUT if unsure else ORPHAN_TIMEOUT)
        while time.monotonic() < deadline:
            tid = self.hits.next(os.WNOHANG)
            if tid > 0:
                self.dispatch(tid, self.hits.status)
                self.adopt_orphans()
            elif tid == 0:
                time.sleep(_PAUSE)
            elif tid == -errno.ECHILD:
                return
