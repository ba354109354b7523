"""All traced threads of one tracer process, whosever they are, and what the kernel says of them.

The kernel tells of all tracees through one ``waitpid``. What it says goes to the thread's own
``ThreadGroup``, with two exceptions that keep the targets of a tracer apart:

* While one target is waited for (its world is being stopped), stops of *other* targets are not
  reacted to from within: a plain hit is served, because that stops nobody; everything else is noted
  and dispatched by the main loop right after. So no work on a target begins inside that on another.
* A child can make its first stop before its parent's event says whose it is (``early``), and its
  parent may be killed before it says so. Such an orphan is known by the copy of our changes that it
  has in its memory, also for a while after its parent's end. Who made it cannot be seen where it is
  a child of a target that lives (CLONE_PARENT): then it is one when nobody has told for a while.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import WALL, Gone
from dprobed.tracee.ptrace import raw_waitpid as _waitpid
from dprobed.tracee.status import TRAP_STATUS, Kind, Stop, decode
from dprobed.tracee.thread import Thread

if TYPE_CHECKING:
    from dprobed.tracee.thread_group import ThreadGroup

#: Seconds within which a child's first stop comes after its parent's end.
ORPHAN_PATIENCE: Final = 10.0
#: The same where it cannot be told whether there is one.
_PATIENCE_IN_VAIN: Final = 2.0
#: Seconds within which the parent's event comes, if it does.
_EVENT_PATIENCE: Final = 0.1
_PAUSE: Final = 0.001


class Tracees:
    """One for each tracer process."""

    def __init__(self) -> None:
        self.threads: dict[int, Thread] = {}
        #: Something waits to be done in the main loop.
        self.attention = False
        self.status = ctypes.c_int(0)
        self.status_address: Final[int] = ctypes.addressof(self.status)
        #: Those of the targets, and of targets that ended while a child of theirs may still come.
        self.worlds: list[ThreadGroup] = []
        #: Processes that we wait for besides the targets': who is told of each of their stops.
        self.others: dict[int, Callable[[Stop], None]] = {}
        #: Leading threads that have ended, of processes that were let go: we stay their tracer.
        self.zombies: set[int] = set()
        #: First stops of children whose parent's event has not come yet, and when they came.
        self.early: dict[int, tuple[Stop, float]] = {}
        #: Whose work is being done: a defect is that target's.
        self.blamed: ThreadGroup | None = None
        self._noted: deque[tuple[int, int]] = deque()

    # --- waiting ---

    def wait(self, group: ThreadGroup) -> bool:
        """Wait for one stop, on behalf of ``group``. False: a signal ended the wait, or nobody is
        left."""
        tid = _waitpid(-1, self.status_address, WALL)
        if tid <= 0:
            self._nobody()
            return False
        self._sort(tid, self.status.value, group)
        return True

    def pause(self, seconds: float) -> None:
        """Wait that long; meanwhile nothing but plain hits is served."""
        deadline = time.monotonic() + seconds
        while True:
            tid = _waitpid(-1, self.status_address, WALL | os.WNOHANG)
            if tid > 0:
                self._sort(tid, self.status.value, None)
            elif time.monotonic() >= deadline:
                return
            else:
                time.sleep(_PAUSE)

    def drain(self) -> None:
        """Dispatch every stop that is there already."""
        self.serve_noted()
        while self.threads:
            tid = _waitpid(-1, self.status_address, WALL | os.WNOHANG)
            if tid <= 0:
                if tid < 0:
                    self._nobody()
                return
            self.dispatch(tid, self.status.value)

    def _nobody(self) -> None:
        if ctypes.get_errno() != errno.EINTR:  # ECHILD
            for thread in list(self.threads.values()):
                thread.group.drop(thread.tid)
            self.attention = True

    def _sort(self, tid: int, status: int, group: ThreadGroup | None) -> None:
        """React to a stop if it is of ``group`` or a plain hit; else note it."""
        thread = self.threads.get(tid)
        if thread is None or thread.group is group:
            self.dispatch(tid, status)
            return
        if status == TRAP_STATUS and thread.state is State.RUNNING:
            before = self.blamed
            try:
                if thread.group.handler.serve_hit(thread, time.monotonic_ns()):
                    return
            except Exception as error:
                # Not the fault of whom we wait for.
                self.blamed = before
                thread.group.fail(error)
                return
        self._noted.append((tid, status))
        self.attention = True

    def serve_noted(self, group: ThreadGroup | None = None) -> None:
        """Dispatch what was noted: all of it, or what is of ``group``."""
        for _ in range(len(self._noted)):
            if not self._noted:
                return  # what was dispatched made others be
            tid, status = self._noted.popleft()
            thread = self.threads.get(tid)
            if group is None or (thread is not None and thread.group is group):
                self.dispatch(tid, status)
            else:
                self._noted.append((tid, status))

    @property
    def has_noted(self) -> bool:
        """Whether ``serve_noted`` has something to do."""
        return bool(self._noted)

    def dispatch(self, tid: int, status: int) -> None:
        """Give one wait status to whom it concerns."""
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
            self.early.pop(tid, None)
            self.zombies.discard(tid)
        elif stop.kind in (Kind.STOP, Kind.GROUP_STOP):
            self.early[tid] = stop, time.monotonic()
            self.attention = True

    # --- children without a parent ---

    def adopt_orphans(self, executing: Thread | None = None) -> None:
        """Children whose parent was killed before it could tell us of them.

        ``executing``: of a process whose other threads are gone, and with them what they had to
        tell; only children of that target are looked for.
        """
        if not self.early:
            return
        parents = {thread.tgid for thread in self.threads.values()}
        if executing is not None:
            parents.discard(executing.tgid)
        now = time.monotonic()
        for tid, (stop, since) in list(self.early.items()):
            found = procfs.status(tid)
            if found is None or found.tgid != tid:
                continue
            if procfs.parent(tid) in parents and now < since + _EVENT_PATIENCE:
                continue
            group = self._origin(tid, self.worlds if executing is None else [executing.group])
            if group is None and executing is not None:
                continue
            del self.early[tid]
            if group is None:
                # Nothing of ours is in it.
                with contextlib.suppress(Gone):
                    ptrace.detach(tid)
                continue
            before, self.blamed = self.blamed, group
            group.adopt_orphan(tid, stop)
            self.blamed = before

    @staticmethod
    def _origin(tid: int, worlds: list[ThreadGroup]) -> ThreadGroup | None:
        """Whose child an orphan is: whose memory it shares, or has a copy of."""
        for group in worlds:
            if group.shares_memory(tid):
                return group
        return next((group for group in worlds if group.left_copy(tid)), None)

    @property
    def has_strangers(self) -> bool:
        """Whether there is a child of which nobody told us, now that all that we know of have
        ended: the kernel would have us wait for it."""
        if self.threads or self.others or self.zombies:
            return False
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def await_stranger(self) -> None:
        """Until such a child stops, or a signal comes."""
        tid = _waitpid(-1, self.status_address, WALL)
        if tid > 0:
            self.dispatch(tid, self.status.value)

    def await_orphans(self) -> None:
        """When the targets have ended: children that they have just made are to be let go."""
        in_vain = self.others or self.zombies
        deadline = time.monotonic() + (_PATIENCE_IN_VAIN if in_vain else ORPHAN_PATIENCE)
        while time.monotonic() < deadline:
            tid = _waitpid(-1, self.status_address, WALL | os.WNOHANG)
            if tid > 0:
                self.dispatch(tid, self.status.value)
                self.adopt_orphans()
            elif tid == 0:
                time.sleep(_PAUSE)
            elif ctypes.get_errno() != errno.EINTR:
                return
