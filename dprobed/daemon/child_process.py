"""Forks child processes (tracers, resolvers) that run as a given user."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, NoReturn

#: uid and gid.
User = tuple[int, int]
#: What a child runs: it is given a function that makes it the user.
ChildMain = Callable[[Callable[[], None]], None]

#: RLIMIT_NOFILE is raised to this where it can be: every tracer takes two descriptors.
DESCRIPTORS: Final = 1 << 14
#: Field of /proc/PID/stat: where the command line begins in memory; the next says where it ends.
_ARG_START: Final = 48
#: Seconds between one collection of garbage and the next, where children are started.
_COLLECT: Final = 10.0
_collected = time.monotonic()


def fork_as(user: User, keep: Collection[int], child_main: ChildMain) -> int:
    """Fork a child that keeps only these descriptors open; its pid.

    Its pages stay shared with ours (copy-on-write). Raises OSError when the machine has no room for
    one more.
    """
    global _collected
    # Freezing and unfreezing moves all objects to the oldest generation, which the collector visits
    # only after many objects have aged by themselves.
    if time.monotonic() > _collected + _COLLECT:
        gc.collect()
        _collected = time.monotonic()
    # Frozen, the child's collector leaves the pages that it shares with us alone.
    gc.freeze()
    try:
        child = os.fork()
        if child == 0:
            _run_child(user, keep, child_main)
    finally:
        gc.unfreeze()
    return child


def _run_child(user: User, keep: Collection[int], child_main: ChildMain) -> NoReturn:
    """Run the child and exit; never returns into the daemon's event loop."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        close_all_but(keep)
        child_main(lambda: become(*user))
        status = 0
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor but the standard ones and these.

    What is open is asked for: some can be above a limit that was lowered later.
    """
    kept = {0, 1, 2, *keep}
    try:
        found = map(int, os.listdir("/proc/self/fd"))  # noqa: PTH208
    except OSError:  # no /proc, without which nothing is done, as is said later
        return
    for each in found:
        if each not in kept:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(each)


def begin_afresh() -> None:
    """Undo what whoever started us has done to signals and limits for reasons of its own.

    Children are waited for, and signals heard. A tracer that is killed for its use of CPU would
    leave its breakpoints behind.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < DESCRIPTORS:
        allowed = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))


def rename(name: str, title: str) -> None:
    """Have process lists show this process by another name and command line.

    A forked child is shown as its parent, so that who means one of them by its name (``killall``,
    ``pkill -f``) would mean both.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)
    with contextlib.suppress(OSError, ValueError):
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = map(int, after_name[_ARG_START - 3 : _ARG_START - 1])
        room = end - start
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            # The last byte stays zero: another would tell the kernel to show what follows, too.
            memory.write(os.fsencode(title)[: room - 1].ljust(room, b"\0"))


def how_it_ended(what: str, status: int) -> str:
    """One line about the exit status of a ``what``; empty if it was 0."""
    if status == 0:
        return ""
    if status > 0:
        return f"internal error in the {what} (exit status {status}; see the log)"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"the {what} was killed by {name}"


def become(uid: int, gid: int) -> None:
    """Drop to a user for good: real, effective and saved ids, and the user's groups.

    The kernel then checks the tracer's ptrace calls as that user's. Nothing changes where the
    process runs as that user already.
    """
    if os.geteuid() == uid:
        return
    import pwd

    try:
        groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        groups = [gid]
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
