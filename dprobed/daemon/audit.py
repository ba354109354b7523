"""Refusals in the daemon's log and in the journal, rate-limited for each user and cause.

A user who is refused may ask a thousand times a second: lines over the rate limit are counted, and
the next line says how many there were. Refusals by another rule, or of another right, are not
hidden by that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from dprobed import journal
from dprobed.daemon.history import UserRates
from dprobed.policy.model import Denial
from dprobed.policy.rights import words

_NOTICE: Final = "5"

_log = logging.getLogger("dprobed")


class Audit:
    """Logs refusals."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._rates = UserRates(now)

    def deny(self, denial: Denial) -> None:
        """Log a refusal, within the rate limit of its user and cause."""
        silent = self._rates.take(denial.uid, f"{denial.rule}: {words(denial.missing)}")
        if silent is None:
            return
        text = f"denied: {denial.text}"
        if silent:
            text += f" ({silent} more such denials since the last one logged)"
        _log.warning("%s", text)
        fields = {
            "MESSAGE": text,
            "PRIORITY": _NOTICE,
            "SYSLOG_IDENTIFIER": "dprobed",
            "OBJECT_PID": str(denial.pid),
            "DPROBE_EVENT": "denied",
            "DPROBE_UID": str(denial.uid),
            "DPROBE_PID": str(denial.pid),
            "DPROBE_RULE": denial.rule,
            "DPROBE_RULE_PLACE": denial.place,
            "DPROBE_RIGHTS": words(denial.missing),
        }
        journal.post(fields)
