"""Orphans: processes that have something left of a tracer that was killed, and whom nobody attends.

What tracers have changed is in their change journals, in the daemon's folder beside its socket. One
whose writer runs is attended: it belongs to a tracer that is at work, or is being undone.
"""

from __future__ import annotations

import contextlib
import os
from itertools import islice
from pathlib import Path

from dprobed import change_journal
from dprobed.proc import procfs

#: Entries of a journal that are looked at: enough to name processes.
_MOST = 1 << 14
#: Processes that a message names.
_NAMED = 10


def orphans(socket: Path) -> list[int]:
    """The processes, as far as this user may see that; ``socket``: of the daemon."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for path in socket.with_name(socket.name + ".changes").iterdir():
            if path.name[:1].isdigit():  # else it is not a journal
                found.update(_unattended(path))
    return sorted(found)


def named(pids: list[int]) -> str:
    """They in a message."""
    more = f" and {len(pids) - _NAMED} more" if len(pids) > _NAMED else ""
    return ", ".join(map(str, pids[:_NAMED])) + more


def _unattended(path: Path) -> set[int]:
    with path.open("rb") as file:
        descriptor = file.fileno()
        writer, start = change_journal.writer(descriptor)
        if writer and procfs.start_time(writer) == start and not procfs.has_ended(writer):
            return set()
        # Of another boot of the machine: they are all gone.
        first = change_journal.unpack(os.pread(descriptor, change_journal.RECORD, 0))
        if first is None or first.data != change_journal.boot():
            return set()
        named = {
            (change.pid, change.start)
            for number, change in islice(change_journal.read(descriptor), _MOST)
            if number
        }
    return {
        pid for pid, since in named if procfs.start_time(pid) == since and not procfs.has_ended(pid)
    }
