"""The engine interface: an engine is one mechanism by which probes fire, in one target.

To insert: ``offer`` looks only; ``reserve`` may map memory, and can find out what ``offer`` could
not see; ``arm`` with all threads stopped. To remove: ``release`` ends the running of programs;
``disarm`` with all threads stopped. A stop is offered to the engines in turn (``serve``); the one
whose stop it is leaves the thread with a plan. What an engine notes of a thread is private to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, Self

import msgspec

from dprobed.engine.address_space import AddressSpace
from dprobed.engine.budget import Account
from dprobed.engine.context import HitContext
from dprobed.engine.probe import Attachment, Probe
from dprobed.engine.static_arguments import StaticArgument
from dprobed.proc.procfs import Status
from dprobed.program.exec.interface import Outcome
from dprobed.program.user_stack import UserStack
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Thread
from dprobed.wire.protocol import RawRecord, State


class Location(msgspec.Struct, frozen=True):
    """One address at which a probe is to be inserted.

    ``number``: of the place, in records; ``place``: as shown; ``module_key``: the mapping of its
    module. ``opcode``: bytes that the user says are there; empty: any. ``code``: bytes that its
    file has there; empty: of none. ``kind``
    and ``length``: of a watchpoint (``x``, ``w``, ``rw``); empty and 0: for code. ``size``: bytes
    of the function that begins there, 0 where that is not known. ``semaphore``: to be counted up
    for as long as a probe is there; 0: none. ``arguments``: those of a static probe.
    ``goroutine``: it is in Go's code, whose runtime moves stacks while functions run on them.
    """

    address: int
    number: int = 0
    place: str = ""
    module_key: object = None
    opcode: bytes = b""
    code: bytes = b""
    kind: str = ""
    length: int = 0
    size: int = 0
    semaphore: int = 0
    arguments: tuple[StaticArgument, ...] = ()
    goroutine: bool = False


class Plan(msgspec.Struct, frozen=True):
    """An engine's offer to serve a probe; ``cost_ns``: about what a hit will cost the thread.


    ``engine``: the name of the engine that offers it.
    """

    engine: str
    probe: Probe
    location: Location
    cost_ns: int


class Refusal(msgspec.Struct, frozen=True):
    """An engine cannot serve a probe: the probe's state for that, and the reason in one line."""

    state: State
    reason: str


class Loss(msgspec.Struct, frozen=True):
    """Places at which no probe is possible any more in this address space, and why.

    Their attachments are released; ``disarm`` is to come. ``internal``: an internal breakpoint was
    among them.
    """

    attachments: list[Attachment]
    reason: str
    internal: bool


class TrapStop(msgspec.Struct, frozen=True):
    """A SIGTRAP stop: its siginfo, and ``si_code``."""

    info: bytes
    code: int


#: How the attachment of a parent's probe is named in its ``fork`` child: the child's probe and
#: the number of the place; None: that probe does not follow.
Twin = Callable[[Attachment], tuple[Probe, int] | None]


class RecordSink(Protocol):
    """Takes records; ``latest`` and ``withdraw`` are for those whose instruction then faults."""

    def add(self, probe: Probe, record: RawRecord) -> None:
        """One record."""
        ...

    def latest(self) -> tuple[int, ...]:
        """A handle by which ``withdraw`` finds the latest record; empty when that has been sent."""
        ...

    def withdraw(self, handle: int) -> Probe | None:
        """Take a record back; its probe, or None when it has been sent."""
        ...


class Listener(Protocol):
    """All that engines need from above. Called in the middle of a stop: note, and act later."""

    @property
    def records(self) -> RecordSink:
        """Where records go."""
        ...

    def user_stack(self, context: HitContext, depth: int) -> UserStack:
        """The stack of the thread that hit, ``depth`` frames at most."""
        ...

    def at_hit(self, thread: Thread, attachment: Attachment, outcome: Outcome) -> int:
        """A program ended by ``exit dump`` or ``exit debugger``: the exit that its record gets,
        which comes after this.

        It says whether a dump will be begun, or the thread held.
        """
        ...

    def retired(self) -> None:
        """A probe is finished in this target (``rem``, max_hits, an internal error): remove it."""
        ...

    def overdrawn(self, account: Account) -> None:
        """A budget is overdrawn."""
        ...

    def suspended(self, thread: Thread) -> None:
        """A program suspended the thread."""
        ...

    def resume(self) -> None:
        """A program resumes all suspended threads."""
        ...

    def lost(self, thread: Thread) -> None:
        """Probes have to be removed (``Engine.lost``); the thread is pinned until they are."""
        ...

    def unremoved(self, what: str) -> None:
        """What of ours stays in the target, because it cannot be taken out."""
        ...

    def untaken(self, reason: str) -> None:
        """Why this ``fork`` child has not all probes that its parent has."""
        ...

    def unwatched(self, reason: str) -> None:
        """Why not all threads have all watchpoints; empty: they have."""
        ...

    def identified(self, thread: Thread, found: Status) -> None:
        """The status of a thread was read again from /proc, as is done now and then at its hits."""
        ...


