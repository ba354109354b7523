"""Limits the dumps of each probe to so many an hour, and the notices about refused ones."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dprobed.corefile import store
from dprobed.corefile.store import StoreLimits

_HOUR: Final = 3600.0
#: Seconds between two notices that dumps are refused.
_QUIET: Final = 10.0


class DumpError(Exception):
    """A dump is refused; one line."""


class Admission:
    """Admits or refuses the dumps of one target. ``tell``: kind, text, thread id."""

    def __init__(self, tell: Callable[[str, str, int], None]) -> None:
        self._tell: Final = tell
        self._recent: Final[dict[tuple[int, int], deque[float]]] = {}
        self._refused = 0
        self._quiet_until = 0.0

    def admit(self, key: tuple[int, int]) -> StoreLimits:
        """The limits in force for a dump of this probe; raises DumpError and StoreError."""
        limits = store.limits()
        recent = self._recent.get(key, deque())
        while recent and recent[0] < time.monotonic() - _HOUR:
            recent.popleft()
        if len(recent) >= limits.hourly:
            raise DumpError(
                f"this probe had {limits.hourly} dumps in the last hour, which is its limit"
            )
        return limits

    def count(self, key: tuple[int, int]) -> None:
        """Count a dump of this probe that was begun."""
        self._recent.setdefault(key, deque()).append(time.monotonic())

    def refuse(self, reason: str, tid: int) -> None:
        """Report that a dump was refused, unless one was reported just now."""
        self._refused += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            more = f" ({self._refused} refused so far)" if self._refused > 1 else ""
            self._tell("dump", f"no dump: {reason}{more}", tid)
