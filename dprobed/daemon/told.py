"""What tracers tell, and the daemon keeps: bounded, because a tracer may tell anything.

It runs with the rights of the user who asked, so all that is kept of what the tracers of one user
tell has one limit, in bytes; root's have none. What finds no room is dropped, counted and said, and
what was known before stays. Room that a target takes is given back when nobody has that any more.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

import msgspec

from dprobed.wire import protocol
from dprobed.wire.counters import Counters

#: Bytes of what the tracers of one user tell.
MOST: Final = 128 << 20
#: Characters of a line that is passed on, or kept; no path or symbol that a resolver tells is
#: longer than the first.
LONGEST_NAME: Final = 4096 + 64
_LONGEST_LINE: Final = 8192
#: Threads of a process that are listed.
_MOST_THREADS: Final = 1 << 15
#: About what Python takes for a place, a probe's status, and a reason in one, besides their texts.
_PLACE: Final = 256
_STATUS: Final = 512
_REASON: Final = 128
_MAP: Final = 128

#: The end of a target from which the tracer detached after an internal error.
DEFECT: Final = "internal error in the tracer; detached from the process (see the log)"
#: States of a probe about whose source there is nothing to say.
WORKING: Final = frozenset(
    {
        protocol.State.PENDING,
        protocol.State.ACTIVE,
        protocol.State.DISABLED,
        protocol.State.REMOVED,
        protocol.State.THROTTLED,
    }
)
#: States of a probe of which one would think that it may fire, though its process has ended.
MAY_FIRE: Final = frozenset(
    {protocol.State.PENDING, protocol.State.ACTIVE, protocol.State.THROTTLED}
)

_log = logging.getLogger("dprobed")


class Room:
    """What the tracers of one user take and may yet take; ``most``: None: it has no limit."""

    def __init__(self, user: int, most: int | None) -> None:
        self._user: Final = user
        self._most: Final = most
        self.used = 0
        #: What has found no room, by what it is.
        self.dropped: Final[Counter[str]] = Counter()

    def has(self, size: int) -> bool:
        """Whether there is room for so many bytes."""
        return self._most is None or self.used + size <= self._most

    def drop(self, what: str, why: str) -> None:
        """Count what is dropped; said the first time, and when it has doubled."""
        self.dropped[what] += 1
        count = self.dropped[what]
        if not count & (count - 1):
            _log.error(
                "protocol error from the tracer: %s (of user %d; %d %s dropped)",
                why,
                self._user,
                count,
                what,
            )


class Share:
    """What one target, or tracer, takes of a room: given back when it is gone itself."""

    def __init__(self, room: Room) -> None:
        self.room: Final = room
        self._used = 0

    def change(self, what: str, more: int) -> bool:
        """Take ``more`` bytes, or give some back; false: there are none left, and it is counted."""
        if more > 0 and not self.room.has(more):
            self.room.drop(what, f"it tells more than {MOST >> 20} MB that are to be kept")
            return False
        self._used += more
        self.room.used += more
        return True

    def __del__(self) -> None:
        self.room.used -= self._used


def line(text: str, most: int = _LONGEST_LINE) -> str:
    """A text, cut off where it is longer than any of ours."""
    return text if len(text) <= most else f"{text[:most]}…"


def place(told: protocol.Place) -> tuple[str, str]:
    """Module and place."""
    return line(told.module, LONGEST_NAME), line(told.place, LONGEST_NAME)


def place_size(told: tuple[str, str]) -> int:
    """Bytes that it takes."""
    return _PLACE + len(told[0]) + len(told[1])


def status_size(status: protocol.ProbeStatus) -> int:
    """Bytes that it takes."""
    fields = (status.module, status.place, status.reason, status.engine, status.slower)
    texts = sum(len(each) for each in fields)
    reasons = sum(_REASON + len(each) for each in status.no_dumps)
    return _STATUS + texts + 40 * len(status.addresses) + reasons


def threads(told: list[int], room: Room) -> list[int]:
    """Threads of a process, as many as are kept."""
    if len(told) > _MOST_THREADS:
        room.drop("lists of threads", f"{len(told)} threads of a process")
    return told[:_MOST_THREADS]


def debugger(told: protocol.DebuggerStatus | None, room: Room) -> protocol.DebuggerStatus | None:
    """What is said of one."""
    if told is None:
        return None
    return msgspec.structs.replace(
        told, held=threads(told.held, room), socket=line(told.socket, LONGEST_NAME)
    )


def map_size(state: protocol.MapState | None = None) -> int:
    """Less than a tracer counts for it (``program.maps.MapRoom``), in bytes; None: for one that is
    empty, for which that counts nothing."""
    return _MAP + sum(
        sum(len(item) if isinstance(item, bytes) else 8 for item in key) + 8 * len(cell)
        for key, cell in (state.entries if state is not None else ())
    )


def without_entries(state: protocol.MapState) -> protocol.MapState:
    """A map of which nothing is kept, but that: its keys are counted as lost."""
    return msgspec.structs.replace(state, lost=state.lost + len(state.entries), entries=[])


def describe_end(ended: protocol.Ended) -> str:
    """How a target ended, in a few words."""
    if ended.how == "failed":
        return DEFECT
    if ended.how == "exited":
        return f"exited with status {ended.status}"
    if ended.how == "killed":
        return f"killed by signal {ended.status}"
    return ended.how


def not_below(before: Counters, statuses: list[protocol.ProbeStatus]) -> list[protocol.ProbeStatus]:
    """The statuses, with counters that fell below ``before`` raised to it (in the first one)."""
    lacking = Counters.of(*statuses).lacking(before)
    if not lacking or not statuses:
        return statuses
    first, *others = statuses
    whole = {name: getattr(first, name) + count for name, count in lacking.items()}
    return [msgspec.structs.replace(first, **whole), *others]
