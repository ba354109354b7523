"""Whom to ask again after there was no answer, and when: decided alike for all who ask a resolver.

A file of which a resolver has died is not asked about for a while. A resolver that has not answered
(it may be stopped, or in uninterruptible sleep) is waited for once; then nothing is asked for some
seconds, and after that it is tried for a moment, until it answers again: whoever waits for us does
so for each file, perhaps in ``dlopen``. What it had not read before it ended is asked again.

No I/O, and no clock: who asks says what time it is.
"""

from __future__ import annotations

from typing import Final

from dprobed.resolver.errors import LostError, SilenceError
from dprobed.resolver.limits import DEADLINE
from dprobed.resolver.modules import Identity

#: Seconds until an answer is no longer waited for: others' questions come first, and may each take
#: the resolver all of its time.
PATIENCE: Final = 2 * DEADLINE + 2
#: Seconds in which nothing is asked of a resolver that left a question without an answer, and how
#: long it is waited for then until it answers again.
_SILENCE: Final = 10.0
_TRIAL: Final = 1.0
#: Seconds that a file is not asked about again of whose question the resolver has died.
_SHUNNED: Final = 60.0
_MOST_SHUNNED: Final = 1024


class Caution:
    """What one asker remembers of the resolver that it asks."""

    def __init__(self) -> None:
        #: Files of which a resolver has died: why, and until when they are not asked about.
        self._shunned: dict[Identity, tuple[str, str, float]] = {}
        #: It has not answered a question in time, nor any since; until when nothing is asked.
        self._is_silent = False
        self._silent_until = 0.0

    def patience(self, identity: Identity, path: str, now: float) -> float:
        """For how many seconds to wait for the answer to a question about a file; raises LostError
        where it is not asked."""
        message, hint, until = self._shunned.get(identity, ("", "", 0.0))
        if now < until:
            raise LostError(message, hint)
        if now < self._silent_until:
            raise SilenceError(f"{path}: the resolver does not answer")
        return _TRIAL if self._is_silent else PATIENCE

    def answered(self) -> None:
        """An answer came."""
        self._is_silent = False

    def failed(self, identity: Identity, error: LostError, now: float, end: float) -> bool:
        """No answer came, which was waited for until ``end``; whether to ask again at once."""
        late = now >= end
        if isinstance(error, SilenceError):
            if late:
                # On trial, the question before this may still be what it is at.
                if not self._is_silent:
                    self._shun(identity, error, now)
                self._is_silent = True
                self._silent_until = now + _SILENCE
            return False
        self._is_silent = False
        if error.innocent and not late:
            return True
        self._shun(identity, error, now)
        return False

    def remembers(self, now: float) -> bool:
        """Whether there is something that is not asked."""
        return now < self._silent_until or any(now < until for *_, until in self._shunned.values())

    def _shun(self, identity: Identity, error: LostError, now: float) -> None:
        """Ask nothing about a file for a while."""
        self._shunned[identity] = (error.message, error.hint, now + _SHUNNED)
        if len(self._shunned) > _MOST_SHUNNED:
            del self._shunned[next(iter(self._shunned))]
