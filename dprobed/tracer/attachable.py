"""Whether a process can be attached to: that others would die of it, or that it sleeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from dprobed.proc import procfs
from dprobed.proc.shared_memory import sharers
from dprobed.tracee.borrower import Asleep
from dprobed.tracee.tracees import Tracees
from dprobed.tracer.inserted import RequestError

#: Seconds after which a process that sleeps in the kernel is not attached to; between two looks.
_SLEEP: Final = 0.3
_PAUSE: Final = 0.02


def check_alone(pid: int, among: Iterator[int], tracees: Tracees) -> None:
    """Refuse a process whose memory an untraced one shares, which our breakpoints would kill.

    Raises RequestError.
    """
    for other in sharers(procfs.live_thread(pid), among):
        found = procfs.status(other)
        if found is None or other in (0, pid) or other in tracees.threads:
            continue
        relation = (
            "parent"
            if other == procfs.parent(pid)
            else ("child" if procfs.parent(other) == pid else "fellow")
        )
        raise RequestError(
            f"its {relation} {other} ({found.name.decode(errors='replace')}) shares its memory "
            "(vfork or CLONE_VM) and would run into the probes; try again when that ended"
        )


def check_awake(pid: int, tracees: Tracees) -> None:
    """Refuse a process of which every thread sleeps in the kernel, for longer than for a disk.

    Nothing could be put in, and we could not detach again before it wakes. Raises RequestError.
    """
    deadline = time.monotonic() + _SLEEP
    while procfs.sleeps(pid):
        if time.monotonic() > deadline:
            raise RequestError(str(Asleep(pid)))
        tracees.pause(_PAUSE)
