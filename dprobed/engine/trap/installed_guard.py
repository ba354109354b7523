"""Whether the guard of a target is SIGTRAP's handler in the kernel, and when to look at that.

/proc does not tell our handler from one that the target has set in its place by a system call of
its own. So it is looked at again, seldom: while a thread makes a system call for us, our death
would be its, too.
"""

from __future__ import annotations

import time
from typing import Final

from dprobed.engine.trap.guard import Guard
from dprobed.engine.trap.sigaction import SIG_DFL, SIG_IGN, Sigaction, handler_of
from dprobed.engine.trap.sites import Sites
from dprobed.tracee.thread import Thread

#: Nanoseconds until the first look, and most between two.
_LOOK_NS: Final = 100_000_000
_SELDOM_NS: Final = 60_000_000_000
#: For as long the guard stays away where a thread is about to set or ask for the disposition.
_AWAY_NS: Final = 1_000_000_000


class InstalledGuard:
    """The guard of one target, as SIGTRAP's handler. Threads that are given are borrowed."""

    def __init__(self, sites: Sites, kernel: Sigaction) -> None:
        self._space, self._guard = sites.space, sites.guard
        self._kernel: Final = kernel
        #: Whether it is what the kernel has as SIGTRAP's handler.
        self.is_there = False
        #: When to see whether it still is (monotonic ns), and how long after the time before.
        self._look_again = 0
        self._pause = _LOOK_NS
        #: Until when it is not installed.
        self._away_until = 0

    def use(self, sites: Sites) -> None:
        """Start in an address space that has these sites."""
        self._space, self._guard = sites.space, sites.guard
        self.is_there = False

    def learn(self, handler: int) -> bool:
        """What the kernel has as handler was read; whether it is a guard: ours, or that of a tracer
        that died."""
        self.is_there = handler != 0 and handler == self._guard.base
        return self._guard.is_handler(handler)

    def is_look_due(self, has_handler: bool) -> bool:
        """Whether to look at the disposition now, of which the caller makes use: the next look is
        put off by that. ``has_handler``: /proc says that it is not the default."""
        now = time.monotonic_ns()
        if now < self._look_again and has_handler == self.is_there:
            return False
        self._pause = min(2 * self._pause, _SELDOM_NS)
        self._look_again = now + self._pause
        return True

    def look(self, thread: Thread) -> bytes | None:
        """What a system call of the target's own has set in its place; None: nothing.

        Raises Gone.
        """
        action = self._kernel.exchange(thread, self._space, 0)
        self.is_there = action is not None and handler_of(action) == self._guard.base
        return _set_since(action, self._guard)

    def install(self, thread: Thread) -> bytes | None:
        """Make it SIGTRAP's handler. What the target had set unseen is put back and returned.

        Raises Gone.
        """
        if self.is_there or not self._guard.base or time.monotonic_ns() < self._away_until:
            return None
        before = self._kernel.exchange(thread, self._space, self._guard.action)
        if before is None:
            return None
        self.is_there = True
        self._look_again = time.monotonic_ns() + self._pause
        handler = handler_of(before)
        if not handler or self._guard.is_handler(handler):
            return None
        self._kernel.store(thread, self._space, before)
        self.is_there = False
        return before

    def remove(self, thread: Thread) -> bytes | None:
        """Take it away, if it is there; returns what ``look`` would. Raises Gone."""
        if not self.is_there:
            return None
        self.is_there = False
        default = self._guard.default_action
        return _set_since(self._kernel.exchange(thread, self._space, default), self._guard)

    def remove_in_child(self, thread: Thread, copy: Sites) -> bytes | None:
        """``remove`` in a ``fork`` child, whose memory is a copy. Raises Gone."""
        default = copy.guard.default_action
        return _set_since(self._kernel.exchange(thread, copy.space, default), copy.guard)

    def stay_away(self) -> None:
        """Not be installed for a second: the target looks at the disposition."""
        self._away_until = self._look_again = time.monotonic_ns() + _AWAY_NS


def _set_since(found: bytes | None, guard: Guard) -> bytes | None:
    """What the target has set, if that was in the guard's place; None: nothing.

    To be ignored becomes the default at a hit; so does the guard, at a hit of a thread that blocks
    SIGTRAP, but the kernel leaves its restorer.
    """
    if found is None or guard.is_handler(handler_of(found)):
        return None
    if handler_of(found) == SIG_DFL:
        if int.from_bytes(found[16:24], "little") == guard.restorer:
            return None
        return SIG_IGN.to_bytes(8, "little") + found[8:]
    return found
