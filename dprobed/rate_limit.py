"""The rate limit: a token bucket, for whatever may come only so often.

Tokens flow in at a rate, up to the size of the bucket, and what happens takes some out. Whoever
uses it chooses the unit of time.
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
        """How many tokens there are."""
        self._level = min(self._size, self._level + (now - self._then) * self._rate)
        self._then = now
        return self._level

    def take(self, now: float, amount: float = 1) -> bool:
        """Take tokens out where there are so many; whether there were."""
        if self.level(now) < amount:
            return False
        self._level -= amount
        return True

    def charge(self, amount: float, now: float) -> bool:
        """Take tokens out, below nothing too; whether there were so many."""
        # For each hit of a probe with a budget: written out, and not by ``level``.
        self._level = min(self._size, self._level + (now - self._then) * self._rate) - amount
        self._then = now
        return self._level >= 0

    def half_full(self) -> float:
        """When it will be half full, if nothing is taken out."""
        return self._then + max(0.0, self._size / 2 - self._level) / self._rate
