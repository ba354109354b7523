"""Dispatches reports to the handlers of their facility. No I/O.

A *facility* is what a program names in ``exit NAME``; its number is the record's ``exit``. It
exists while it is declared (``declare``: what the daemon itself offers) or while a live handler is
registered on it. A name keeps its number for as long as the daemon runs, so that a facility that
went away and came back is the same one to inserted programs.

A *handler* is an object of a subclass of ``Handler``; ``register`` puts it on its facility and
``arm`` makes it get reports. To plug one in:

    class Recorder(Handler):
        def offer(self, report: Report) -> Verdict:
            if self._queue_is_full:
                return Verdict.DROPPED
            self._queue.append(report)
            return Verdict.CONTINUE

    dispatcher.declare("trace")
    recorder = Recorder("trace.1", facility="trace", owner="dprobed")
    dispatcher.register(recorder)
    dispatcher.arm([recorder.name])

Rules:

1. Order: the *first*, then those registered *lifo* (the newest in front), then those by *default*
   (the newest behind), then the *last*. There is one first and one last; a second is refused.
2. Only armed handlers are called. ``arm`` and ``disarm`` take a set and do all of it or nothing. A
   report goes to those that were armed when it came: no report meets one half of a set.
3. ``offer`` runs in the daemon's event loop and returns at once. ``CONTINUE``: the next one gets
   the report too. ``TERMINATE``: none does. ``DROPPED``: no room; the report goes on, the loss is
   counted with the handler and the probe. ``PENDING``: ``Dispatcher.answer`` will be called with
   the report's ``id``, later; the report waits.
4. At most ``limit`` reports wait for one handler; further ones it does not get (dropped, as above).
   It has answered nothing for ``timeout`` seconds: reports that old go on, counted as timeouts.
5. ``offer`` raised, or ``fail`` was called because the owner died: the handler is disarmed for
   good, counted in ``failures``, and what waits for it falls to the next. It stays in the listing;
   one of that name that is registered later takes its counters over.
6. What a tracer does at the hit itself is listed, armed and disarmed as an ``AtHit`` handler; what
   other handlers answer comes too late for it.
7. The record reaches its client, the followers and the log whatever handlers do.
"""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from dprobed.daemon.client import Refusal
from dprobed.program.exits import FACILITIES, NOT_FACILITIES, facility_of

if TYPE_CHECKING:
    from dprobed.daemon.target import InsertedProgram
    from dprobed.wire.protocol import RawRecord

#: The first number of other facilities.
FIRST_OTHER: Final = 16
MAX_HANDLERS: Final = 256
#: Dead handlers whose last counters are still listed.
MAX_DEAD: Final = 64
#: Names of facilities in the daemon's life; further ones are refused.
_MAX_NAMES: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)

_log = logging.getLogger("dprobed")


class DispatchError(Refusal):
    """The request is refused, and nothing of it is done; one line."""


class Order(StrEnum):
    """A handler's position among those of its facility."""

    FIRST = "first"
    LIFO = "lifo"
    DEFAULT = "default"
    LAST = "last"


_RANK: Final = {order: rank for rank, order in enumerate(Order)}


class Verdict(Enum):
    """A handler's answer to a report."""

    CONTINUE = "continue"
    TERMINATE = "terminate"
    PENDING = "pending"
    DROPPED = "dropped"


class Report(msgspec.Struct, frozen=True, eq=False):
    """One record on its way through the handlers of its facility.

    ``raw.exit`` is the facility's number, or says that what it does at the hit was not done
    (``facility_of``); ``inserted`` is the program that reported, ``line`` the record as clients get
    it (JSON, with its newline). ``id`` is unique in this daemon.
    """

    id: int
    inserted: InsertedProgram
    raw: RawRecord
    line: bytes


