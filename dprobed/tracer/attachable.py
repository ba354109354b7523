"""Whether a process can be attached to, and why not: others would die of it, or it sleeps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Final

from dprobed.proc import procfs, refusals
from dprobed.proc.shared_memory import relatives, sharers
from dprobed.tracee.borrower import Asleep
from dprobed.tracee.ptrace import Executes
from dprobed.tracee.tracees import Tracees
from dprobed.tracer.inserted import RequestError

#: Seconds after which a process that sleeps in the kernel is not attached to; between two looks.
_SLEEP: Final = 0.3
_PAUSE: Final = 0.02

_log = logging.getLogger(__name__)


def check_attachable(pid: int, tracees: Tracees) -> None:
    """Refuse a process that cannot be traced; raises RequestError."""
    reason = refusals.refusal(pid)
    if reason is not None:
        raise RequestError(reason)
    check_alone(pid, relatives(pid), tracees)
    check_awake(pid, tracees)


def why_not_attached(pid: int, error: Exception) -> str:
    """Why attaching to a process failed, which ``check_attachable`` had not refused."""
    # It may have ended, or got another tracer, since the look.
    if not procfs.has_ended(pid):
        _log.info("process %d: %s", pid, error)
    reason = refusals.refusal(pid) or refusals.denial(pid) or str(error)
    if isinstance(error, Executes):
        reason = (
            f"process {pid} executes a program, and sleeps in the kernel (it waits for a disk or a "
            "file system that does not answer); try again when it runs"
        )
    return reason


def check_alone(pid: int, among: Iterator[int], tracees: Tracees) -> None:
    """Refuse a process whose memory an untraced one shares, which our breakpoints would kill.

    Raises RequestError.
    """
    for other in sharers(procfs.live_thread(pid), among):
        found = procfs.status(other)
        if found is None or other in (0, pid) or other in tracees.threads:
            continue
        relation = (
            "parent"
            if other == procfs.parent(pid)
            else ("child" if procfs.parent(other) == pid else "fellow")
        )
        raise RequestError(
            f"its {relation} {other} ({found.name.decode(errors='replace')}) shares its memory "
            "(vfork or CLONE_VM) and would run into the probes; try again when that ended"
        )


def check_awake(pid: int, tracees: Tracees) -> None:
    """Refuse a process of which every thread sleeps in the kernel, for longer than for a disk.

    Nothing could be put in, and we could not detach again before it wakes. Raises RequestError.
    """
    deadline = time.monotonic() + _SLEEP
    while procfs.sleeps(pid):
        if time.monotonic() > deadline:
            raise RequestError(str(Asleep(pid)))
        tracees.pause(_PAUSE)
