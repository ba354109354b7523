"""A ptrace call with a limit: its machine code, and what it leaves."""

from __future__ import annotations

import errno
import signal

from dprobed.arch.x86_64.timed_ptrace import CODE, TimedPtrace
from dprobed.tracee.ptrace import PTRACE_SEIZE
from tests.unit.arch.listing import code_of, decoded


def test_the_listing_says_what_the_code_does() -> None:
    assert decoded(code_of(CODE)) == list(CODE)


def test_the_timer_and_the_handler_are_put_back() -> None:
    heard = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 3600, 7)
        assert TimedPtrace(60).call(PTRACE_SEIZE, 1 << 30, 0, 0) == -errno.ESRCH
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert (left > 3000, interval) == (True, 7)
        signal.raise_signal(signal.SIGALRM)
        assert heard == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
