"""Watches processes: has each looked at when an event reports it, and again until it is settled.

No event reports what a process maps: after ``exec`` the dynamic loader maps libraries within the
next millisecond, later the program itself may (dlopen). So a process of interest is looked at again
after 1 ms, 2 ms, 4 ms … and at last every ``SLOWEST`` seconds. A settled process costs nothing
until its next event.

Nothing runs before ``start`` and after ``stop``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from enum import Enum
from typing import Final, Protocol

from dprobed.proc import procfs
from dprobed.proc.connector import Connector
from dprobed.proc.events import EventKind, Source
from dprobed.proc.polling import Polling

#: Seconds until the second look.
FIRST: Final = 0.001
#: Seconds between looks, at last.
SLOWEST: Final = 30.0
#: Seconds for which a rescan looks at processes before the loop may do something else.
_TURN: Final = 0.005

_log = logging.getLogger("dprobed")


class LookResult(Enum):
    """The result of a look at a process."""

    #: Nothing more to do before its next event.
    SETTLED = "settled"
    #: To be looked at again in a moment.
    SOON = "soon"
    #: Not selected, which may change without an event.
    LATER = "later"
    #: No deployment is for its executable; its children are the same until they execute another.
    OTHER = "other"
    #: It had ended before it could be looked at.
    GONE = "gone"


class Judge(Protocol):
    """Looks at processes, and is told of their ends."""

    def look(self, pid: int, kind: EventKind | None, parent: int) -> LookResult:
        """Look at a process; ``kind``: the event that reported it, if one did; ``parent``: its
        parent if it was just forked and that is known."""
        ...

    def ended(self, pid: int, looked_at: bool) -> None:
        """A process has ended; whether it was ever looked at since its last event."""
        ...


class _Watched:
    """What is remembered of one process."""

    __slots__ = ("delay", "looked_at", "timer", "verdict", "zombie_leader")

    def __init__(self) -> None:
        self.delay = FIRST
        #: A zombie leader: its first thread has ended, and no event reports the end of the last
        #: one.
        self.zombie_leader = False
        self.looked_at = False
        self.verdict: LookResult | None = None
        self.timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Watcher:
    """Watches all processes of the machine.

    ``sources``: sources of process events; the first that works is used.
    """

    def __init__(
        self, judge: Judge, sources: tuple[type[Connector | Polling], ...] = (Connector, Polling)
    ) -> None:
        self._judge = judge
        self._sources = sources
        self._source: Source | None = None
        self._watched: dict[int, _Watched] = {}
        self._rescan: asyncio.Task[None] | None = None
        #: How often events were lost, and all processes looked at again.
        self.lost = 0

    @property
    def source(self) -> str:
        """The name of the source of events; empty while stopped."""
        return self._source.name if self._source is not None else ""

    def start(self) -> None:
        """Look at every process, and at each new one from now on."""
        if self._source is None:
            self._source = self._choose()
        self._look_at_all()

    def stop(self) -> None:
        """Stop watching."""
        if self._source is not None:
            self._source.stop()
            self._source = None
        if self._rescan is not None:
            self._rescan.cancel()
            self._rescan = None
        for watched in self._watched.values():
            watched.cancel()
        self._watched.clear()

    def _choose(self) -> Source:
        for kind in self._sources[:-1]:
            source: Source = kind(self)
            try:
                source.start()
            except OSError as error:
                _log.info(
                    "process events are not available from the %s: %s",
                    source.name,
                    error.strerror or error,
                )
                continue
            return source
        source = self._sources[-1](self)
        source.start()
        return source

    # -- what the source says ------------------------------------------------------------------

    def on_event(self, kind: EventKind, pid: int, parent: int = 0) -> None:
        """Look at once: a short process is there for a millisecond."""
        if kind is EventKind.EXIT:
            self._first_thread_ended(pid)
            return
        if kind is EventKind.FORK and pid in self._watched:
            self._ended(pid)  # Its end was not reported.
        watched = self._watched.setdefault(pid, _Watched())
        watched.delay, watched.zombie_leader = FIRST, False
        origin = self._watched.get(parent)
        if origin is not None and origin.verdict is LookResult.OTHER:
            watched.verdict, watched.looked_at = LookResult.OTHER, True
            return
        watched.looked_at = False
        self._look(pid, watched, kind, parent)

    def on_lost(self) -> None:
        """Events were lost: look at all processes again."""
        self.lost += 1
        _log.warning("process events were lost: looking at all processes again")
        self._look_at_all()

    def _first_thread_ended(self, pid: int) -> None:
        """The first thread ended: mostly the process with it, but other threads may go on."""
        watched = self._watched.get(pid)
        if watched is None or watched.verdict is LookResult.OTHER or procfs.has_ended(pid):
            self._ended(pid)
        else:
            watched.delay, watched.zombie_leader = FIRST, True
            self._schedule(pid, watched, FIRST)

    def _ended(self, pid: int) -> None:
        watched = self._watched.pop(pid, None)
        if watched is not None:
            watched.cancel()
            self._judge.ended(pid, watched.looked_at)

    # -- looking ---------------------------------------------------------------------------------

    def again(self, pid: int, seconds: float = 0.0) -> None:
        """Look at a process again, after so many seconds at the earliest."""
        watched = self._watched.get(pid)
        if watched is not None:
            watched.delay = max(watched.delay, seconds)
            self._schedule(pid, watched, watched.delay)

    def _look(
        self, pid: int, watched: _Watched, kind: EventKind | None = None, parent: int = 0
    ) -> None:
        watched.cancel()
        try:
            verdict = self._judge.look(pid, kind, parent)
        except Exception:
            # It concerns one process, and must not stop the others.
            _log.exception("internal error while looking at process %d", pid)
            verdict = LookResult.LATER
        if self._watched.get(pid) is not watched:
            return
        watched.verdict = verdict
        if verdict is LookResult.GONE:
            if watched.zombie_leader:
                self._ended(pid)
            return  # Else the source reports its end.
        watched.looked_at = True
        if verdict is LookResult.SOON:
            self._schedule(pid, watched, watched.delay)
        elif verdict is LookResult.LATER or watched.zombie_leader:
            self._schedule(pid, watched, SLOWEST)

    def _schedule(self, pid: int, watched: _Watched, seconds: float) -> None:
        watched.cancel()
        watched.delay = min(2 * watched.delay, SLOWEST)
        watched.timer = asyncio.get_running_loop().call_later(
            seconds, lambda: self._look(pid, watched)
        )

    def _look_at_all(self) -> None:
        for watched in self._watched.values():
            watched.verdict = None  # A child that is forked before its parent's turn is looked at.
        if self._rescan is not None:
            self._rescan.cancel()
        self._rescan = asyncio.get_running_loop().create_task(self._scan())

    async def _scan(self) -> None:
        """Every process there is, a few at a time."""
        there = [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208
        for pid in self._watched.keys() - set(there):
            self._ended(pid)
        turn = time.monotonic() + _TURN
        for pid in there:
            watched = self._watched.setdefault(pid, _Watched())
            watched.zombie_leader = procfs.live_thread(pid) != pid
            self._look(pid, watched)
            if time.monotonic() > turn:
                await asyncio.sleep(0)
                turn = time.monotonic() + _TURN
