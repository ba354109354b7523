"""A detach that was asked for: what is called when it is done, and what keeps us from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from dprobed.tracee.thread_group import ThreadGroup
from dprobed.wire.notices import NoticeKind

#: Seconds for which threads sleep in the kernel before that is told.
_SLEEP: Final = 0.3
#: Threads that a notice names.
_NAMED: Final = 5


class Detachment:
    """Whether and how we are to detach from one target."""

    def __init__(self, group: ThreadGroup, tell: Callable[[NoticeKind, str], None]) -> None:
        """``tell`` sends a notice to the daemon: kind, text."""
        self._group: Final = group
        self._tell: Final = tell
        #: Whether we could not detach from it when we were to, and said so.
        self.is_asleep = False
        self._asleep_since = 0.0
        self._on_detached: Final[list[Callable[[], None]]] = []
        self._on_asleep: Final[list[Callable[[], None]]] = []

    @property
    def is_due(self) -> bool:
        """Whether we are to detach from the target as soon as that can be."""
        return bool(self._on_detached)

    def ask(self, then: Callable[[], None], when_asleep: Callable[[], None]) -> None:
        """Have it detached from as soon as no core is being written and all threads can be.

        ``when_asleep``: called if some cannot, before they wake. Whoever asked before is called
        as well: each waits for an answer.
        """
        self._on_detached.append(then)
        if self.is_asleep:
            when_asleep()
        else:
            self._on_asleep.append(when_asleep)
        self._group.request_attention()

    def done(self) -> None:
        """It is detached from, or has ended."""
        for then in self._on_detached:
            then()

    def note_asleep(self) -> None:
        """We could not detach from all threads; tell so, once, if that lasts."""
        now = time.monotonic()
        self._asleep_since = self._asleep_since or now
        if now - self._asleep_since < _SLEEP or self.is_asleep:
            return
        self.is_asleep = True
        asleep = ", ".join(str(tid) for tid in sorted(self._group.threads)[:_NAMED])
        self._tell(
            NoticeKind.ASLEEP,
            f"its probes are removed; its tracer stays attached until what sleeps in the kernel "
            f"(thread {asleep}) wakes",
        )
        for each in self._on_asleep:
            each()
