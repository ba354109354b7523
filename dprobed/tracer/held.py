"""Messages that wait while the daemon takes none: few, and nothing is missing that it must know.

Records have been dropped by then, and counted. Of the rest, what is said of a probe's state takes
the place of what was said before; that a process executed another program, or stands, is said once;
of other notices so many are kept, the rest is counted, and that is said. Replies are as many as
there were requests. What begins and ends a target is never dropped: that there are not more and
more of them, no child is followed meanwhile (``Targets.follow``).
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from dprobed.wire.protocol import (
    Changed,
    Ended,
    Event,
    Forked,
    Ok,
    ProbeStatus,
    Refused,
    Reply,
    TargetEvent,
)

#: Notices that are kept.
_MOST: Final = 1000
#: Kinds of them that the daemon goes by.
_NEEDED: Final = frozenset({"exec", "suspend", "asleep"})

#: The statuses of a target's probes, by program and probe.
_Statuses = dict[tuple[int, int], list[ProbeStatus]]


class Held:
    """Messages in their order."""

    def __init__(self) -> None:
        self._messages: list[Event | Reply] = []
        #: Of the last ``Changed`` of a target: what it says, and where it is.
        self._changed: dict[int, tuple[int, _Statuses]] = {}
        #: Notices that are in there: kind, target, thread.
        self._said: set[tuple[str, int, int]] = set()
        self._notices = 0
        #: By target: notices that are not.
        self._dropped: Counter[int] = Counter()

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._messages)

    def add(self, message: Event | Reply) -> None:
        """Keep a message."""
        match message:
            case Changed():
                self._change(message)
            case TargetEvent():
                self._notice(message)
            case Ok() | Refused():
                # What comes later may be newer than what it says of probes, and stays behind it.
                self._changed.clear()
                self._messages.append(message)
            case Forked() | Ended():
                self._changed.pop(message.pid, None)
                self._said = {each for each in self._said if each[1] != message.pid}
                self._messages.append(message)
            case _:
                self._messages.append(message)

    def _change(self, message: Changed) -> None:
        fresh: _Statuses = {}
        for status in message.probes:
            fresh.setdefault((status.program, status.probe), []).append(status)
        if message.pid not in self._changed:
            self._changed[message.pid] = len(self._messages), {}
            self._messages.append(message)
        at, statuses = self._changed[message.pid]
        statuses |= fresh
        self._messages[at] = Changed(
            message.pid, [status for each in statuses.values() for status in each]
        )

    def _notice(self, message: TargetEvent) -> None:
        said = message.kind, message.pid, message.tid
        if message.kind in _NEEDED:
            if said not in self._said:
                self._said.add(said)
                self._messages.append(message)
        elif self._notices < _MOST:
            self._notices += 1
            self._messages.append(message)
        else:
            self._dropped[message.pid] += 1

    def messages(self) -> list[Event | Reply]:
        """All of them."""
        lost = [
            TargetEvent(
                "lost",
                pid,
                pid,
                f"{count} notices about this process were dropped: the daemon did not take them",
            )
            for pid, count in self._dropped.items()
        ]
        return [*self._messages, *lost]
