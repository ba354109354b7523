"""Refusals in the daemon's log, rate-limited for each user and cause.

A user who is refused may ask a thousand times a second: lines over the rate limit are counted, and
the next line says how many there were; where none comes, a line of its own does, after
``_TELL_AFTER`` seconds. Refusals by another rule, or of another right, are not hidden by that. Nor
is what is new by what was refused before: the same request about the same process, again, has a
rate limit of its own.

*Denied* is what the policies do not allow (``deny``), *refused* what no policy can: requests for
root alone, what is another user's, dprobed itself, the kernel's own EPERM, quotas (``refuse``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Final

from dprobed import systemd_journal
from dprobed.daemon.client import Forbidden
from dprobed.daemon.history import UserRates
from dprobed.policy.model import Denial
from dprobed.policy.rights import words

#: Refusals of one user and cause that are known again, and users and causes.
_DISTINCT: Final = 64
_CAUSES: Final = 1 << 12
#: Seconds after which is told what was left out, where no line came that says it.
_TELL_AFTER: Final = 10.0

_log = logging.getLogger("dprobed")

#: Calls something after a number of seconds.
Later = Callable[[float, Callable[[], None]], object]


def _later(seconds: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, call)


class Audit:
    """Logs refusals."""

    def __init__(self, now: Callable[[], float] = time.monotonic, later: Later = _later) -> None:
        self._rates = UserRates(now)
        self._later: Final = later
        #: By user and cause, what was refused, the last 64.
        self._known: dict[tuple[int, str], dict[Hashable, None]] = {}
        #: What a line is to come about, if none comes by itself.
        self._owed: set[tuple[int, str]] = set()
        #: How many there were, logged or not, by kind.
        self.refusals: Final[Counter[str]] = Counter()

    def deny(self, denial: Denial) -> None:
        """Log a refusal by a policy, within the rate limit of its user and cause."""
        self.refusals["policy"] += 1
        about = systemd_journal.about(
            "denied",
            uid=denial.uid,
            pid=denial.pid,
            rule=denial.rule,
            rule_place=denial.place,
            rights=words(denial.missing),
        )
        cause = f"{denial.rule}: {words(denial.missing)}"
        self._note(denial.uid, cause, denial.pid, f"denied: {denial.text}", about)

    def refuse(self, by: int, uid: int, request: str, refusal: Forbidden) -> None:
        """Log a refusal that no policy decided, within the rate limit of its user and kind.

        ``by``: the process that asked.
        """
        self.refusals[refusal.kind] += 1
        fields: dict[str, object] = {} if refusal.pid is None else {"pid": refusal.pid}
        about = systemd_journal.about(
            "refused",
            uid=uid,
            by_pid=by,
            request=request,
            why=refusal.kind,
            **fields,
        )
        text = f"refused: user {uid} (process {by}), {request}: {refusal}"
        self._note(uid, refusal.kind, (request, refusal.pid), text, about)

    def _note(self, uid: int, cause: str, what: Hashable, text: str, about: dict[str, str]) -> None:
        if self._is_known(uid, cause, what):
            cause += ", again"
        silent = self._rates.take(uid, cause)
        if silent is None:
            if (uid, cause) not in self._owed:
                self._owed.add((uid, cause))
                self._later(_TELL_AFTER, partial(self._tell, uid, cause, about))
            return
        if silent:
            text += f" ({silent} more like this since the last one logged)"
        _log.warning("%s", text, extra=about)

    def _is_known(self, uid: int, cause: str, what: Hashable) -> bool:
        """Whether the same was refused a short time ago; from now on it was."""
        if len(self._known) >= _CAUSES:
            self._known.clear()
        known = self._known.setdefault((uid, cause), {})
        if what in known:
            return True
        known[what] = None
        while len(known) > _DISTINCT:
            del known[next(iter(known))]
        return False

    def _tell(self, uid: int, cause: str, about: dict[str, str]) -> None:
        self._owed.discard((uid, cause))
        count = self._rates.left_out(uid, cause)
        if count:
            # Not about one process: they may have been about several.
            fields = {name: text for name, text in about.items() if not name.endswith("_PID")}
            word = fields["DPROBE_EVENT"]
            _log.warning(
                "%s: user %d: %d more like this (%s)", word, uid, count, cause, extra=fields
            )
