"""Refusals in the daemon's log, rate-limited for each user and cause.

A user who is refused may ask a thousand times a second: lines over the rate limit are counted, and
the next line says how many there were. Refusals by another rule, or of another right, are not
hidden by that.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from dprobed import systemd_journal
from dprobed.daemon.history import UserRates
from dprobed.policy.model import Denial
from dprobed.policy.rights import words

_log = logging.getLogger("dprobed")


class Audit:
    """Logs refusals."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._rates = UserRates(now)
        #: How many there were, logged or not, by kind.
        self.refusals: Final[Counter[str]] = Counter()

    def deny(self, denial: Denial) -> None:
        """Log a refusal, within the rate limit of its user and cause."""
        self.refusals["policy"] += 1
        silent = self._rates.take(denial.uid, f"{denial.rule}: {words(denial.missing)}")
        if silent is None:
            return
        text = f"denied: {denial.text}"
        if silent:
            text += f" ({silent} more such denials since the last one logged)"
        about = systemd_journal.about(
            "denied",
            uid=denial.uid,
            pid=denial.pid,
            rule=denial.rule,
            rule_place=denial.place,
            rights=words(denial.missing),
        )
        _log.warning("%s", text, extra=about)
