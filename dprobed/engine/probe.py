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
from dprobed.engine.static_arguments import StaticArgument
from dprobed.program.exec.interface import Context, Outcome
from dprobed.program.isa import WORD_MASK
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
    def arguments(self) -> tuple[StaticArgument, ...]:
        """Those of a static probe there."""


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
        "readers",
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
        #: What reads these of a stopped thread.
        self.readers: Final = tuple(each.read for each in where.arguments)


class Cores:
    """The cores that a probe has asked for, in all processes to which a fork took it."""

    __slots__ = ("writing", "written")

    def __init__(self) -> None:
        self.written = 0
        self.writing = 0


class Presence:
    """For how long a probe was in its target, and for how much of that nothing was counted: asleep
    (throttled), or with no tracer there. All times are nanoseconds, of the monotonic clock."""

    __slots__ = ("_asleep", "_asleep_since", "_since", "_until", "uncounted")

    def __init__(self) -> None:
        # 0 while it does not apply.
        self._since = 0
        self._until = 0
        self._asleep = 0
        self._asleep_since = 0
        #: For how long no tracer was there, since it was first in.
        self.uncounted = 0

    def begin(self, now: int) -> None:
        """It is in; that it was before is not forgotten."""
        self._since = self._since or now

    def end(self, now: int) -> None:
        """It is out for good."""
        self._until = self._until or now

    def sleep(self, now: int) -> None:
        """It sleeps from now on."""
        self._asleep_since = self._asleep_since or now

    def wake(self, now: int) -> None:
        """It does not sleep, or not any more."""
        if self._asleep_since:
            self._asleep += now - self._asleep_since
            self._asleep_since = 0

    def count_on(self, former: ProbeStatus, began: int) -> None:
        """It was in for as long already when this began."""
        self._asleep = former.asleep_ns
        self.uncounted = former.uncounted_ns
        if former.present_ns:
            self._since = began - former.present_ns

    def durations(self, now: int) -> tuple[int, int]:
        """For how long it was in, and asleep."""
        now = self._until or now
        asleep = self._asleep + (now - self._asleep_since if self._asleep_since else 0)
        return now - self._since if self._since else 0, asleep


class Probe:
    """State and counters of one probe."""

    __slots__ = (
        "accounts",
        "alters",
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
        "presence",
        "program",
        "ran",
        "reason",
        "retry",
        "revocable",
        "slower",
        "spent_ns",
        "state",
        "throttled",
        "throttled_until",
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
        ``native``: what the engine knows that runs it in the target itself; None: none does, or
        none any more.
        """
        self.program: Final = program
        self.definition: Final = definition
        self.entry: Final = entry
        self.entry_part: Final = entry_part
        self.native = native
        #: Why no faster engine serves it; empty: none was to.
        self.slower = ""
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
        #: For how long threads have stood for it.
        self.spent_ns = 0
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
        self.presence: Final = Presence()
        #: ``hits`` when it was last inserted again after that.
        self.mark = 0
        #: Until when it is shown as throttled, though it may be inserted by turns (monotonic ns).
        self.throttled_until = 0
        self.throttled = ""

    def count_on(self, former: ProbeStatus, gone: int) -> None:
        """Go on from what another tracer had counted ``gone`` ns ago, when it was last able to say
        so."""
        self.hits, self.ran, self.missed = former.hits, former.ran, former.missed
        self.dropped, self.faulted = former.dropped, former.faulted
        self.unwound, self.spent_ns = former.unwound, former.spent_ns
        self.dumped, self.no_dumps = former.dumped, dict(former.no_dumps)
        self.cores.written = former.dumped
        now = time.monotonic_ns()
        if former.state in (State.REMOVED, State.DISABLED):
            self.presence.count_on(former, now)
            self.set(former.state, former.reason)
            return
        self.presence.count_on(former, now - gone)
        if former.present_ns:
            self.presence.uncounted += gone

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
        if state is State.ACTIVE:
            self.presence.begin(now)
        if state is not State.THROTTLED:
            self.presence.wake(now)
        if self.over:
            self.presence.end(now)

    def note_missed(self, why: str, count: int = 1) -> None:
        """A call is missed, or several, because its return cannot be seen: show why."""
        self.missed += count
        self.reason = f"some returns cannot be seen: {why}"

    def sleep(self, now: int) -> None:
        """It is throttled from now on, until another state is set."""
        self.presence.sleep(now)

    def status(self) -> ProbeStatus:
        """Its state and counters, as the daemon is told."""
        if self.attachments:
            self.engine = self.attachments[0].engine
        state, reason = self.state, self.reason
        if state is State.ACTIVE and time.monotonic_ns() < self.throttled_until:
            state, reason = State.THROTTLED, self.throttled
        present, asleep = self.presence.durations(time.monotonic_ns())
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
            present_ns=present,
            engine=self.engine,
            dumped=self.dumped,
            no_dumps=dict(self.no_dumps),
            uncounted_ns=self.presence.uncounted,
            unwound=self.unwound,
            slower=self.slower,
            # Of inlined code it follows from hits, which the process could write.
            spent_ns=min(self.spent_ns, WORD_MASK),
        )
