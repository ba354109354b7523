"""The clock by which programs in the target tell the time: set again and again, nobody is stopped.

It is a line through two readings of the time stamp counter and the monotonic clock
(``arch.x86_64.time_stamp``), in memory that the target shares with us. A thread reads its three
words one after the other, so they are never written over where a thread may be at them: a new line
goes to the next place, and then its address to where trampolines find it, in one piece. A place is
used again after ``_PLACES`` of these: a thread that is stopped for so long in the middle, some 16
s, may get a time that is wrong by what the clock was corrected by meanwhile.

So a program's time is right within what was read wrong, and 0.05 % of ``EVERY_NS`` where the kernel
corrects its clock: 0.13 ms. In the first moment, until there are two readings that far apart, it is
0.1 ms. Without a tracer it goes on in the last line.
"""

from __future__ import annotations

import array
import copy
from typing import Final, Protocol

from dprobed.engine.inline.shared import LINE

#: Nanoseconds between two lines.
EVERY_NS: Final = 250_000_000
_PLACES: Final = 64
_WORDS: Final = LINE // 8
_MOST: Final = (1 << 64) - 1
#: Bytes of shared memory: the address, and the lines.
SIZE: Final = LINE * (1 + _PLACES)


class Readings(Protocol):
    """What is read of both clocks."""

    @property
    def latest(self) -> tuple[int, int]:
        """Counter and nanoseconds of the last reading."""
        ...

    @property
    def rate(self) -> float:
        """Nanoseconds of a tick, as between the last two."""
        ...


class TargetClock:
    """The one of a target. ``address``, ``words``: where it is there, and the same here."""

    def __init__(self, address: int, words: memoryview, readings: Readings) -> None:
        self.address: Final = address
        self._words = words
        self._number = 0
        self._counter, self._now = readings.latest
        self._put(readings.rate)

    def tune(self, readings: Readings) -> None:
        """Go on in another line, if the present one is old."""
        counter, now = readings.latest
        if now < self._now + EVERY_NS:
            return
        # Where the machine has slept the counter may have begun anew.
        is_later = counter > self._counter
        rate = (now - self._now) / (counter - self._counter) if is_later else readings.rate
        self._counter, self._now = counter, now
        self._put(rate)

    def _put(self, rate: float) -> None:
        self._number = self._number % _PLACES + 1
        at = self._number * _WORDS
        scaled = min(max(round(rate * (1 << 32)), 0), _MOST)
        line = array.array("Q", (self._counter, self._now, scaled))
        self._words[at : at + len(line)] = memoryview(line)
        self._words[0] = self.address + self._number * LINE

    def copy(self, words: memoryview) -> TargetClock:
        """The same in a copy of the address space, with memory of its own there."""
        other = copy.copy(self)
        other._words = words
        return other