class Handler(ABC):
    """Gets the reports of one facility.

    ``owner``: the process and user that registered it, as text. ``reports`` counts those that it
    took, ``timeouts`` those it did not answer in time, ``drops`` those it had no room for,
    ``failures`` how often it died.
    """

    def __init__(
        self,
        name: str,
        *,
        facility: str,
        owner: str,
        order: Order = Order.DEFAULT,
        limit: int = 8192,
        timeout: float = 1.0,
    ) -> None:
        self.name: Final = name
        self.facility: Final = facility
        self.owner: Final = owner
        self.order: Final = order
        self.limit: Final = limit
        self.timeout: Final = timeout
        self.armed = False
        self.alive = True
        self.reports = self.timeouts = self.drops = self.failures = 0
        self._waiting: dict[int, _PendingReport] = {}
        self._progress = 0.0

    @abstractmethod
    def offer(self, report: Report) -> Verdict:
        """Take a report; must return at once. What it raises disarms the handler."""

    @property
    def waiting(self) -> int:
        """The number of reports that it has not answered yet."""
        return len(self._waiting)


class AtHit(Handler):
    """A facility's action in the tracer, while the thread is stopped at its hit: dump, debugger.

    It is done before any handler gets the report, so it is the first; only while it is armed.
    """

    def __init__(self, facility: str) -> None:
        super().__init__(facility, facility=facility, owner="dprobed", order=Order.FIRST)

    def offer(self, report: Report) -> Verdict:
        """The tracer has done it already."""
        return Verdict.CONTINUE


class _PendingReport(msgspec.Struct, eq=False):
    """A report that waits for a handler's answer, with the handlers that remain; ``since``: when it
    began to wait."""

    report: Report
    remaining: Iterator[Handler]
    since: float = 0.0


