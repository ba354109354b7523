"""The engines of one target as one: each call goes to the engine that it concerns, or to all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from dprobed.engine.address_space import AddressSpace
from dprobed.engine.affinity import Affinity
from dprobed.engine.errors import SpaceError
from dprobed.engine.interface import Listener, Location, Plan, Refusal, Twin
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.trap import copies
from dprobed.engine.trap.sites import Sites
from dprobed.tracee.ptrace import Gone, Registers
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer import adoption
from dprobed.tracer.engine_stops import EngineStops
from dprobed.tracer.engine_views import EngineViews
from dprobed.tracer.file_code import code_difference
from dprobed.tracer.static_probes import count_down, count_up, keep_up
from dprobed.wire.engines import INLINE, SIGNAL, TRAP
from dprobed.wire.protocol import State as ProbeState

#: What became of a plan.
Armed = tuple[Plan, Attachment | Refusal]


class Engines(EngineViews):
    """The engines of one target."""

    def __init__(
        self, group: ThreadGroup, listener: Listener, registers: Registers, affinity: Affinity
    ) -> None:
        """``registers`` and ``affinity`` are those of all targets of this tracer."""
        super().__init__(group, listener, registers, affinity)
        self.stops: Final = EngineStops(self._trap, self._watch, self._last_first, registers)

    def use(self, space: AddressSpace) -> None:
        """Start in an address space that has none of our changes."""
        for engine in self._all:
            engine.use(space)
        self.runner.use(space.memory)

    def adopt(self) -> None:
        """Take over what a tracer that was killed has left here; no stop was served yet.

        Raises Gone and SpaceError.
        """
        adoption.adopt(self._trap, self._needed_inline)

    def copied(self, thread: Thread) -> Sites:
        """The sites in a ``fork`` child's copy of the memory; raises SpaceError and Gone."""
        try:
            return copies.copied(self._trap.sites, self.group, thread)
        except OSError:
            raise Gone(thread.tid) from None

    def sealed(self, tgid: int) -> Sites:
        """The sites in the memory of a child that is closed to us."""
        return copies.sealed(self._trap.sites, tgid)

    def use_copy(self, sites: Sites) -> None:
        """Start in a copy of a parent's address space."""
        self._trap.use_sites(sites)
        for engine in self._all:
            if engine is not self._trap:
                engine.use(sites.space)
        self.runner.use(sites.space.memory)
        self._classify()

    def take_over_copy(self, parent: Engines) -> None:
        """What a ``fork`` child has from its parent besides places.

        Those of the parent's debugger are taken out, and those that are there no more.
        """
        self._trap.sigtrap.take_over(parent._trap.sigtrap)
        self._trap.remove_empty()
        self.space.semaphores.release_unneeded()
        self._classify()

    def release_child(self, thread: Thread) -> None:
        """Undo our changes in a ``fork`` child's copy of the memory, and detach from it.

        Raises Gone, and SpaceError when there is no way into its memory.
        """
        for engine in self._last_first():
            engine.release_child(thread)
        self.group.detach(thread)

    def is_fork_copy(self, thread: Thread) -> bool:
        """See TrapEngine."""
        return self._trap.is_fork_copy(thread)

    # --- putting in ---

    def allow_unguarded(self, refusing: str) -> None:
        """Which rule refuses breakpoints where the target is not guarded; empty: none."""
        self._trap.only_guarded = refusing

    def why_unguarded(self) -> str:
        """See TrapEngine."""
        return self._trap.why_unguarded()

    def offer(self, probe: Probe, location: Location, asked: str = TRAP) -> Plan | Refusal:
        """A plan for a location, or why there is none.

        ``asked``: the engine that is to serve code; a watchpoint has no choice.
        """
        found = self._offered(probe, location, asked)
        if isinstance(found, Plan) and (difference := self._code_difference(location)):
            return Refusal(ProbeState.MISMATCH, difference)
        return found

    def _offered(self, probe: Probe, location: Location, asked: str) -> Plan | Refusal:
        if location.kind:
            found = self._watch.offer(probe, location)
        elif asked == INLINE:
            found = self._needed_inline().offer(probe, location)
        elif asked == SIGNAL:
            found = self._needed_inline().offer_breakpoint(probe, location)
        else:
            found = self._trap.offer(probe, location)
        assert found is not None, location
        return found

    def sync(self, *, final: bool = False) -> None:
        """Take over what was counted without us; ``final``: no thread runs any more."""
        for engine in self._all:
            engine.sync(final=final)

    @contextmanager
    def quiet(self) -> Iterator[bool]:
        """All threads are stopped within; whether none is, or comes back, where programs run
        without us."""
        with self.group.stopped() as unstoppable:
            left = [engine.leave_code() for engine in self._all]
            yield all(left) and not unstoppable

    def tick(self) -> None:
        """The same now and then, as far as other work allows."""
        for engine in self._all:
            engine.tick()

    @property
    def is_polled(self) -> bool:
        """Whether to look often at what happens without a stop."""
        return any(engine.is_polled for engine in self._all)

    def reserve(self, plans: Sequence[Plan]) -> list[tuple[Plan, Refusal]]:
        """See Engine."""
        return [
            refused
            for engine in self._all
            for refused in engine.reserve([plan for plan in plans if plan.engine in engine.names])
        ]

    def left(self, probes: Iterable[Probe]) -> None:
        """These run in the target no more, but here."""
        if self._inline is not None:
            self._inline.left(probes)

    def arm(self, plans: Sequence[Plan], unstoppable: list[Thread]) -> list[Armed]:
        """See Engine."""
        refused, ready = count_up(self.space, plans)
        armed: list[Armed] = []
        try:
            for engine in self._all:
                its = [each for each in ready if each.engine in engine.names]
                armed += engine.arm(its, unstoppable)
        except BaseException:
            count_down(self.space, (plan.location for plan in ready))
            raise
        count_down(self.space, (plan.location for plan, it in armed if isinstance(it, Refusal)))
        self._classify()
        return refused + armed

    def abandon_reserved(self) -> None:
        """See Engine."""
        for engine in self._all:
            engine.abandon_reserved()

    def _code_difference(self, location: Location) -> str:
        code = location.code
        return code_difference(location, self.original(location.address, len(code))) if code else ""

    def insert_internal(self, where: Location, callback: Callable[[Thread], None]) -> None:
        """See TrapEngine; raises SpaceError also where the file has other code."""
        if difference := self._code_difference(where):
            raise SpaceError(f"{where.place}: {difference}")
        self._trap.insert_internal(where.address, callback)

    def adopt_internal(self, address: int, callback: Callable[[Thread], None]) -> bool:
        """See TrapEngine."""
        return self._trap.adopt_internal(address, callback)

    def forget_internal(self, address: int) -> None:
        """See TrapEngine."""
        self._trap.forget_internal(address)

    def put(self, plan: Plan | Refusal) -> Attachment | Refusal:
        """Insert one probe; raises SpaceError and Gone."""
        if isinstance(plan, Refusal):
            return plan
        try:
            refused = self.reserve([plan])
            if refused:
                return refused[0][1]
            with self.group.stopped() as unstoppable:
                return self.arm([plan], unstoppable)[0][1]
        finally:
            self.abandon_reserved()

    def _classify(self) -> None:
        self._trap.classify()

    # --- taking out ---

    def release(self, attachments: Iterable[Attachment]) -> None:
        """Remove these, with all threads stopped if need be."""
        released = list(attachments)
        waiting = [
            engine
            for engine in self._all
            if engine.release([each for each in released if each.engine in engine.names])
        ]
        if waiting:
            with self.group.stopped() as unstoppable:
                for engine in waiting:
                    engine.disarm(unstoppable)
        count_down(self.space, released)

    def unmapped(self, attachments: Iterable[Attachment]) -> None:
        """See Engine."""
        gone = list(attachments)
        for each in gone:
            self.space.semaphores.forget(each.semaphore)
        for engine in self._all:
            engine.unmapped([each for each in gone if each.engine in engine.names])

    def disarm(self) -> None:
        """Remove what was lost."""
        with self.group.stopped() as unstoppable:
            for engine in self._all:
                engine.disarm(unstoppable)

    def disarm_all(self, unstoppable: list[Thread]) -> None:
        """See Engine."""
        for engine in self._all:
            engine.disarm_all(unstoppable)
        self.space.semaphores.release_all()

    def remove_all(self, unstoppable: list[Thread]) -> None:
        """Take back every change, before a detach, with all other threads stopped.

        Our pages stay while an unstoppable thread may be in one. Raises Gone and SpaceError.
        """
        self.disarm_all(unstoppable)
        space = self.space
        if not unstoppable and (space.resident.areas or any(each.pages() for each in self._all)):
            lender = self.group.borrower.lender(space.tgid)
            for engine in self._last_first():
                engine.unmap(lender)
            space.resident.unmap(self.group, lender)
            space.resident.areas.clear()
        if not any(each.unfinished is not None for each in unstoppable):
            space.calls.remove_gate()

    # --- threads ---

    def begin(self, thread: Thread) -> None:
        """A new thread, or process that shares the memory, made its first stop."""
        self.runner.forget(thread.tid)
        try:
            for engine in self._all:
                engine.begin(thread)
        except Gone:
            return

    def forget(self, thread: Thread) -> None:
        """A thread ended."""
        self.runner.forget(thread.tid)
        for engine in self._all:
            engine.forget(thread)

    def apply_unreached(self) -> None:
        """See WatchEngine."""
        self._watch.apply_unreached()

    # --- other address spaces ---

    def forked(self, child: Engines, twin: Twin) -> list[Attachment]:
        """See Engine."""
        found: list[Attachment] = []
        for engine in self._all:
            found += engine.forked(child._named(engine.names[0]), twin)
        keep_up(child.space, found)
        return found

    def exec(self) -> None:
        """See Engine: the address space is gone, unless a CLONE_VM child still uses it."""
        for engine in self._all:
            engine.exec()
        self.space.close()
