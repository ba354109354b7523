"""Process events by polling: the list of processes in /proc, compared with the last one.

For those who may not listen to the kernel (``connector``). A process that comes and goes between
two looks is never seen, and nobody can count it.

psutil tells a process from another one that has its id later. But it reads a file for each to do
so (25 us), so the first hint is the inode that the listing of /proc shows for each process at no
cost. The kernel may give a living process another inode, so a new one is only the reason to ask
psutil.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from dprobed.proc import procfs
from dprobed.proc.events import EventKind, EventSink

if TYPE_CHECKING:
    import psutil

#: Seconds from one look to the next.
INTERVAL: Final = 1.0


class _Known(NamedTuple):
    inode: int
    #: For its identity; ``None``: it was gone before we could ask.
    process: psutil.Process | None
    exe: str


class Polling:
    """Looks at the list of processes every ``INTERVAL`` seconds."""

    name = f"polling every {INTERVAL:g} s"

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self._known: dict[int, _Known] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """List the present processes, and send events of changes from now on."""
        for pid, inode in _listing().items():
            self._known[pid] = _Known(inode, _process(pid), _exe(pid))
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def stop(self) -> None:
        """Stop looking: no further event comes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._known.clear()

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)
        listing = _listing()
        for pid in self._known.keys() - listing.keys():
            del self._known[pid]
            self._sink.on_event(EventKind.EXIT, pid)
        for pid, inode in listing.items():
            if self._timer is None:
                return  # The sink stopped us at the last event.
            known = self._known.get(pid)
            exe = _exe(pid)
            if known is not None and known.inode == inode and known.exe == exe:
                continue
            process = _process(pid)
            if known is not None and process is None:
                continue  # Gone since it was listed, which the next list tells.
            self._known[pid] = _Known(inode, process, exe)
            if known is not None and known.process == process:
                if known.exe != exe and not procfs.has_ended(pid):
                    self._sink.on_event(EventKind.EXEC, pid)
                continue
            if known is not None:
                self._sink.on_event(EventKind.EXIT, pid)
            self._sink.on_event(EventKind.FORK, pid)


def _listing() -> dict[int, int]:
    """The processes by id, each with the inode of its folder in /proc."""
    with os.scandir("/proc") as entries:
        return {int(entry.name): entry.inode() for entry in entries if entry.name.isdecimal()}


def _process(pid: int) -> psutil.Process | None:
    """The process that has this id now; ``None`` when it is gone."""
    # Only who polls imports it (12 ms, 1.4 MB); a daemon that hears the kernel does not.
    import psutil

    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _exe(pid: int) -> str:
    """The path of what a process runs; empty where that cannot be read, and for kernel threads."""
    try:
        # For every process every second: a Path would double what that costs.
        return os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115
    except OSError:
        return ""
