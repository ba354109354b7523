"""The loop that waits for stops of all targets of a tracer, and serves plain hits at once."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Final

from dprobed.engine.affinity import Affinity
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import WALL
from dprobed.tracee.status import TRAP_STATUS
from dprobed.tracee.tracees import Tracees

#: Stops served between two looks at every thread, at least.
_SWEEP: Final = 64
#: Nanoseconds for which one who polls does so.
_POLL: Final = 50_000

_waitpid = ptrace.hit_waitpid


class StopLoop:
    """The ``waitpid`` loop of a tracer; the targets' engines serve the hits."""

    def __init__(self, tracees: Tracees, affinity: Affinity) -> None:
        self._tracees: Final = tracees
        self._affinity: Final = affinity

    def run(self) -> None:
        """Serve stops until something needs attention, or nothing is left to wait for."""
        tracees, waitpid = self._tracees, _waitpid
        threads, others = tracees.threads, tracees.others
        affinity = self._affinity
        status, status_address = tracees.status, ctypes.byref(tracees.status)
        clock = time.monotonic_ns
        turns = _SWEEP
        while not tracees.attention and (threads or others):
            turns -= 1
            if not turns:
                turns = self._sweep()
                continue
            tid = self._poll() if affinity.polls else 0
            if not tid:
                tid = waitpid(-1, status_address, WALL)
            if tid <= 0:
                if not tracees.attention:
                    tracees.drain()
                continue
            now = clock()
            thread = threads.get(tid)
            if thread is None:
                tracees.dispatch(tid, status.value)
                continue
            group = thread.group
            if (
                status.value == TRAP_STATUS
                and thread.state is State.RUNNING
                and group.handler.serve_hit(thread, now)
            ):
                continue
            tracees.dispatch(tid, status.value)
            group.overhead_ns += clock() - now

    def _poll(self) -> int:
        """Poll for a stop for a moment, without sleep; 0: none came."""
        tracees = self._tracees
        status_address, until = ctypes.byref(tracees.status), time.monotonic_ns() + _POLL
        while not tracees.attention:
            tid = _waitpid(-1, status_address, WALL | os.WNOHANG)
            if tid or time.monotonic_ns() > until:
                return int(tid)
        return -1

    def _sweep(self) -> int:
        """Look at every thread once; in how many stops to do so again.

        The kernel looks for a stop always from the same end of its list (ptrace_do_wait), so a
        few threads that hit all the time would be served for ever, and the others never.
        """
        tracees = self._tracees
        if len(tracees.threads) > 1:
            for tid, thread in list(tracees.threads.items()):
                now = time.monotonic_ns()
                if _waitpid(tid, ctypes.byref(tracees.status), WALL | os.WNOHANG) == tid:
                    tracees.dispatch(tid, tracees.status.value)
                    thread.group.overhead_ns += time.monotonic_ns() - now
        return max(_SWEEP, len(tracees.threads))