class Engine(Protocol):
    """One mechanism in one target."""

    @property
    def names(self) -> tuple[str, ...]:
        """Its names in plans and in ``ProbeStatus.engine``."""
        ...

    def use(self, space: AddressSpace) -> None:
        """Start in an address space that has none of our changes."""
        ...

    def offer(self, probe: Probe, location: Location) -> Plan | Refusal | None:
        """Whether it can serve this probe there; None: it is not for such locations. Changes
        nothing."""
        ...

    def reserve(self, plans: Sequence[Plan]) -> list[tuple[Plan, Refusal]]:
        """Prepare what ``arm`` needs, such as slots; returns the plans that are impossible.

        Raises SpaceError and Gone when the target has no room; nothing is changed then.
        """
        ...

    def arm(
        self, plans: Sequence[Plan], unstoppable: list[Thread]
    ) -> list[tuple[Plan, Attachment | Refusal]]:
        """Insert these; all threads are stopped but those ``unstoppable``."""
        ...

    def abandon_reserved(self) -> None:
        """Free what ``reserve`` prepared and ``arm`` did not use."""
        ...

    def release(self, attachments: Iterable[Attachment]) -> bool:
        """Run no program at these any more; whether there is something to ``disarm``."""
        ...

    def disarm(self, unstoppable: list[Thread]) -> None:
        """Remove what no probe needs; all threads are stopped but those ``unstoppable``."""
        ...

    def attachments(self) -> list[Attachment]:
        """All attachments."""
        ...

    def unmapped(self, attachments: Iterable[Attachment]) -> None:
        """Their module was unmapped: what is there now is not ours to touch."""
        ...

    def pages(self) -> list[tuple[int, int]]:
        """Start and end of each mapping of its own in the target."""
        ...

    def changed(self) -> dict[int, int]:
        """The original of each byte of text that it has changed, by address."""
        ...

    def unmap(self, thread: Thread) -> None:
        """After ``disarm_all``, before a detach: have a borrowed thread unmap its pages, and put
        back what else it has changed in the process; all are stopped. Raises SpaceError and Gone.
        """
        ...

    def lost(self) -> list[Loss]:
        """Places that stops since the last call have shown to be impossible."""
        ...

    def overwritten(self, attachments: Iterable[Attachment]) -> list[Loss]:
        """Which of these are gone, because the target changed its code."""
        ...

    def begin(self, thread: Thread) -> None:
        """A thread made its first stop; raises Gone."""
        ...

    def forget(self, thread: Thread) -> None:
        """A thread ended."""
        ...

    def serve(self, thread: Thread, stop: TrapStop, now: int) -> bool:
        """Serve a SIGTRAP stop, registers loaded; false: not this engine's. Raises Gone."""
        ...

    def deliver(self, thread: Thread) -> None:
        """``thread.signal`` is about to be delivered: its handler must not see our code."""
        ...

    def leave(self, registers: Registers) -> bool:
        """Move loaded registers from our code to the equivalent original place; false: they were
        not in our code."""
        ...

    def original(self, address: int, data: bytearray) -> None:
        """Undo our changes in bytes that were read from memory."""
        ...

    def forked(self, child: Self, twin: Twin) -> list[Attachment]:
        """Attach the twins of our probes in a ``fork`` child's engine, whose memory is a copy;
        returns their attachments."""
        ...

    def release_child(self, thread: Thread) -> None:
        """Undo its changes in a ``fork`` child that is not followed, whose memory is a copy.

        Raises Gone, and SpaceError when there is no way into its memory.
        """
        ...

    # --- what happens without a stop (``AtStops``: nothing) ---

    @property
    def is_polled(self) -> bool:
        """Whether to look often at what happens without a stop."""
        ...

    def sync(self, *, final: bool = False) -> None:
        """Take over what was counted without us, and records.

        ``final``: no thread runs any more.
        """
        ...

    def tick(self) -> None:
        """The same now and then, as far as other work allows."""
        ...

    def leave_code(self) -> bool:
        """Bring all threads, which are stopped, out of programs that run without us; whether none
        is, or comes back, there."""
        ...

    def exec(self) -> None:
        """The address space is gone."""
        ...

    def disarm_all(self, unstoppable: list[Thread]) -> None:
        """Remove everything; all threads are stopped but those ``unstoppable``."""
        ...


class AtStops:
    """That part of an ``Engine`` whose programs run in the tracer: nothing happens without a stop.

    See Engine for each.
    """

    is_polled: Final = False

    def sync(self, *, final: bool = False) -> None:
        """See Engine."""

    def tick(self) -> None:
        """See Engine."""

    def leave_code(self) -> bool:
        """See Engine."""
        return True
