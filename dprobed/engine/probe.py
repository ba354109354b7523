"""One probe of an inserted program in one target.

A ``Probe`` has the state and the counters; an ``Attachment`` is one address at which it is
inserted (a source line can have several). Hits are counted from -pass_count, and the program runs
when the count is 0 or more (``language.md``), so the first ``pass_count`` hits are passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from dprobed.engine.budget import Account
from dprobed.program.exec.interface import Context, Outcome, Reader
from dprobed.program.model import ProbeDefinition, least
from dprobed.wire.protocol import ProbeStatus, State


class Located(Protocol):
    """What an attachment has of its location."""

    @property
    def address(self) -> int:
        """In memory."""

    @property
    def number(self) -> int:
        """Of the place, as records give it."""

    @property
    def place(self) -> str:
        """As shown."""

    @property
    def module_key(self) -> object:
        """The mapping of its module; the attachment is removed with that."""

    @property
    def semaphore(self) -> int:
        """The address of the one that is counted up for it; 0: none."""

    @property
    def arguments(self) -> tuple[Reader, ...]:
        """What reads those of a static probe there."""


class Attachment:
    """A probe inserted at one address; engines subclass it.

    ``may_be_at_data``: else it is at code.
    """

    __slots__ = (
        "address",
        "arguments",
        "engine",
        "module_key",
        "number",
        "place",
        "probe",
        "semaphore",
    )
    may_be_at_data = False

    def __init__(self, probe: Probe, engine: str, where: Located) -> None:
        """``engine``: the name of the one that serves it."""
        self.probe: Final = probe
        self.engine: Final = engine
        self.number: Final = where.number
        self.place: Final = where.place
        self.address: Final = where.address
        self.module_key: Final = where.module_key
        self.semaphore: Final = where.semaphore
        self.arguments: Final = where.arguments


class Cores:
    """The cores that a probe has asked for, in all processes to which a fork took it."""

    __slots__ = ("writing", "written")

    def __init__(self) -> None:
        self.written = 0
        self.writing = 0


class Probe:
    """State and counters of one probe."""

    __slots__ = (
        "accounts",
        "alters",
        "asleep_ns",
        "asleep_since",
        "attachments",
        "cores",
        "definition",
        "dropped",
        "dumped",
        "engine",
        "entry",
        "entry_part",
        "faulted",
        "governors",
        "hits",
        "index",
        "last",
        "mark",
        "missed",
        "module",
        "native",
        "no_dumps",
        "over",
        "pass_count",
        "place",
        "present_since",
        "present_until",
        "program",
        "ran",
        "reason",
        "retry",
        "revocable",
        "state",
        "throttled",
        "throttled_until",
        "uncounted_ns",
        "unwound",
    )

    def __init__(
        self,
        program: int,
        definition: ProbeDefinition,
        entry: Callable[[Context], Outcome],
        module: str,
        *,
        alters: bool,
        max_hits: int = 0,
        entry_part: Callable[[Context], Outcome] | None = None,
        native: object = None,
    ) -> None:
        """``alters``: its program can alter registers of the thread. ``max_hits``: see ``cap``.

        ``entry_part``: what runs when the function is entered whose returns are its hits.
        ``native``: what the engine knows that runs it in the target itself; None: none does.
        """
        self.program: Final = program
        self.definition: Final = definition
        self.entry: Final = entry
        self.entry_part: Final = entry_part
        self.native: Final = native
        self.alters: Final = alters
        self.pass_count: Final = definition.pass_count
        #: The number of the last hit that runs the program; a number never reached: no limit.
        self.last = 0
        self.cap(max_hits)
        self.revocable: Final = not (definition.logonfault or definition.returns)
        self.index: Final = definition.index
        #: Whether it is never to run again in this target.
        self.over = False
        self.state = State.PENDING
        self.reason = "no mapped module of that name yet"
        self.module = module
        self.place = definition.offset or definition.address or ""
        self.attachments: list[Attachment] = []
        #: Pending though its module is mapped: place it again now and then.
        self.retry = False
        self.hits = 0
        self.ran = 0
        self.missed = 0
        self.dropped = self.faulted = 0
        self.unwound = 0  #: Calls that were left without returning.
        #: Cores that were written for it here, and why others were not: reason → how often.
        self.dumped = 0
        self.no_dumps: dict[str, int] = {}
        #: Shared with the same probe in fork children.
        self.cores = Cores()
        #: What its hits are charged to; those of them that put it to sleep.
        self.accounts: tuple[Account, ...] = ()
        self.governors: tuple[Account, ...] = ()
        #: The name of the engine that serves it, or did when its state was last asked for.
        self.engine = ""
        #: Monotonic ns, 0 while it does not apply: when it was first in, when it was out for good,
        #: since when it is throttled; and for how long it was before.
        self.present_since = 0
        self.present_until = 0
        self.asleep_since = 0
        self.asleep_ns = 0
        #: ``hits`` when it was last inserted again after that.
        self.mark = 0
        #: Until when it is shown as throttled, though it may be inserted by turns (monotonic ns).
        self.throttled_until = 0
        self.throttled = ""
        self.uncounted_ns = 0  #: For how long no tracer was there, since it was first in.

    def count_on(self, former: ProbeStatus, gone: int) -> None:
        """Go on from what another tracer had counted ``gone`` ns ago, when it was last able to say
        so."""
        self.hits, self.ran, self.missed = former.hits, former.ran, former.missed
        self.dropped, self.faulted = former.dropped, former.faulted
        self.unwound = former.unwound
        self.dumped, self.no_dumps = former.dumped, dict(former.no_dumps)
        self.cores.written = former.dumped
        self.asleep_ns = former.asleep_ns
        if former.state in (State.REMOVED, State.DISABLED):
            self.set(former.state, former.reason)
            self.present_since = time.monotonic_ns() - former.present_ns
            return
        self.uncounted_ns = former.uncounted_ns
        if former.present_ns:
            self.present_since = time.monotonic_ns() - gone - former.present_ns
            self.uncounted_ns += gone

    def cap(self, max_hits: int) -> None:
        """Run the program at so many hits at most, and no more than it says itself; 0: no limit."""
        limit = least(self.definition.max_hits, max_hits)
        self.last = self.pass_count + limit if limit else 1 << 63

    def set(self, state: State, reason: str = "") -> None:
        """Enter a state; ``reason`` is shown with it."""
        self.state = state
        self.reason = reason
        self.over = state in (State.REMOVED, State.DISABLED)
        now = time.monotonic_ns()
        if state is State.ACTIVE and not self.present_since:
            self.present_since = now
        if self.asleep_since and state is not State.THROTTLED:
            self.asleep_ns += now - self.asleep_since
            self.asleep_since = 0
        if self.over and not self.present_until:
            self.present_until = now

    def note_missed(self, why: str) -> None:
        """A call is missed, because its return cannot be seen: show why."""
        self.missed += 1
        self.reason = f"some returns cannot be seen: {why}"

    def sleep(self, now: int) -> None:
        """It is throttled from now on, until another state is set."""
        self.asleep_since = self.asleep_since or now

    def status(self) -> ProbeStatus:
        """Its state and counters, as the daemon is told."""
        if self.attachments:
            self.engine = self.attachments[0].engine
        state, reason = self.state, self.reason
        if state is State.ACTIVE and time.monotonic_ns() < self.throttled_until:
            state, reason = State.THROTTLED, self.throttled
        now = self.present_until or time.monotonic_ns()
        asleep = self.asleep_ns + (now - self.asleep_since if self.asleep_since else 0)
        return ProbeStatus(
            program=self.program,
            probe=self.definition.index,
            state=state,
            module=self.module,
            place=self.place,
            reason=reason,
            hits=self.hits,
            ran=self.ran,
            missed=self.missed,
            dropped=self.dropped,
            faulted=self.faulted,
            addresses=sorted(each.address for each in self.attachments),
            asleep_ns=asleep,
            present_ns=now - self.present_since if self.present_since else 0,
            engine=self.engine,
            dumped=self.dumped,
            no_dumps=dict(self.no_dumps),
            uncounted_ns=self.uncounted_ns,
            unwound=self.unwound,
        )
