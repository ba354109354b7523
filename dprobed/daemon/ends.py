"""Ends what is to end by itself: programs whose time is over are taken out.

That is the daemon's work, and not a tracer's: a program's time is the same in all processes that it
is in, children and those to come included; a tracer sleeps until a target stops, and would have to
be woken for it; and the kernel as a backend has no tracer. If the daemon dies first, its tracers
take everything out, or the next daemon does. How many hits a probe has at most is the program's own
``max_hits``, which is counted where the hits are.

There is one timer, for what ends first. Whoever changes when something ends says so (``due``); the
clock is the monotonic one, which no administrator sets.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from dprobed.daemon.client import Client, Refusal
from dprobed.daemon.detaching import Detaching
from dprobed.daemon.gate import Gate
from dprobed.daemon.insertion import Insertion
from dprobed.daemon.maps import maps_of
from dprobed.daemon.target import InsertedProgram, Target
from dprobed.daemon.targets import Targets
from dprobed.daemon.tasks import Tasks
from dprobed.daemon.variables import variables_of
from dprobed.printable import printable
from dprobed.wire import messages, protocol
from dprobed.wire.notices import NoticeKind

#: Seconds between two looks at what is over: who inserts a thousand programs for no time does
#: not have all targets looked at for each.
_PAUSE: Final = 0.05
#: Seconds until a program that could not be taken out is tried again.
_RETRY: Final = 5.0
#: States of a probe that has done what it was there for.
_DONE: Final = (protocol.State.DISABLED, protocol.State.REMOVED)

_log = logging.getLogger("dprobed")


class Ending(Protocol):
    """What can come to an end: a program in a process, or a deployment."""

    @property
    def number(self) -> int:
        """Its number."""
        ...

    @property
    def insertion(self) -> Insertion:
        """What is inserted."""
        ...

    @property
    def uid(self) -> int:
        """Who inserted it."""
        ...


class Ends:
    """Takes programs out of processes when their time is over, and says so.

    ``followers``: clients that follow the log.
    """

    def __init__(
        self,
        gate: Gate,
        targets: Targets,
        detaching: Detaching,
        tasks: Tasks,
        followers: Callable[[], Iterable[Client]],
    ) -> None:
        self._gate: Final = gate
        self._targets: Final = targets
        self._detaching: Final = detaching
        self._tasks: Final = tasks
        self._timer: asyncio.TimerHandle | None = None
        self._looked = 0.0
        self._others: Final[list[Callable[[float], float | None]]] = []
        self._followers: Final = followers

    def watch(self, others: Callable[[float], float | None]) -> None:
        """Have something else end what is over by a moment; it returns when its next is due."""
        self._others.append(others)

    def due(self, until: float | None) -> None:
        """Something ends at this moment (None: not by itself)."""
        if until is None:
            return
        if self._timer is not None:
            if self._timer.when() <= until:
                return
            self._timer.cancel()
        until = max(until, self._looked + _PAUSE)
        self._timer = asyncio.get_running_loop().call_at(until, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._looked = time.monotonic()
        soonest = [until for others in self._others if (until := others(now)) is not None]
        for target in self._targets.by_pid.values():
            due = []
            for inserted in target.programs.values():
                until = inserted.until
                if until is None or inserted.leaves:
                    continue
                insertion = inserted.insertion
                if until > now:
                    soonest.append(until)
                elif insertion.is_over(now) and not insertion.is_over(now - _RETRY):
                    # Not only this one is over: its deployment takes it out of all processes.
                    # Where that was refused, it is tried alone.
                    soonest.append(now + _RETRY)
                else:
                    inserted.leaves = True
                    due.append(inserted)
            if due:
                self._tasks.start(self._take_out(target, due))
        self.due(min(soonest, default=None))

    async def _take_out(self, target: Target, due: list[InsertedProgram]) -> None:
        async with target.lock:
            due = [each for each in due if target.programs.get(each.number) is each]
            try:
                await self._detaching.empty(target, due)
            except Refusal as refusal:
                _log.warning("%s: %s; it is tried again", target.what, refusal)
                for inserted in due:
                    inserted.leaves = False
                self.due(time.monotonic() + _RETRY)
                return
        for inserted in due:
            rule = inserted.end_rule
            text = self.tell(inserted, target, over(rule), NoticeKind.OVER, "removed")
            if inserted.owner is not None:
                inserted.owner.tell(
                    messages.Over(
                        pid=target.pid,
                        number=inserted.number,
                        text=text,
                        rule=rule,
                        probes=list(inserted.probe_infos()),
                        variables=variables_of([inserted]),
                        maps=maps_of([inserted]),
                    )
                )

    def changed(self, target: Target, numbers: Iterable[int]) -> None:
        """Probes of these programs have changed by themselves: say which program has done all that
        it was there for."""
        for number in numbers:
            inserted = target.programs.get(number)
            if inserted is None or inserted.spent or inserted.leaves:
                continue
            states = [each.state for found in inserted.statuses.values() for each in found]
            if states and all(state in _DONE for state in states):
                inserted.spent = True
                ran = sum(each.ran for found in inserted.statuses.values() for each in found)
                why = f"none of its probes fires any more; it ran {ran} time{'s' * (ran != 1)}"
                text = self.tell(inserted, target, why, NoticeKind.SPENT, "spent")
                if inserted.owner is not None:
                    inserted.owner.tell(_notice(NoticeKind.SPENT, target.pid, text))

    def tell(
        self, what: Ending, target: Target | None, why: str, kind: NoticeKind, event: str
    ) -> str:
        """Tell of an end in a process, or in all (``target`` is None): in the log, and to who
        follows its records; what was said."""
        name = printable(what.insertion.upload.label)
        where, fields = "all processes", {}
        if target is not None:
            where = f"{target.what} ({printable(target.comm)})"
            fields["pid"] = target.pid
        text = f"{where}: {name} has ended: {why}"
        self._gate.history.note(
            what.uid, text, event, program=name, number=what.number, why=why, **fields
        )
        notice = _notice(kind, messages.KERNEL if target is None else target.pid, text)
        for follower in self._followers():
            if self._gate.sees(follower, what.uid):
                follower.tell(notice)
        return text


def _notice(kind: NoticeKind, pid: int, text: str) -> messages.Notice:
    return messages.Notice(kind=kind, pid=pid, tid=pid, text=text)


def over(rule: str) -> str:
    """Why something is out whose time is over; ``rule``: who says so, empty: the user."""
    return f"its time is over (by {rule})" if rule else "its time is over"
