"""Logs what users do, with rate limits for each user and lines of bounded length.

A user who sends a thousand requests a second must neither fill the disk nor hide what others do.
Nor does one cause of lines hide another: each has a rate limit of its own. Lines over the limit are
counted, and the next line of that user and cause says how many there were.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from dprobed import systemd_journal
from dprobed.printable import printable
from dprobed.rate_limit import TokenBucket

#: Lines a second about one user for one cause, and the burst after a pause.
RATE: Final = 5.0
BURST: Final = 50
#: Rate limits at a time; with one more, all are reset.
_USERS: Final = 1 << 12
#: Labels in a line, and letters of each.
_LABELS: Final = 5
_LETTERS: Final = 64

_log = logging.getLogger("dprobed")


class UserRates:
    """A rate limit for each user and cause."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: dict[tuple[int, str], TokenBucket] = {}
        self._left_out: Counter[tuple[int, str]] = Counter()

    def take(self, uid: int, cause: str) -> int | None:
        """How many lines were left out since the last one written; None: leave this one out too."""
        now = self._now()
        key = uid, cause
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _USERS:
                self._buckets.clear()
                self._left_out.clear()
            bucket = self._buckets[key] = TokenBucket(RATE, BURST, now)
        if not bucket.take(now):
            self._left_out[key] += 1
            return None
        return self._left_out.pop(key, 0)

    def left_out(self, uid: int, cause: str) -> int:
        """How many lines were left out since the last one written; they are told now."""
        return self._left_out.pop((uid, cause), 0)


class History:
    """Logs what users have done; root's lines have no rate limit."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._rates = UserRates(now)

    def note(self, uid: int, text: str, cause: str = "", **fields: object) -> None:
        """Log a line about something that user ``uid`` did, or that came of it: ``cause``.

        Where that is one of the journal's events, the entry there has these fields.
        """
        silent = self._rates.take(uid, cause) if uid != 0 else 0
        if silent is None:
            return
        if silent:
            text += f" ({silent} more such lines about user {uid} were left out before)"
        about = (
            systemd_journal.about(cause, uid=uid, **fields)
            if cause in systemd_journal.EVENTS
            else None
        )
        _log.info("%s", text, extra=about)


def moment(until: float | None) -> str:
    """A moment of the monotonic clock by that of the wall, as of now; empty: there is none."""
    if until is None:
        return ""
    # Beyond that no calendar goes.
    seconds = min(time.time() + until - time.monotonic(), 1e11)
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def some(labels: Iterable[str]) -> str:
    """Labels of programs for a log line, shortened."""
    names = list(dict.fromkeys(map(printable, labels)))
    shown = [name if len(name) <= _LETTERS else f"{name[:_LETTERS]}…" for name in names[:_LABELS]]
    more = f" and {len(names) - _LABELS} more" if len(names) > _LABELS else ""
    return ", ".join(shown) + more
