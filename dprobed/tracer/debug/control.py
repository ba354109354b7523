"""All-stop: holds the target for a debugger, and resumes its threads as the debugger says.

While the target is held all its threads are stopped (``ThreadGroup.stopped``), so probes are
inserted and removed as ever, and nothing of the target runs. When the debugger resumes it, hits are
served at full speed; only while a thread is stepped every stop takes the long way through
``ThreadGroup.dispatch``.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Sequence, Set
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import msgspec

from dprobed.arch.x86_64.breakpoint import SI_KERNEL
from dprobed.arch.x86_64.paging import WORD
from dprobed.arch.x86_64.registers import RIP, RSP
from dprobed.arch.x86_64.siginfo import code_of
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone, PtraceError, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracer.debug.postponed import PostponedSignals
from dprobed.tracer.debug.served import ServedHits
from dprobed.tracer.engines import Engines

if TYPE_CHECKING:
    from dprobed.tracer.debug.rsp import Action

#: A breakpoint of the debugger, which removes and inserts them at each stop: kind, address, length.
BreakpointKey = tuple[int, int, int]


class Event(msgspec.Struct, frozen=True):
    """Why the target is held; ``detail`` goes into the stop reply as it is.

    ``breakpoint``: the debugger's breakpoint or watchpoint that was hit.
    """

    tid: int
    signal: int
    detail: bytes = b""
    breakpoint: BreakpointKey | None = None


class Control:
    """One target's threads, as a debugger stops and resumes them."""

    def __init__(self, engines: Engines, pid: int) -> None:
        self._group: Final = engines.group
        self._engines: Final = engines
        self._pid: Final = pid
        #: Whether the target is held.
        self.holds = False
        #: Whether a debugger is connected, which hears of signals.
        self.attached = False
        #: Stops that the debugger has not been told of.
        self.events: deque[Event] = deque()
        #: Signals that are delivered without asking the debugger (QPassSignals), by Linux number,
        #: while a thread is not stepped.
        self.passed: frozenset[int] = frozenset()
        #: Threads that the debugger has told to step: the pc range, or (0, 0).
        self.steps: dict[int, tuple[int, int]] = {}
        self._stack = ExitStack()
        self._ours: set[int] = set()
        #: Threads that the debugger did not resume last: their events wait.
        self._left: set[int] = set()
        #: Threads whose signal the debugger was told of, and may discard.
        self._told: set[int] = set()
        self._sent: set[tuple[int, int]] = set()
        self._served: Final = ServedHits(engines)
        self._postponed: Final = PostponedSignals()
        self._registers: Final = Registers()

    # --- stopping ---

    def threads(self) -> list[Thread]:
        """The target's stopped threads."""
        return [
            thread
            for thread in self._group.threads.values()
            if thread.tgid == self._pid and thread.state in (State.STOPPED, State.HELD)
        ]

    def thread(self, tid: int) -> Thread | None:
        """A stopped thread, by its id."""
        thread = self._group.threads.get(tid)
        if thread is None or thread.state not in (State.STOPPED, State.HELD):
            return None
        return thread

    def owns(self, tid: int) -> bool:
        """Whether a thread is held for the debugger."""
        return tid in self._ours

    def note(self, thread: Thread, event: Event) -> None:
        """Hold a thread that has just stopped, and queue the event for the debugger."""
        thread.held = True
        thread.stepping = False
        self._ours.add(thread.tid)
        self.events.append(event)
        self._group.request_attention()

    @property
    def is_ready(self) -> bool:
        """Whether there is a stop to report."""
        return any(event.tid not in self._left for event in self.events)

    def take(self) -> Event:
        """The first stop that is to be reported; it leaves the queue."""
        event = next(event for event in self.events if event.tid not in self._left)
        self.events.remove(event)
        return event

    def hold(self) -> None:
        """Stop all threads of the target, until ``resume`` or ``release``."""
        if self.holds:
            return
        self.holds = True
        self._stack.enter_context(self._group.stopped())
        self.steps.clear()
        for thread in self._group.threads.values():
            thread.stepping = False
        for thread in self.threads():
            self._served.note(thread)

    def interrupt(self, tid: int) -> None:
        """Stop as the debugger asks (Ctrl-C); reported for thread ``tid`` if that is there."""
        self.hold()
        if not self.is_ready:
            there = [thread.tid for thread in self.threads() if thread.tid not in self._left]
            shown = tid if tid in there or not there else there[0]
            self._left.discard(shown)
            self.events.append(Event(shown, signal.SIGINT))

    # --- going on ---

    def resume(self, actions: Sequence[Action], inserted: Set[BreakpointKey]) -> None:
        """Resume threads; those without an action stay.

        ``inserted``: the present breakpoints. If one of the threads has an event already, nothing
        is resumed: that stop is reported.
        """
        # Here: a debugger is there, for whom all else is imported late, too.
        from dprobed.tracer.debug.rsp import from_gdb

        chosen: dict[int, Action] = {}
        for thread in self.threads():
            for action in actions:
                if action.threads.covers(thread.tid):
                    if action.kind != "t":
                        chosen[thread.tid] = action
                    break
        for tid, action in chosen.items():
            self._give_signal(self._group.threads[tid], from_gdb(action.signal))
        # A hit of a breakpoint that was removed meanwhile is not reported.
        self.events = deque(
            event
            for event in self.events
            if event.tid not in chosen or event.breakpoint is None or event.breakpoint in inserted
        )
        self._left = {thread.tid for thread in self.threads()} - chosen.keys()
        if self.is_ready:
            return
        for thread in self.threads():
            to_do = chosen.get(thread.tid)
            if to_do is None:
                if not thread.held:
                    thread.held = True
                    self._ours.add(thread.tid)
                continue
            self._served.enter_slot(thread)
            with suppress(Gone):
                self._postponed.resume(thread, steps=to_do.kind == "s")
            if to_do.kind == "s":
                thread.stepping = True
                self.steps[thread.tid] = (to_do.start, to_do.end)
            self._free(thread)
        self._go()

    def _go(self) -> None:
        self.holds = False
        self._stack.close()

    def _free(self, thread: Thread) -> None:
        """End the hold of a thread that is held for the debugger."""
        if thread.tid in self._ours:
            self._ours.discard(thread.tid)
            thread.held = False
            if thread.state is State.HELD:
                thread.state = State.STOPPED

    def _give_signal(self, thread: Thread, number: int) -> None:
        """The signal that a thread goes on with: the one that it stopped for, none, or another."""
        if thread.tid in self._told:
            self._told.discard(thread.tid)
            if thread.signal == number:
                return
            thread.signal, thread.siginfo = 0, None
        if number:
            # Not every stop can deliver one: it is sent, and let pass when it comes.
            self._sent.add((thread.tid, number))
            ptrace.send(thread.tgid, thread.tid, number)

    def release(self, leaving: bool = False) -> list[int]:
        """Resume all that is held for a debugger; returns the threads that had stopped for it.

        ``leaving``: the threads stay where they are, because the tracer is about to detach.
        """
        freed = sorted(self._ours)
        self.events.clear()
        for tid in freed:
            thread = self._group.threads.get(tid)
            if thread is not None:
                self._served.enter_slot(thread)
                with suppress(Gone):
                    self._postponed.resume(thread, steps=False)
                if not leaving:
                    self._free(thread)
        if not leaving:
            for thread in self._group.threads.values():
                thread.stepping = False
        self.steps.clear()
        self._ours.clear()
        self._left.clear()
        self._told.clear()
        self._served.clear()
        if self.holds:
            self._go()
        else:
            for tid in freed:
                thread = self._group.threads.get(tid)
                if thread is not None and not leaving:
                    self._group.go(thread)
        return freed

    # --- what happens while it runs ---

    def serve_trap(self, thread: Thread) -> bool:
        """Serve a SIGTRAP stop of a thread that is being stepped; false: nothing was done."""
        if not thread.stepping:
            return False
        try:
            code = code_of(ptrace.get_siginfo(thread.tid))
            entered = thread.enters_handler
            if entered or code <= 0 or code == SI_KERNEL:
                # A handler's first instruction, a SIGTRAP that was sent, or a breakpoint.
                self._engines.stops.serve(thread)
                if entered:
                    self._arrived(thread)
                return True
            if self._engines.stops.end_step(thread):
                self._arrived(thread)
        except (Gone, PtraceError):
            return True
        return True

    def _arrived(self, thread: Thread) -> None:
        if thread.held:
            return  # a watchpoint, of which the debugger hears
        start, end = self.steps.get(thread.tid, (0, 0))
        if not start <= self._registers.load(thread.tid)[RIP] < end:
            self.note(thread, Event(thread.tid, signal.SIGTRAP))

    def signalled(self, thread: Thread) -> None:
        """A signal is about to be delivered: report it to the debugger first.

        Of a thread that is stepped it hears of every one, as from gdbserver: it has that thread
        run through the handler, whose first instruction would else be where the step ends.
        """
        number = thread.signal
        if (thread.tid, number) in self._sent:
            self._sent.discard((thread.tid, number))
            return
        if not number or thread.tgid != self._pid:
            return
        passes = number in self.passed
        if passes and thread.stepping and self.attached:
            with suppress(Gone, PtraceError):
                if self._postponed.postpone(thread):
                    return
        self._postponed.arrived(thread)
        if self.attached and (thread.stepping or not passes):
            self._told.add(thread.tid)
            self.note(thread, Event(thread.tid, number))

    def forget(self, tid: int) -> None:
        """A thread ended."""
        self._ours.discard(tid)
        self._left.discard(tid)
        self._told.discard(tid)
        self._sent = {(thread, number) for thread, number in self._sent if thread != tid}
        self._served.forget(tid)
        self._postponed.forget(tid)
        self.steps.pop(tid, None)
        self.events = deque(event for event in self.events if event.tid != tid)

    def new_image(self, thread: Thread, path: bytes) -> None:
        """``exec``: the thread is the only one, and nothing that was noted holds."""
        for noted in (
            self._ours,
            self._left,
            self._told,
            self._sent,
            self._served,
            self._postponed,
            self.steps,
            self.events,
        ):
            noted.clear()
        thread.stepping = False
        if self.attached:
            self.note(thread, Event(thread.tid, signal.SIGTRAP, b"exec:%s;" % path.hex().encode()))

    # --- original registers ---

    def read_general(self, thread: Thread) -> bytearray:
        """The general registers; raises Gone."""
        self._registers.load(thread.tid)
        self._engines.leave(self._registers)
        return bytearray(self._registers.data)

    def write_general(self, thread: Thread, data: bytearray) -> None:
        """Set the general registers; raises Gone.

        A thread with the same pc stays in its slot; with another stack pointer it is another hit.
        """
        shown = self.read_general(thread)
        if data == shown:
            return
        new, old = memoryview(data).cast("Q"), memoryview(shown).cast("Q")
        words = self._registers.load(thread.tid)
        if (new[RIP], new[RSP]) != (old[RIP], old[RSP]):
            self._registers.data[:] = data
            self._engines.stops.moved(thread)
        else:
            for index in range(len(new)):
                if new[index] != old[index]:
                    words[index] = words[index] + new[index] - old[index] & WORD
        self._registers.store(thread.tid)
