"""Notes now and then what the targets' probes have counted, for a tracer that comes after this one.

Where the daemon is killed, its tracers take their probes out and end: their last note is of then.
Where they are killed, too, it is as old as the last tick, and its time says so.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec

from dprobed import last_counts
from dprobed.last_counts import LastCounts
from dprobed.tracer.targets import Targets
from dprobed.wire import protocol

#: Nanoseconds between two notes: one of a thousand probes takes half a millisecond.
_PAUSE: Final = 1_000_000_000
#: Bytes of a note that takes no time.
_SHORT: Final = 1 << 16

_log = logging.getLogger(__name__)


class Counting:
    """The notes of one tracer, in the file of its change journal."""

    def __init__(self, descriptor: int, targets: Targets) -> None:
        self._targets: Final = targets
        self._counts: Final = LastCounts(descriptor)
        self._wanted = last_counts.outlives(descriptor)
        self._due = 0
        self._programs = self._served = 0
        self._length = 0
        #: What the last note was of: where nothing of it has changed, nothing was counted.
        self._noted: list[tuple[int, ...]] | None = None

    def is_behind(self, served: int) -> bool:
        """Whether hits were counted since the last note; ``served``: how many there were."""
        return self._wanted and served != self._served

    def tick(self, served: int) -> None:
        """Note it, if that is due; ``served``: the hits so far."""
        if not self._wanted:
            return
        now = time.monotonic_ns()
        programs = sum(len(each.programs.inserted) for each in self._targets)
        # One that has just come is noted at once, unless that takes long.
        is_new = programs != self._programs and self._length < _SHORT
        if now < self._due and not is_new:
            return
        self._due, self._programs, self._served = now + _PAUSE, programs, served
        noted: list[tuple[int, ...]] = [(each.pid, *each.programs.sums()) for each in self._targets]
        if not noted and self._noted is None:
            return  # Nothing was ever changed.
        if noted == self._noted and not any(each.is_changing for each in self._targets):
            self._try(None, now)
        else:
            self._try([each.programs.counted() for each in self._targets], now)
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
                note = protocol.pack_counts(counts)
                if len(note) > last_counts.LONGEST:
                    # Maps are many: counters come first.
                    counts = [msgspec.structs.replace(e, maps=[], large=True) for e in counts]
                    note = protocol.pack_counts(counts)
                self._length = len(note)
                self._counts.write(note, now)
        except OSError as error:
            # The note before is still there, and says when it was so.
            _log.warning("what was counted cannot be noted for a restart: %s", error.strerror)
            self._wanted = False
