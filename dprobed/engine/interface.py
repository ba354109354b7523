"""What an engine is: one way in which probes fire, for one target.

The order of calls, for what is put in: ``offer`` looks only; ``reserve`` may map memory, and can
find out what ``offer`` could not see; ``arm`` with all threads stopped. For what is taken out:
``release`` has no program run there any more; ``disarm`` with all threads stopped. A stop of a
thread is offered to the engines in turn (``serve``); who knows it leaves the thread with a plan.
What an engine notes of a thread is its own, and nobody else's to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, Self

import msgspec

from dprobed.engine.address_space import AddressSpace
from dprobed.engine.budget import Account
from dprobed.engine.probe import Attachment, Probe
from dprobed.proc.procfs import Status
from dprobed.program.exec.interface import Outcome
from dprobed.tracee.ptrace import Registers
from dprobed.tracee.thread import Thread
from dprobed.wire.protocol import RawRecord, State


class Location(msgspec.Struct, frozen=True):
    """One address at which a probe is to be.

    ``number``: the place's in records; ``place``: for people; ``module_key``: the mapping of the
    module that it belongs to. ``opcode``: bytes that have to be there; empty: whatever is. ``kind``
    and ``length``: of a watchpoint (``x``, ``w``, ``rw``); empty and 0: for code.
    """

    address: int
    number: int = 0
    place: str = ""
    module_key: object = None
    opcode: bytes = b""
    kind: str = ""
    length: int = 0


class Plan(msgspec.Struct, frozen=True):
    """An engine can serve the probe there; ``cost_ns``: about what a hit will cost the thread."""

    probe: Probe
    location: Location
    cost_ns: int


class Refusal(msgspec.Struct, frozen=True):
    """An engine cannot serve a probe: the state that it is in for that, and why, in one line."""

    state: State
    reason: str


class Loss(msgspec.Struct, frozen=True):
    """Places at which no probe can be any more in this address space, and why.

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

    def latest(self) -> tuple[tuple[int, int], ...]:
        """A note by which ``withdraw`` finds the record added last; none when it is on its way."""
        ...

    def withdraw(self, batch: int, index: int) -> Probe | None:
        """Take a record back; its probe, or None when it is on its way."""
        ...


class Listener(Protocol):
    """All that engines need from above. Called in the middle of a stop: note, and act later."""

    @property
    def records(self) -> RecordSink:
        """Where records go."""
        ...

    def facility(self, thread: Thread, attachment: Attachment, outcome: Outcome) -> None:
        """A program ended by ``exit n``: for what acts while its thread stands there."""
        ...

    def retired(self) -> None:
        """A probe is through with this target (``rem``, max_hits, a defect)."""
        ...

    def overdrawn(self, account: Account) -> None:
        """A budget is overdrawn."""
        ...

    def suspended(self, thread: Thread) -> None:
        """A program's ``suspend`` holds the thread."""
        ...

    def resume(self) -> None:
        """A program lets all threads go that are held."""
        ...

    def lost(self, thread: Thread) -> None:
        """Probes cannot be where they are (``Engine.lost``); the thread is pinned until then."""
        ...

    def unwatched(self, trouble: str) -> None:
        """Not all threads have all watchpoints, and why; empty: all do."""
        ...

    def identified(self, thread: Thread, found: Status) -> None:
        """What /proc says of a thread was read again, as it is now and then at its hits."""
        ...


class Engine(Protocol):
    """One mechanism in one target. ``name``: as it is asked for, and shown."""

    @property
    def name(self) -> str:
        """What ``ProbeStatus.engine`` says."""
        ...

    def use(self, space: AddressSpace) -> None:
        """Begin with an address space in which nothing is yet."""
        ...

    def offer(self, probe: Probe, location: Location) -> Plan | Refusal:
        """Whether it can serve this; nothing is changed."""
        ...

    def reserve(self, plans: Sequence[Plan]) -> list[tuple[Plan, Refusal]]:
        """Get ready what ``arm`` needs; those that turn out to be impossible.

        Raises SpaceError and Gone when the target has no room; nothing is changed then.
        """
        ...

    def arm(
        self, plans: Sequence[Plan], late: list[Thread]
    ) -> list[tuple[Plan, Attachment | Refusal]]:
        """Put these in; all threads are stopped but those ``late``."""
        ...

    def abandon_reserved(self) -> None:
        """Give back what ``reserve`` got and ``arm`` did not use."""
        ...

    def release(self, attachments: Iterable[Attachment]) -> bool:
        """Have these serve no more; whether there is something to ``disarm``."""
        ...

    def disarm(self, late: list[Thread]) -> None:
        """Take out what nobody needs; all threads are stopped but those ``late``."""
        ...

    def attachments(self) -> list[Attachment]:
        """Everything that is in."""
        ...

    def unmapped(self, attachments: Iterable[Attachment]) -> None:
        """Their module was unmapped: what is there now is not ours to touch."""
        ...

    def lost(self) -> list[Loss]:
        """What has turned out, at stops since the last call, to be impossible."""
        ...

    def overwritten(self, attachments: Iterable[Attachment]) -> list[Loss]:
        """Which of these are not there any more, because the target changed its code."""
        ...

    def begin(self, thread: Thread) -> None:
        """A thread made its first stop; raises Gone."""
        ...

    def forget(self, thread: Thread) -> None:
        """A thread ended."""
        ...

    def serve(self, thread: Thread, stop: TrapStop, now: int) -> bool:
        """A SIGTRAP stop, registers loaded; false: it is none of this engine's. Raises Gone."""
        ...

    def leave(self, registers: Registers) -> bool:
        """Change loaded registers to those of the equivalent original place; whether they were in
        code of ours."""
        ...

    def original(self, address: int, data: bytearray) -> None:
        """Change memory as it was read to what it is without us."""
        ...

    def forked(self, child: Self, twin: Twin) -> list[Attachment]:
        """Give a ``fork`` child's engine, whose memory is a copy, the same places; its
        attachments."""
        ...

    def exec(self) -> None:
        """The address space is gone."""
        ...

    def withdraw(self, late: list[Thread]) -> None:
        """Take everything out; all threads are stopped but those ``late``."""
        ...
