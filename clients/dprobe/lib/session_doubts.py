"""Why probes of a session may never fire: told when they are put in, and again after an `exec`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final

from dprobe.lib.connection import Connection
from dprobe.lib.ending import endings
from dprobed.wire import messages

#: Seconds after which a program that was executed has mapped its libraries, and calls them.
_SETTLES = 0.5


class SessionDoubts:
    """Says of probes why they may never fire, a line each, by ``say``."""

    def __init__(self, connection: Connection, say: Callable[[str], None]) -> None:
        self._connection: Final = connection
        self._say: Final = say
        #: When to ``look`` next (monotonic); infinity: no time is known.
        self.next_look = math.inf
        self._executed: set[int] = set()

    def tell(self, probes: Sequence[messages.ProbeInfo]) -> None:
        """Say of probes that are in why they may never fire, and which end sooner than asked."""
        for line in endings(probe for probe in probes if probe.end_rule):
            self._say(line)
        for probe in probes:
            if probe.doubt:
                name = f"{probe.program} {probe.major}.{probe.minor} at {probe.place}"
                self._say(f"{name}: {probe.state}: {probe.doubt}")

    def executed(self, pid: int) -> None:
        """A process has executed another program: look when its modules are mapped."""
        self._executed.add(pid)
        self.next_look = time.monotonic() + _SETTLES

    def look(self, alive: Container[int], numbers: Iterable[int]) -> None:
        """Where it is time: ask about processes that have executed another program and are still
        there, of the programs with these numbers."""
        if time.monotonic() < self.next_look:
            return
        ours = set(numbers)
        pids, self._executed, self.next_look = self._executed, set(), math.inf
        for pid in pids:
            if pid not in alive:
                continue
            there = self._connection.request(
                lambda number, pid=pid: messages.Query(  # type: ignore[misc]
                    id=number, select=messages.Select(pid=pid)
                ),
                messages.Status,
            )
            self.tell([each for each in there.probes if each.number in ours])
