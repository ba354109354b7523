"""Budgets: what probes may cost their target. Each hit is charged to accounts.

An account belongs to what has limits: a program in one target, or all programs in it. Time and hits
flow in at the rate of the limits, up to what comes in a tenth of a second, and each hit is charged
what it cost. An account that is overdrawn is *over* until it has half of that again. So whatever is
too expensive is noticed within a second, and a throttled probe sleeps and works in turns of about
a twentieth of a second.

Time is that for which a thread stood still for us. The tracer measures what it does at a hit; what
the stop itself takes it cannot see, and ``STOP_NS`` stands for it. The time of a process is taken
as that of one CPU, whatever the number of its threads.
"""

from __future__ import annotations

from typing import Final

from dprobed.rate_limit import TokenBucket
from dprobed.wire.limits import Limits

#: What a stop and the continuation cost the thread besides what the tracer does in between, where
#: both are on one CPU. On a machine that is busy it can be more.
STOP_NS: Final = 10_000
#: Nanoseconds of income that an account can hold.
_HOLD_NS: Final = 100_000_000
_SECOND: Final = 1_000_000_000


class Account:
    """The budget of one program in a target, or of all. ``owner``: as messages name it."""

    def __init__(self, limits: Limits, owner: str, now: int) -> None:
        self.limits = limits
        self.owner = owner
        #: Until when it is overdrawn (monotonic ns); 0: it is not.
        self.over_until = 0
        #: Whether its overdraft was reported.
        self.noted = False
        self._time, self._hits = _buckets(limits, now)

    def refill(self, now: int) -> None:
        """Begin anew: the program that overdrew it has been removed."""
        self.over_until = 0
        self.noted = False
        self._time, self._hits = _buckets(self.limits, now)

    def charge(self, spent: int, now: int, hits: int = 1) -> bool:
        """Charge ``spent`` ns and ``hits``; whether that overdraws the account."""
        fine = True
        if self._time is not None and not self._time.charge(spent, now):
            fine = False
        if self._hits is not None and not self._hits.charge(hits, now):
            fine = False
        if fine:
            return False
        self.over_until = max(
            int(bucket.half_full()) for bucket in (self._time, self._hits) if bucket is not None
        )
        return True

    def reopen(self, now: int) -> bool:
        """End an overdraft whose time has come; whether one ended."""
        if not self.over_until or now < self.over_until:
            return False
        self.over_until = 0
        self.noted = False
        return True

    def reason(self) -> str:
        """Why its probes are throttled, for messages."""
        limits = self.limits
        allowed = []
        if limits.share is not None:
            allowed.append(f"{100 * limits.share:g} % of the time")
        if limits.hits is not None:
            allowed.append(f"{limits.hits:g} hits a second")
        rule = f" ({limits.rule})" if limits.rule else ""
        return f"over the budget of {self.owner}: {', '.join(allowed)}{rule}"


def _buckets(limits: Limits, now: int) -> tuple[TokenBucket | None, TokenBucket | None]:
    """Full ones for time and hits, as far as they are limited."""
    return (
        _bucket(limits.share, now) if limits.share is not None else None,
        _bucket(limits.hits / _SECOND, now) if limits.hits is not None else None,
    )


def _bucket(rate: float, now: int) -> TokenBucket:
    return TokenBucket(rate, max(rate * _HOLD_NS, 1.0), now)
