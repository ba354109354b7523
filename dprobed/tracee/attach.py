"""Attach to a process: become the tracer of each of its threads, without stopping any."""

from __future__ import annotations

from typing import Final

from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.lifecycle import State
from dprobed.tracee.ptrace import Executes, Gone, PtraceError
from dprobed.tracee.thread import Thread
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracee.tracees import is_ours

#: How often a process that executes a program meanwhile is tried.
_ATTEMPTS: Final = 3


def attach(group: ThreadGroup, pid: int) -> None:
    """Trace every thread of ``pid``; raises PtraceError and Gone, then nothing is traced but what
    sleeps in the kernel.

    One that executes a program may wait for us: the threads that are gone by that, and that we
    trace already, have to be collected.
    """
    for attempt in range(_ATTEMPTS):
        try:
            _attach(group, pid)
        except Executes:
            if group.threads or attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _attach(group: ThreadGroup, pid: int) -> None:
    others: set[int] = set()
    while fresh := set(procfs.threads(pid)) - group.threads.keys() - others:
        for tid in sorted(fresh):
            # The kernel's own threads would stop, but never make a remote system call.
            if procfs.is_kernels_own(tid) or not _seize(group, pid, tid):
                others.add(tid)
    if not group.threads:
        raise Gone(pid)


def _seize(group: ThreadGroup, pid: int, tid: int) -> bool:
    """Trace one thread; false when it is about to end. Raises PtraceError as ``attach`` does.

    A thread that has ended already is not traced either: the next look does not find it.
    """
    try:
        ptrace.seize(tid)
    except Gone:
        return True
    except PtraceError:
        # A thread that a traced one just made is traced already.
        if tid in group.threads:
            return True
        if not is_ours(tid):
            # One that is ending cannot be traced (ptrace_attach: exit_state, EPERM).
            if procfs.run_state(tid) in ("Z", "X", ""):
                return False
            if group.threads:
                with group.stopped():
                    group.detach_all()
            raise
    group.add(Thread(tid, pid, State.RUNNING, group))
    return True


def find_lost(group: ThreadGroup, pid: int) -> None:
    """After an internal error: add traced threads and children that no group has."""
    tracees = group.tracees
    for tid in procfs.threads(pid):
        if tid not in tracees.threads and is_ours(tid):
            known = tracees.first_stops.pop(tid, None) is not None
            group.add(Thread(tid, pid, State.STOPPED if known else State.RUNNING, group))
    for child in procfs.children(pid):
        first = tracees.first_stops.pop(child, None)
        if first is not None:
            group.adopt_orphan(child, first[0])
