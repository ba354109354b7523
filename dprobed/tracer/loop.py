"""The loop that waits for the stops of all targets of a tracer, and serves their hits at once."""

from __future__ import annotations

import os
import time
from typing import Final

from dprobed.arch.x86_64.registers import RIP
from dprobed.engine.affinity import Affinity
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import PTRACE_CONT, PTRACE_GETREGS, WALL, Registers
from dprobed.tracee.status import TRAP_STATUS
from dprobed.tracee.thread import Thread
from dprobed.tracee.tracees import Tracees

#: Stops served between two looks at every thread, at least.
_SWEEP: Final = 64
#: Nanoseconds for which one who polls does so.
_POLL: Final = 50_000

_call = ptrace.raw_ptrace
_waitpid = ptrace.raw_waitpid


class TrapLoop:
    """One for each tracer; the targets' engines do the work of a hit."""

    def __init__(self, tracees: Tracees, registers: Registers, affinity: Affinity) -> None:
        """``registers``: the ones that the targets' engines look at, too."""
        self._tracees: Final = tracees
        self._follower: Final = affinity
        self._registers: Final[int] = registers.address
        self._words: Final = registers.words
        tracees.serve_hit = self.serve_hit

    def run(self) -> None:
        """Serve stops until something else wants attention, or nothing is left to wait for."""
        tracees, waitpid, call = self._tracees, _waitpid, _call
        words, registers = self._words, self._registers
        threads, others = tracees.threads, tracees.others
        affinity = self._follower
        status, status_address = tracees.status, tracees.status_address
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
            engine = thread.traps
            if (
                status.value == TRAP_STATUS
                and thread.state is State.RUNNING
                and call(PTRACE_GETREGS, tid, 0, registers) == 0
            ):
                site = engine.by_trap.get(words[RIP])
                if (
                    site is not None
                    and site.plain
                    and thread.skip is None
                    and thread.entering is None
                    and thread.trap_mask is None
                    and engine.sigtrap.disposition is None
                ):
                    try:
                        engine.hit(thread, site, now)
                    except BaseException:
                        tracees.blamed = thread.group
                        thread.state = State.STOPPED
                        engine.abandon(thread)
                        raise
                    # Before it goes on: on one CPU it runs at once, and we only later.
                    engine.overhead_ns += clock() - now
                    if thread.held or thread.pinned:
                        thread.state = State.HELD
                    else:
                        call(PTRACE_CONT, tid, 0, 0)
                    continue
            tracees.dispatch(tid, status.value)
            engine.overhead_ns += clock() - now

    def _poll(self) -> int:
        """A stop that comes in the next moment, without sleep; 0: none did."""
        tracees = self._tracees
        status_address, until = tracees.status_address, time.monotonic_ns() + _POLL
        while not tracees.attention:
            tid = _waitpid(-1, status_address, WALL | os.WNOHANG)
            if tid or time.monotonic_ns() > until:
                return int(tid)
        return -1

    def serve_hit(self, thread: Thread, now: int) -> bool:
        """Serve a SIGTRAP stop that is a breakpoint and nothing else; false: nothing was done.

        The same as ``run`` does, where a call more would be felt.
        """
        if (
            thread.state is not State.RUNNING
            or _call(PTRACE_GETREGS, thread.tid, 0, self._registers) != 0
        ):
            return False
        engine = thread.traps
        site = engine.by_trap.get(self._words[RIP])
        if (
            site is None
            or not site.plain
            or thread.skip is not None
            or thread.entering is not None
            or thread.trap_mask is not None
            or engine.sigtrap.disposition is not None
        ):
            return False
        try:
            engine.hit(thread, site, now)
        except BaseException:
            self._tracees.blamed = thread.group
            thread.state = State.STOPPED
            engine.abandon(thread)
            raise
        # Before it goes on: on one CPU it runs at once, and we only later.
        engine.overhead_ns += time.monotonic_ns() - now
        if thread.held or thread.pinned:
            thread.state = State.HELD
        else:
            _call(PTRACE_CONT, thread.tid, 0, 0)
        return True

    def _sweep(self) -> int:
        """Look at every thread once; in how many stops to do so again.

        The kernel looks for a stop always from the same end of its list (ptrace_do_wait), so a
        few threads that hit all the time would be served for ever, and the others never.
        """
        tracees = self._tracees
        if len(tracees.threads) > 1:
            for tid, thread in list(tracees.threads.items()):
                now = time.monotonic_ns()
                if _waitpid(tid, tracees.status_address, WALL | os.WNOHANG) == tid:
                    tracees.dispatch(tid, tracees.status.value)
                    thread.traps.overhead_ns += time.monotonic_ns() - now
        return max(_SWEEP, len(tracees.threads))
