"""A token bucket: the rate limit of hits, journal entries and log lines.

The bucket fills at a rate, up to its size; each event takes tokens. The caller chooses the unit of
time.
"""

from __future__ import annotations


class TokenBucket:
    """Fills by ``rate`` a unit of time from ``now`` on, up to ``size``; it begins full."""

    __slots__ = ("_level", "_rate", "_size", "_then")

    def __init__(self, rate: float, size: float, now: float) -> None:
        self._rate = rate
        self._size = self._level = float(size)
        self._then = now

    def level(self, now: float) -> float:
        """The number of tokens now."""
        self._level = min(self._size, self._level + (now - self._then) * self._rate)
        self._then = now
        return self._level

    def take(self, now: float, amount: float = 1) -> bool:
        """Take tokens if there are enough; whether there were."""
        if self.level(now) < amount:
            return False
        self._level -= amount
        return True

    def charge(self, amount: float, now: float) -> bool:
        """Take tokens, also below 0; whether there were enough."""
        # Called at each hit of a probe with a budget: ``level`` written out, for speed.
        self._level = min(self._size, self._level + (now - self._then) * self._rate) - amount
        self._then = now
        return self._level >= 0

    def half_full(self) -> float:
        """When it will be half full, if no tokens are taken."""
        return self._then + max(0.0, self._size / 2 - self._level) / self._rate
