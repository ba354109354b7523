"""The loop that waits for stops of all targets of a tracer, and serves plain hits at once."""

from __future__ import annotations

import time
from typing import Final

from dprobed.arch.x86_64.resume_and_wait import STATUS, TAKEN
from dprobed.engine.affinity import Affinity
from dprobed.tracee.lifecycle import State
from dprobed.tracee.tracees import SWEEP, Tracees

#: Nanoseconds for which one who polls does so.
_POLL: Final = 50_000


class StopLoop:
    """The ``waitpid`` loop of a tracer; the targets' engines serve the hits."""

    def __init__(self, tracees: Tracees, affinity: Affinity) -> None:
        self._tracees: Final = tracees
        self._affinity: Final = affinity

    def run(self) -> None:
        """Serve stops until something needs attention, or nothing is left to wait for."""
        try:
            self._run()
        finally:
            self._tracees.hits.flush()

    def _run(self) -> None:
        tracees = self._tracees
        threads, others = tracees.threads, tracees.others
        affinity = self._affinity
        wait, words = tracees.hits.call, tracees.hits.words
        clock, running = time.monotonic_ns, State.RUNNING
        turns = SWEEP
        while not tracees.attention and (threads or others):
            turns -= 1
            if not turns:
                turns = self._sweep()
                continue
            found = self._poll() if affinity.polls else 0
            if not found:
                found = wait()
            if found <= 0:
                if not tracees.attention:
                    tracees.drain()
                continue
            now = clock()
            # None has the number of one whose stop was taken.
            thread = threads.get(found)
            if thread is not None and thread.state is running:
                # By a local name: see ``ProgramRunner.run``.
                serve = thread.group.handler.serve_hit
                if serve(thread, now):
                    continue
            tid = found & ~TAKEN
            thread = threads.get(tid)
            tracees.dispatch(tid, words[STATUS])
            if thread is not None:
                thread.group.overhead_ns += clock() - now

    def _poll(self) -> int:
        """Poll for a stop for a moment, without sleep; 0: none came."""
        tracees, until = self._tracees, time.monotonic_ns() + _POLL
        while not tracees.attention:
            found = tracees.hits.poll()
            if found or time.monotonic_ns() > until:
                return found
        return -1

    def _sweep(self) -> int:
        """Look at every thread once; in how many stops to do so again."""
        tracees = self._tracees
        if len(tracees.threads) > 1:
            tracees.hits.flush()
            for tid, thread in list(tracees.threads.items()):
                now = time.monotonic_ns()
                if tracees.look_at(tid):
                    thread.group.overhead_ns += time.monotonic_ns() - now
        return max(SWEEP, len(tracees.threads))
