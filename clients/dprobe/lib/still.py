"""Whether what a record says of its process is so still: for addresses that are named later."""

from __future__ import annotations

import os
import time
from typing import Final

from dprobed.proc import procfs
from dprobed.wire import messages

#: Nanoseconds by which the clock may have been set since.
_SET: Final = 10 * 1_000_000_000


def holds(record: messages.Record) -> bool:
    """Whether a record's process is the same, and very likely executes the same program: the
    thread is there and has the name that it had."""
    start = procfs.start_time(record.pid)
    if start is None or procfs.comm(record.tid).decode(errors="replace") != record.comm:
        return False
    # One counts the time in which the machine is suspended, the other does not.
    suspended = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return start * 1e9 / os.sysconf("SC_CLK_TCK") <= record.time + suspended


def is_of_this_boot(offset_ns: int | None) -> bool:
    """Whether a trace with this offset (of its time to that of the day) is of this machine's life:
    else its process ids mean nothing here."""
    if offset_ns is None:
        return False
    return abs(time.time_ns() - time.monotonic_ns() - offset_ns) < _SET
