"""Notes now and then what the targets' probes have counted, for a tracer that comes after this one.

Where the daemon is killed, its tracers take their probes out and end: their last note is of then.
Where they are killed, too, it is as old as the last tick, and its time says so.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from dprobed import last_counts
from dprobed.last_counts import LastCounts
from dprobed.tracer.targets import Targets
from dprobed.wire import protocol

#: Nanoseconds between two notes: one of a thousand probes takes half a millisecond.
_PAUSE: Final = 1_000_000_000

_log = logging.getLogger(__name__)


class Counting:
    """The notes of one tracer, in the file of its change journal."""

    def __init__(self, descriptor: int, targets: Targets) -> None:
        self._targets: Final = targets
        self._counts: Final = LastCounts(descriptor)
        self._wanted = last_counts.outlives(descriptor)
        self._due = 0
        #: What the last note was of: where nothing of it has changed, nothing was counted.
        self._noted: list[tuple[int, ...]] | None = None

    def tick(self) -> None:
        """Note it, if that is due."""
        now = time.monotonic_ns()
        if not self._wanted or now < self._due:
            return
        self._due = now + _PAUSE
        noted: list[tuple[int, ...]] = [(each.pid, *each.programs.sums()) for each in self._targets]
        if not noted and self._noted is None:
            return  # Nothing was ever changed.
        if noted == self._noted and not any(each.is_changing for each in self._targets):
            self._try(None, now)
        else:
            self._try([each.counted() for each in self._targets], now)
            self._noted = noted

    def end(self, now: int) -> None:
        """Note what those had counted from which we have detached, from ``now`` on."""
        if self._wanted and self._targets.left:
            self._try(self._targets.left, now)

    def _try(self, counts: list[protocol.Counted] | None, now: int) -> None:
        try:
            if counts is None:
                self._counts.renew(now)
            else:
                self._counts.write(protocol.pack_counts(counts), now)
        except OSError as error:
            # The note before is still there, and says when it was so.
            _log.warning("what was counted cannot be noted for a restart: %s", error.strerror)
            self._wanted = False
