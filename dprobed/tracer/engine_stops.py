"""A thread's stop, offered to the engines of its target in turn.

Two engines can stop at the same place: a thread in a slot of the trap engine makes an access that
is watched, or a watchpoint on execution behind a one-byte breakpoint stops at its address.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from dprobed.arch.x86_64.breakpoint import INT3
from dprobed.arch.x86_64.registers import RIP
from dprobed.arch.x86_64.siginfo import code_of
from dprobed.engine.interface import Engine, TrapStop
from dprobed.engine.trap.engine import TrapEngine
from dprobed.engine.watch.engine import WatchEngine
from dprobed.tracee import ptrace
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread


class EngineStops:
    """The stops of one target's threads."""

    def __init__(
        self,
        trap: TrapEngine,
        watch: WatchEngine,
        last_first: Callable[[], Iterable[Engine]],
        registers: Registers,
    ) -> None:
        """``last_first``: see ``EngineViews``; ``registers`` are those of all targets of this
        tracer."""
        self._trap: Final = trap
        self._watch: Final = watch
        self._last_first: Final = last_first
        self._registers: Final = registers
        #: The hot way, and what else only the trap engine does: see ``TrapStops``.
        self.serve_hit: Final = trap.stops.serve_hit
        self.rewind: Final = trap.stops.rewind
        self.abandon: Final = trap.stops.abandon
        self.moved: Final = trap.stops.moved
        self.give_up: Final = trap.stops.give_up
        #: Those whose returns are waited for.
        self.calls: Final = trap.stops.returns.calls

    def deliver(self, thread: Thread) -> None:
        """See Engine."""
        for engine in self._last_first():
            engine.deliver(thread)

    def serve(self, thread: Thread) -> None:
        """Serve a SIGTRAP stop: breakpoint, watchpoint, handler's entry, or the target's own."""
        try:
            self._serve(thread, time.monotonic_ns())
        except Gone:
            return
        except BaseException:
            self._trap.stops.abandon(thread)
            raise

    def _serve(self, thread: Thread, now: int) -> None:
        words = self._registers.load(thread.tid)
        if thread.rewound:
            thread.rewound = False
            words[RIP] += len(INT3)
        info = ptrace.get_siginfo(thread.tid)
        stop = TrapStop(info, code_of(info))
        if self._trap.serve(thread, stop, now):
            return
        if not self._at_original(thread, lambda: self._watch.serve(thread, stop, now)):
            self._trap.stops.pass_on(thread, stop.code)

    def _at_original(self, thread: Thread, serve: Callable[[], bool]) -> bool:
        """Offer the stop to the watch engine; whether it was a watchpoint of ours.

        The access can be that of a copied instruction: its program is shown the original place.
        (Of a ``call`` it is the push, so rsp is right.)
        """
        words = self._registers.words
        before = words[RIP]
        shown = words[RIP] = self._trap.view.original_place(before)
        served = serve()
        if words[RIP] == shown:
            words[RIP] = before
        if served:
            self._trap.stops.repair(thread)
            self._registers.store(thread.tid)
        return served

    def end_step(self, thread: Thread) -> bool:
        """After a single step that a debugger asked for; false while it is still in a slot.

        Raises Gone.
        """
        self._trap.stops.stepped(thread)
        self._registers.load(thread.tid)
        now = time.monotonic_ns()
        self._at_original(thread, lambda: self._watch.fired(thread, now))
        return self._trap.stops.end_step(thread)
