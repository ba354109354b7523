"""Refusals in the daemon's log and in the journal, at a bounded rate.

A user who is refused may ask a thousand times a second; what is not written is counted, and said
with the next one that is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from dprobed.handler import journal
from dprobed.policy.model import Denial
from dprobed.policy.rights import words

#: Refusals a second at most, and how many may come at once after a pause.
RATE: Final = 5.0
BURST: Final = 50
_NOTICE: Final = "5"

_log = logging.getLogger("dprobed")


class Audit:
    """Writes refusals down. ``silent`` counts those that were not written since the last one."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._tokens = float(BURST)
        self._filled = now()
        self.silent = 0

    def deny(self, denial: Denial) -> None:
        """Note a refusal."""
        now = self._now()
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RATE)
        self._filled = now
        if self._tokens < 1:
            self.silent += 1
            return
        self._tokens -= 1
        text = f"denied: {denial.text}"
        if self.silent:
            text += f" ({self.silent} more were denied since the last that was written)"
            self.silent = 0
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
