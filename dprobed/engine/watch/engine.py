"""The watch engine: watchpoints on debug registers, the same four in every thread of the target.

A data breakpoint stops the thread after the access, an execute breakpoint before the instruction.
The kernel's own accesses for the target (``read`` into a watched buffer) are not seen. New threads
have none (``flush_ptrace_hw_breakpoint``), so each is given them at its first stop; a thread that
could not be stopped gets them later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from dprobed.arch.x86_64.breakpoint import TRAP_HWBKPT
from dprobed.arch.x86_64.debug_registers import is_length_valid
from dprobed.arch.x86_64.registers import RIP
from dprobed.change_journal import Kind
from dprobed.engine.address_space import AddressSpace
from dprobed.engine.interface import (
    AtStops,
    Listener,
    Location,
    Loss,
    Plan,
    Refusal,
    TrapStop,
    Twin,
)
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.runner import ProgramRunner
from dprobed.engine.watch.registers import DebugRegisters, WatchAttachment
from dprobed.tracee import ptrace, restartable
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Gone, PtraceError, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.wire.engines import WATCH
from dprobed.wire.protocol import State as ProbeState

#: Of a hit, with a short program, where tracer and thread are on one CPU.
_COST_NS: Final = 21_000
_TAKEN: Final = "all four debug registers are in use: remove another watchpoint first"


def _why_unwatched(tid: int, error: PtraceError) -> str:
    return f"not in thread {tid}: {error.strerror}; perf may be using its debug registers"


def _why_unnoted(error: OSError) -> str:
    return f"its undo cannot be noted: {error.strerror}"


class WatchEngine(AtStops):
    """The watch engine of one target."""

    names: Final = (WATCH,)

    def __init__(self, group: ThreadGroup, listener: Listener, runner: ProgramRunner) -> None:
        #: Why not all threads have all watchpoints; empty: they have.
        self.reason = ""
        self._group: Final = group
        self._listener: Final = listener
        self._runner: Final = runner
        self._registers: Final = DebugRegisters()
        #: Threads that could not be stopped when the registers changed.
        self._unreached: set[int] = set()
        #: Where each thread's ``struct rseq`` lies.
        self._areas: Final[dict[int, int]] = {}
        self._space = AddressSpace.unopened(0)
        self._lost: list[Loss] = []

    def use(self, space: AddressSpace) -> None:
        """See Engine: nothing is kept in memory."""
        self._space = space
        self._areas.clear()
        self._lost.clear()

    # --- putting in ---

    def offer(self, probe: Probe, location: Location) -> Plan | Refusal | None:
        """See Engine."""
        if not location.kind:
            return None
        if not is_length_valid(location.kind, location.address, location.length):
            return Refusal(
                ProbeState.WATCHPOINT_LENGTH, "1, 2, 4 or 8 bytes, aligned to their length"
            )
        return Plan(WATCH, probe, location, _COST_NS)

    def reserve(self, plans: Sequence[Plan]) -> list[tuple[Plan, Refusal]]:
        """See Engine: debug registers need no preparation."""
        return []

    def arm(
        self, plans: Sequence[Plan], unstoppable: list[Thread]
    ) -> list[tuple[Plan, Attachment | Refusal]]:
        """See Engine. A watchpoint that not all threads can have is in none."""
        results: list[tuple[Plan, Attachment | Refusal]] = []
        if plans:
            try:
                self._space.changes.note(Kind.WATCH, 0)
            except OSError as error:
                refusal = Refusal(ProbeState.FAILED, _why_unnoted(error))
                return [(plan, refusal) for plan in plans]
        for plan in plans:
            where = plan.location
            index = self._registers.add(where.kind, where.address, where.length)
            if index is None:
                results.append((plan, Refusal(ProbeState.NO_DEBUG_REGISTER, _TAKEN)))
                continue
            attachment = WatchAttachment(plan.probe, where, index)
            self._registers.attach(index, attachment)
            results.append((plan, attachment))
        if plans and (reason := self._apply(unstoppable)):
            for at, (plan, result) in enumerate(results):
                if isinstance(result, WatchAttachment):
                    self._registers.detach(result)
                    results[at] = plan, Refusal(ProbeState.NO_DEBUG_REGISTER, reason)
            self._apply(unstoppable)
        return results

    def abandon_reserved(self) -> None:
        """See Engine."""

    # --- taking out ---

    def attachments(self) -> list[Attachment]:
        """See Engine."""
        return list(self._registers.attachments())

    def release(self, attachments: Iterable[Attachment]) -> bool:
        """See Engine."""
        released = list(attachments)
        for attachment in released:
            assert isinstance(attachment, WatchAttachment)
            self._registers.detach(attachment)
        return bool(released)

    def disarm(self, unstoppable: list[Thread]) -> None:
        """See Engine."""
        self._apply(unstoppable)

    def unmapped(self, attachments: Iterable[Attachment]) -> None:
        """See Engine: nothing of ours is in memory."""

    def pages(self) -> list[tuple[int, int]]:
        """See Engine: nothing of ours is in memory."""
        return []

    def changed(self) -> dict[int, int]:
        """See Engine."""
        return {}

    def unmap(self, thread: Thread) -> None:
        """See Engine."""

    def lost(self) -> list[Loss]:
        """See Engine: a restartable sequence was met, maybe by several threads, and maybe at the
        last hit of a probe that was removed since."""
        lost, self._lost = self._lost, []
        found = []
        for loss in lost:
            there = set(self._registers.attachments())
            left: list[Attachment] = [each for each in loss.attachments if each in there]
            self.release(left)
            found.append(Loss(left, loss.reason, loss.internal))
        return found

    def overwritten(self, attachments: Iterable[Attachment]) -> list[Loss]:
        """See Engine."""
        return []

    def disarm_all(self, unstoppable: list[Thread]) -> None:
        """See Engine; a thread that is gone, or cannot have its registers set, has none of ours."""
        self._registers.clear()
        self._apply(unstoppable)

    # --- threads ---

    def _apply(self, unstoppable: Iterable[Thread]) -> str:
        """Set the registers of every stopped thread; why not all could be set."""
        self._unreached = {thread.tid for thread in unstoppable}
        self.reason = ""
        for thread in self._group.threads.values():
            if thread.state in (State.STOPPED, State.HELD):
                try:
                    self._registers.apply(thread.tid)
                except Gone:
                    continue
                except PtraceError as error:
                    self.reason = _why_unwatched(thread.tid, error)
        if self._registers.are_free and not self._unreached:
            self._space.changes.forget(Kind.WATCH, 0)
        return self.reason

    def apply_unreached(self) -> None:
        """Set the registers of threads that could not be stopped when they changed."""
        if self._unreached & self._group.threads.keys():
            with self._group.stopped() as unstoppable:
                reason = self._apply(unstoppable)
            self._listener.unwatched(reason)

    def begin(self, thread: Thread) -> None:
        """See Engine."""
        try:
            self._registers.apply(thread.tid)
        except PtraceError as error:
            self._listener.unwatched(_why_unwatched(thread.tid, error))

    def forget(self, thread: Thread) -> None:
        """See Engine."""
        self._unreached.discard(thread.tid)
        self._areas.pop(thread.tid, None)

    def executes(self, address: int) -> bool:
        """Whether execution of the instruction at ``address`` is watched."""
        return self._registers.executes(address)

    # --- stops ---

    def serve(self, thread: Thread, stop: TrapStop, now: int) -> bool:
        """See Engine."""
        if stop.code != TRAP_HWBKPT:
            return False
        if not self.fired(thread, now):
            # A watchpoint that was removed while this thread could not be stopped.
            self.begin(thread)
        return True

    def fired(self, thread: Thread, now: int) -> bool:
        """Run the programs of the watchpoints that fired in the thread; false: none of ours.

        Its registers are loaded, and show the original place. Raises Gone.
        """
        fired = self._registers.fired(thread.tid)
        if fired:
            words = self._runner.registers.words
            address = words[RIP]
            # Before the programs run: the thread may make a system call for us in the middle of
            # its hit, and is in no sequence any more then.
            abort = self._abort_address(thread.tid, address)
            self._runner.run(thread, fired, False, now)
            if abort:
                if words[RIP] == address and restartable.unregister(
                    self._space.memory.poke, self._areas[thread.tid]
                ):
                    words[RIP] = abort
                self._lost.append(Loss(list(fired), restartable.REASON, False))
                thread.pinned = True
                self._listener.lost(thread)
        return bool(fired)

    def _abort_address(self, tid: int, address: int) -> int:
        """Where a thread goes on that stopped there in a restartable sequence; 0: it is in none."""
        if tid not in self._areas:
            self._areas[tid] = ptrace.rseq_address(tid)
        return restartable.abort_address(self._space.memory.peek, self._areas[tid], address)

    def deliver(self, thread: Thread) -> None:
        """See Engine: no thread runs code of this engine's."""

    def leave(self, registers: Registers) -> bool:
        """See Engine."""
        return False

    def original(self, address: int, data: bytearray) -> None:
        """See Engine: nothing is changed in memory."""

    # --- other address spaces ---

    def forked(self, child: WatchEngine, twin: Twin) -> list[Attachment]:
        """See Engine."""
        if not self._registers.are_free:
            try:
                child._space.changes.note(Kind.WATCH, 0)
            except OSError as error:
                for attachment in self._registers.attachments():
                    followed = twin(attachment)
                    if followed is not None:
                        followed[0].set(ProbeState.FAILED, _why_unnoted(error))
                return []
        return list(child._registers.take_over(self._registers, twin))

    def release_child(self, thread: Thread) -> None:
        """See Engine: the kernel gives a new process none of the registers."""

    def exec(self) -> None:
        """See Engine; the kernel has cleared the registers of the thread that is left."""
        self._registers.clear()
