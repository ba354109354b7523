"""What users do, in the daemon's log: at a bounded rate, and in lines of bounded length.

Whoever asks a thousand times a second is not to fill the disk, nor to hide in that what others do:
each user has a rate of their own, and what is not written is counted, and said with the next line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from dprobed.printable import printable

#: Lines a second about one user, and how many may come at once after a pause.
RATE: Final = 5.0
BURST: Final = 50
#: Users who are kept account of; then all begin anew.
_USERS: Final = 1 << 12
#: Labels in a line, and letters of each.
_LABELS: Final = 5
_LETTERS: Final = 64

_log = logging.getLogger("dprobed")


class _Account:
    def __init__(self, now: float) -> None:
        self.tokens = float(BURST)
        self.filled = now
        self.silent = 0


class Pace:
    """Says for each line about a user whether it is to be written."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._accounts: dict[int, _Account] = {}

    def take(self, uid: int) -> int | None:
        """How many were not written since the last one that was; None: nor is this one to be."""
        now = self._now()
        if uid not in self._accounts and len(self._accounts) >= _USERS:
            self._accounts.clear()
        account = self._accounts.setdefault(uid, _Account(now))
        account.tokens = min(BURST, account.tokens + (now - account.filled) * RATE)
        account.filled = now
        if account.tokens < 1:
            account.silent += 1
            return None
        account.tokens -= 1
        silent, account.silent = account.silent, 0
        return silent


class History:
    """Writes down what users have done. Of root's everything is written."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._pace = Pace(now)

    def note(self, uid: int, text: str) -> None:
        """A line about something that is user ``uid``'s."""
        silent = self._pace.take(uid) if uid != 0 else 0
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
