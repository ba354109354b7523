"""Process events by looking: the list of /proc, compared with the last one.

For those who may not listen to the kernel (``connector``). A process that comes and goes between
two looks is never seen, and nobody can count it.

The inode that the list shows for a process is the cheap part of telling a process from another one
that got its number later. The kernel may give a living process another inode, so that a new one
only is the reason to compare start times.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final, NamedTuple

from dprobed.proc import procfs
from dprobed.proc.events import Kind, Sink

#: Seconds from one look to the next.
INTERVAL: Final = 1.0


class _Known(NamedTuple):
    inode: int
    start: int | None
    exe: str


class Polling:
    """Looks every ``INTERVAL`` seconds."""

    name = f"polling every {INTERVAL:g} s"

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._known: dict[int, _Known] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Learn what is there, which is not told of, and look from now on."""
        for pid, inode in _listing().items():
            self._known[pid] = _Known(inode, procfs.start_time(pid), _exe(pid))
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._known.clear()

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)
        listing = _listing()
        for pid in self._known.keys() - listing.keys():
            del self._known[pid]
            self._sink.on_event(Kind.EXIT, pid)
        for pid, inode in listing.items():
            if self._timer is None:
                return  # Who heard the last event wanted no more.
            known = self._known.get(pid)
            exe = _exe(pid)
            if known is not None and known.inode == inode and known.exe == exe:
                continue
            start = procfs.start_time(pid)
            if known is not None and start is None:
                continue  # Gone since it was listed, which the next list tells.
            self._known[pid] = _Known(inode, start, exe)
            if known is not None and known.start == start:
                if known.exe != exe and not procfs.has_ended(pid):
                    self._sink.on_event(Kind.EXEC, pid)
                continue
            if known is not None:
                self._sink.on_event(Kind.EXIT, pid)
            self._sink.on_event(Kind.FORK, pid)


def _listing() -> dict[int, int]:
    """The processes, each with the inode of its folder."""
    with os.scandir("/proc") as entries:
        return {int(entry.name): entry.inode() for entry in entries if entry.name.isdecimal()}


def _exe(pid: int) -> str:
    """What it executes; empty where that cannot be read (or it is one of the kernel's own)."""
    try:
        # For every process every second: a Path would double what that costs.
        return os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115
    except OSError:
        return ""
