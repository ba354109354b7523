"""When each process is looked at: at once when something happened to it, and again until settled.

What a process has mapped is not told by anybody: after ``exec`` it is the dynamic loader's work of
the next millisecond, after that the program's own (dlopen). So a process that is worth it is
looked at again after 1 ms, 2 ms, 4 ms … and at last every ``SLOWEST`` seconds. A process that is
settled costs nothing until its next event.

Nothing runs while nobody is interested: ``start`` and ``stop``.
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
from dprobed.proc.events import Kind, Source
from dprobed.proc.polling import Polling

#: Seconds until the second look.
FIRST: Final = 0.001
#: Seconds between looks, at last.
SLOWEST: Final = 30.0
#: Seconds for which a rescan looks at processes before the loop may do something else.
_TURN: Final = 0.005

_log = logging.getLogger("dprobed")


class LookResult(Enum):
    """What came of a look at a process."""

    #: Nothing more to do before its next event.
    SETTLED = "settled"
    #: It may be worth another look any moment.
    SOON = "soon"
    #: Not what is looked for, which may change without an event.
    LATER = "later"
    #: It executes what nobody looks for; so do its children, until they execute something else.
    OTHER = "other"
    #: It had ended before it could be looked at.
    GONE = "gone"


class Judge(Protocol):
    """Who is interested in processes."""

    def look(self, pid: int, kind: Kind | None, parent: int) -> LookResult:
        """Look at a process; ``kind``: what has just happened to it, if anything. ``parent``: whose
        copy it is, where it was just forked and that is known."""
        ...

    def ended(self, pid: int, looked_at: bool) -> None:
        """A process has ended; whether it was ever looked at since its last event."""
        ...


class _Watched:
    """What is remembered of one process."""

    __slots__ = ("delay", "headless", "looked_at", "timer", "verdict")

    def __init__(self) -> None:
        self.delay = FIRST
        #: Its first thread has ended, and nobody tells of the end of the last one.
        self.headless = False
        self.looked_at = False
        self.verdict: LookResult | None = None
        self.timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Watcher:
    """All processes of the machine, as far as somebody is interested.

    ``sources``: what to hear of processes by; the first that works is used.
    """

    def __init__(
        self, judge: Judge, sources: tuple[type[Connector | Polling], ...] = (Connector, Polling)
    ) -> None:
        self._judge = judge
        self._sources = sources
        self._source: Source | None = None
        self._watched: dict[int, _Watched] = {}
        self._rescan: asyncio.Task[None] | None = None
        #: How often events were lost, and everything was looked at anew.
        self.lost = 0

    @property
    def source(self) -> str:
        """What it hears of processes by; empty while nobody is interested."""
        return self._source.name if self._source is not None else ""

    def start(self) -> None:
        """Look at every process, and at each new one from now on."""
        if self._source is None:
            self._source = self._choose()
        self._look_at_all()

    def stop(self) -> None:
        """Nobody is interested any longer."""
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
                _log.info("no process events by %s: %s", source.name, error.strerror or error)
                continue
            return source
        source = self._sources[-1](self)
        source.start()
        return source

    # -- what the source says ------------------------------------------------------------------

    def on_event(self, kind: Kind, pid: int, parent: int = 0) -> None:
        """Look at once: a short process is there for a millisecond."""
        if kind is Kind.EXIT:
            self._first_thread_ended(pid)
            return
        if kind is Kind.FORK and pid in self._watched:
            self._ended(pid)  # That was not told.
        watched = self._watched.setdefault(pid, _Watched())
        watched.delay, watched.headless = FIRST, False
        origin = self._watched.get(parent)
        if origin is not None and origin.verdict is LookResult.OTHER:
            watched.verdict, watched.looked_at = LookResult.OTHER, True
            return
        watched.looked_at = False
        self._look(pid, watched, kind, parent)

    def on_lost(self) -> None:
        """Events were lost: look at everything anew."""
        self.lost += 1
        _log.warning("events of processes were lost: looking at all processes anew")
        self._look_at_all()

    def _first_thread_ended(self, pid: int) -> None:
        """Mostly the end of the process; but others may go on."""
        watched = self._watched.get(pid)
        if watched is None or watched.verdict is LookResult.OTHER or procfs.has_ended(pid):
            self._ended(pid)
        else:
            watched.delay, watched.headless = FIRST, True
            self._schedule(pid, watched, FIRST)

    def _ended(self, pid: int) -> None:
        watched = self._watched.pop(pid, None)
        if watched is not None:
            watched.cancel()
            self._judge.ended(pid, watched.looked_at)

    # -- looking ---------------------------------------------------------------------------------

    def again(self, pid: int, seconds: float = 0.0) -> None:
        """Look at a process once more, so many seconds from now at the earliest."""
        watched = self._watched.get(pid)
        if watched is not None:
            watched.delay = max(watched.delay, seconds)
            self._schedule(pid, watched, watched.delay)

    def _look(self, pid: int, watched: _Watched, kind: Kind | None = None, parent: int = 0) -> None:
        watched.cancel()
        try:
            verdict = self._judge.look(pid, kind, parent)
        except Exception:
            # Of one process: it must not keep us from the others.
            _log.exception("looking at process %d failed", pid)
            verdict = LookResult.LATER
        if self._watched.get(pid) is not watched:
            return
        watched.verdict = verdict
        if verdict is LookResult.GONE:
            if watched.headless:
                self._ended(pid)
            return  # Else its end is told by the source.
        watched.looked_at = True
        if verdict is LookResult.SOON:
            self._schedule(pid, watched, watched.delay)
        elif verdict is LookResult.LATER or watched.headless:
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
            watched.headless = procfs.live_thread(pid) != pid
            self._look(pid, watched)
            if time.monotonic() > turn:
                await asyncio.sleep(0)
                turn = time.monotonic() + _TURN
