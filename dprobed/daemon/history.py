"""What users do, in the daemon's log: rate-limited for each user, in lines of bounded length.

Whoever asks a thousand times a second must neither fill the disk nor hide what others do. What is
left out is counted, and the next line of that user says how much it was.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from dprobed.printable import printable
from dprobed.rate_limit import TokenBucket

#: Lines a second about one user, and how many may come at once after a pause.
RATE: Final = 5.0
BURST: Final = 50
#: Users of whom rates are kept; with one more, all begin anew.
_USERS: Final = 1 << 12
#: Labels in a line, and letters of each.
_LABELS: Final = 5
_LETTERS: Final = 64

_log = logging.getLogger("dprobed")


class UserRates:
    """A rate limit for each user: says for each line about one whether it is to be written."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: dict[int, TokenBucket] = {}
        self._left_out: Counter[int] = Counter()

    def take(self, uid: int) -> int | None:
        """How many were left out since the last one that was written; None: so is this one."""
        now = self._now()
        bucket = self._buckets.get(uid)
        if bucket is None:
            if len(self._buckets) >= _USERS:
                self._buckets.clear()
                self._left_out.clear()
            bucket = self._buckets[uid] = TokenBucket(RATE, BURST, now)
        if not bucket.take(now):
            self._left_out[uid] += 1
            return None
        return self._left_out.pop(uid, 0)


class History:
    """Writes down what users have done. Of root's everything is written."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._rates = UserRates(now)

    def note(self, uid: int, text: str) -> None:
        """A line about something that is user ``uid``'s."""
        silent = self._rates.take(uid) if uid != 0 else 0
        if silent is None:
            return
        if silent:
            text += f" ({silent} more lines about user {uid} were left out before)"
        _log.info("%s", text)


def some(labels: Iterable[str]) -> str:
    """Names of programs for a line."""
    names = list(dict.fromkeys(map(printable, labels)))
    shown = [name if len(name) <= _LETTERS else f"{name[:_LETTERS]}…" for name in names[:_LABELS]]
    more = f" and {len(names) - _LABELS} more" if len(names) > _LABELS else ""
    return ", ".join(shown) + more
