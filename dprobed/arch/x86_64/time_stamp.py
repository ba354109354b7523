"""The time stamp counter as a clock: what a target read, as monotonic nanoseconds.

Between two readings of both clocks nanoseconds go in a straight line; behind the last one they go
on as between the last two. A reading is right within what it takes (some 50 ns, more where we are
interrupted five times in a row). So behind the last one the error is at most three of these by the
time that is as far off as the one before; and, where the kernel is just correcting the monotonic
clock, 0.05 % of that time (NTP slews by 500 ppm at most).
"""

from __future__ import annotations

import ctypes
import time
from typing import Final

from dprobed.arch.x86_64 import code_page

_RDTSC: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx,32; or rax,rdx; ret
#: Readings of which the closest together are taken.
_TRIES: Final = 5
#: Nanoseconds between two readings by which the rate is known well enough.
_APART: Final = 20_000_000


class TimeStamps:
    """Makes nanoseconds of the time stamp counter; raises OSError where it cannot be read."""

    def __init__(self) -> None:
        self._read: Final = ctypes.CFUNCTYPE(ctypes.c_uint64)(code_page.mapped(_RDTSC))
        self._former = self._both()
        while (latest := self._both())[1] < self._former[1] + _APART // 20:
            pass
        self._latest = latest

    def _both(self) -> tuple[int, int]:
        """Counter and nanoseconds of one moment."""
        found = []
        for _ in range(_TRIES):
            before = self._read()
            now = time.monotonic_ns()
            after = self._read()
            found.append((after - before, (before + after) // 2, now))
        _, counter, now = min(found)
        return counter, now

    def look(self) -> None:
        """Read both again, when what was read last is old."""
        now = self._both()
        if now[1] > self._latest[1] + _APART:
            self._former, self._latest = self._latest, now

    @property
    def rate(self) -> float:
        """Nanoseconds of a tick."""
        (counter, now), (later, then) = self._former, self._latest
        return (then - now) / (later - counter)

    @property
    def latest(self) -> tuple[int, int]:
        """Counter and nanoseconds of the last reading."""
        return self._latest

    def nanoseconds(self, counter: int) -> int:
        """What the monotonic clock said when the counter was that."""
        counted, now = self._latest
        return now + round((counter - counted) * self.rate)