class Dispatcher:
    """All facilities and handlers of a daemon.

    ``changed`` is called with the facilities and ``acting`` after either changed. ``alarm`` is
    called with a time, by the clock ``now``, and a function to be called then: when a report that
    begins to wait times out. ``on_death`` is called with each handler that died, and ``on_untaken``
    with name and number of each facility of which no armed handler takes anything any more.
    """

    def __init__(
        self,
        changed: Callable[[dict[str, int], list[int]], None] = lambda facilities, acting: None,
        alarm: Callable[[float, Callable[[], None]], None] = lambda when, ring: None,
        now: Callable[[], float] = time.monotonic,
        on_death: Callable[[Handler], None] = lambda handler: None,
        on_untaken: Callable[[str, int], None] = lambda facility, number: None,
    ) -> None:
        self._changed = changed
        self._alarm = alarm
        self._now = now
        self._numbers = dict(FACILITIES)
        self._names = {number: name for name, number in FACILITIES.items()}
        self._declared: set[str] = set()
        #: Live handlers by name, in the order of their registration.
        self._handlers: dict[str, Handler] = {}
        self._dead: dict[str, Handler] = {}
        self._armed: dict[int, tuple[Handler, ...]] = {}
        self._facilities: dict[str, int] = {}
        self._acting: list[int] = []
        self._last_id = 0
        self._on_death: Final = on_death
        self._on_untaken: Final = on_untaken

    # -- facilities ----------------------------------------------------------------------------

    @property
    def facilities(self) -> dict[str, int]:
        """The existing facilities, with their numbers (a copy)."""
        return dict(self._facilities)

    @property
    def numbers(self) -> dict[str, int]:
        """All names that have a number, those of facilities that are gone included (a copy)."""
        return dict(self._numbers)

    @property
    def acting(self) -> list[int]:
        """The facilities for which a tracer does something itself, at the hit (``AtHit``)."""
        return list(self._acting)

    def declare(self, name: str) -> int:
        """Declare a facility that exists with handlers or without; its number."""
        number = self._number(name)
        self._declared.add(name)
        self._rebuild()
        return number

    def name_of(self, number: int) -> str:
        """The name that belongs to a number, also of a facility that is gone; empty: none."""
        return self._names.get(number, "")

    def number_of(self, name: str) -> int:
        """The number that belongs to a facility, also to one that is gone."""
        return self._numbers[name]

    def _number(self, name: str) -> int:
        if not _NAME.fullmatch(name):
            raise DispatchError(
                f"`{name}` is not a valid facility name: use at most 64 letters, digits, `_`, `.` "
                "and `-`"
            )
        if name in NOT_FACILITIES:
            raise DispatchError(f"`{name}` is reserved and cannot name a facility")
        number = self._numbers.get(name)
        if number is None:
            if len(self._numbers) >= _MAX_NAMES:
                raise DispatchError(f"there were {_MAX_NAMES} facilities: no further name is taken")
            number = FIRST_OTHER + len(self._numbers) - len(FACILITIES)
            self._numbers[name] = number
            self._names[number] = name
        return number

    # -- handlers ------------------------------------------------------------------------------

    def register(self, handler: Handler) -> int:
        """Register a handler on its facility, not armed; the facility's number."""
        name = handler.name
        if not _NAME.fullmatch(name):
            raise DispatchError(
                f"`{name}` is not a valid handler name: use at most 64 letters, digits, `_`, `.` "
                "and `-`"
            )
        if name in self._handlers:
            owner = self._handlers[name].owner
            raise DispatchError(f"a handler {name} is registered already, by {owner}")
        if len(self._handlers) >= MAX_HANDLERS:
            raise DispatchError(f"{MAX_HANDLERS} handlers are registered already")
        if handler.order in (Order.FIRST, Order.LAST):
            for other in self._handlers.values():
                if other.facility == handler.facility and other.order is handler.order:
                    raise DispatchError(
                        f"{handler.facility} has a {handler.order} handler already: {other.name}"
                    )
        number = self._number(handler.facility)
        dead = self._dead.pop(name, None)
        if dead is not None:
            handler.reports, handler.timeouts = dead.reports, dead.timeouts
            handler.drops, handler.failures = dead.drops, dead.failures
        self._handlers[name] = handler
        self._rebuild()
        return number

    def deregister(self, handler: Handler) -> None:
        """Deregister a handler; reports that wait for it go to the next one."""
        if self._handlers.get(handler.name) is handler:
            self._remove(handler)

    def fail(self, handler: Handler) -> None:
        """The handler died: as ``deregister``, but counted, and it stays in the listing."""
        if self._handlers.get(handler.name) is not handler:
            return
        handler.failures += 1
        _log.warning(
            "handler %s of %s has died (%s)", handler.name, handler.facility, handler.owner
        )
        self._dead[handler.name] = handler
        while len(self._dead) > MAX_DEAD:
            del self._dead[next(iter(self._dead))]
        self._remove(handler)
        self._on_death(handler)

    def _remove(self, handler: Handler) -> None:
        handler.alive = handler.armed = False
        del self._handlers[handler.name]
        self._rebuild()
        pending_reports = list(handler._waiting.values())
        handler._waiting.clear()
        for pending in pending_reports:
            self._go_on(pending)

    def arm(self, names: Iterable[str]) -> None:
        """Arm these handlers, all of them or none."""
        self._switch(names, armed=True)

    def disarm(self, names: Iterable[str]) -> None:
        """Disarm these handlers, all of them or none; they may still answer reports they have."""
        self._switch(names, armed=False)

    def _switch(self, names: Iterable[str], *, armed: bool) -> None:
        chosen = []
        for name in names:
            handler = self._handlers.get(name)
            if handler is None:
                why = "is dead" if name in self._dead else "is not registered"
                raise DispatchError(f"handler {name} {why}; `dprobe handlers` lists them")
            chosen.append(handler)
        for handler in chosen:
            handler.armed = armed
        self._rebuild()

    def handlers(self) -> list[Handler]:
        """All handlers by facility, in their order there; dead ones last."""
        return sorted(
            [*self._in_order(), *self._dead.values()],
            key=lambda handler: (self._numbers[handler.facility], not handler.alive),
        )

    def _in_order(self) -> list[Handler]:
        ranked = [
            (_RANK[handler.order], -age if handler.order is Order.LIFO else age, handler)
            for age, handler in enumerate(self._handlers.values())
        ]
        return [handler for _, _, handler in sorted(ranked, key=lambda each: each[:2])]

    def _rebuild(self) -> None:
        armed: dict[int, list[Handler]] = {}
        for handler in self._in_order():
            if handler.armed:
                armed.setdefault(self._numbers[handler.facility], []).append(handler)
        untaken = sorted(self._armed.keys() - armed.keys())
        self._armed = {number: tuple(chain) for number, chain in armed.items()}
        there = self._declared | {handler.facility for handler in self._handlers.values()}
        facilities = {name: number for name, number in self._numbers.items() if name in there}
        acting = [
            number
            for number, chain in sorted(self._armed.items())
            if any(isinstance(handler, AtHit) for handler in chain)
        ]
        if (facilities, acting) != (self._facilities, self._acting):
            self._facilities, self._acting = facilities, acting
            self._changed(self.facilities, self.acting)
        for number in untaken:
            self._on_untaken(self._names[number], number)

    # -- reports -------------------------------------------------------------------------------

    def dispatch(self, inserted: InsertedProgram, raw: RawRecord, line: bytes) -> None:
        """Dispatch a record to the armed handlers of its facility (``raw.exit``)."""
        chain = self._armed.get(facility_of(raw.exit))
        if chain:
            self._last_id += 1
            self._go_on(_PendingReport(Report(self._last_id, inserted, raw, line), iter(chain)))

    def answer(self, handler: Handler, report_id: int, verdict: Verdict) -> bool:
        """A handler's answer to a report; False: the report does not wait (it timed out)."""
        pending = handler._waiting.pop(report_id, None)
        if pending is None:
            return False
        handler._progress = self._now()
        if verdict is not Verdict.TERMINATE:
            self._go_on(pending)
        return True

    def expire(self) -> None:
        """Time out reports that have waited too long: they go to the next handler."""
        now = self._now()
        for handler in list(self._handlers.values()):
            if now < handler._progress + handler.timeout:
                continue
            late = []
            for pending in handler._waiting.values():
                if now < pending.since + handler.timeout:
                    break
                late.append(pending)
            handler.timeouts += len(late)
            for pending in late:
                del handler._waiting[pending.report.id]
            for pending in late:
                self._go_on(pending)

    def _ring(self) -> None:
        self.expire()
        when = self.next_expiry()
        if when is not None:
            self._alarm(when, self._ring)

    def next_expiry(self) -> float | None:
        """When the next report times out; None: none waits."""
        times = [
            handler.timeout + max(handler._progress, next(iter(handler._waiting.values())).since)
            for handler in self._handlers.values()
            if handler._waiting
        ]
        return min(times, default=None)

    def _go_on(self, pending: _PendingReport) -> None:
        report = pending.report
        for handler in pending.remaining:
            if not handler.alive:
                continue
            verdict = self._offer(handler, report)
            if verdict is Verdict.PENDING:
                pending.since = self._now()
                handler._waiting[report.id] = pending
                self._alarm(pending.since + handler.timeout, self._ring)
                return
            if verdict is Verdict.TERMINATE:
                return

    def _offer(self, handler: Handler, report: Report) -> Verdict:
        verdict = Verdict.DROPPED
        if len(handler._waiting) < handler.limit:
            try:
                verdict = handler.offer(report)
            except Exception:
                _log.exception("handler %s failed, and is disarmed", handler.name)
                self.fail(handler)
                return Verdict.CONTINUE
        if verdict is Verdict.DROPPED:
            handler.drops += 1
            report.inserted.count_handler_drop(report.raw.probe, handler.name)
        else:
            handler.reports += 1
        return verdict
