"""Forks tracers: what a tracer process does before it runs its ``main``.

Imports no more than that takes. The daemon of one command forks its first tracer before it imports
what it is to do itself, so that both get ready at the same time.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from dprobed.daemon.change_journals import ChangeJournalFile, ChangeJournalFiles
from dprobed.daemon.child_process import fork_as

#: What a tracer process runs, with its socket, the mailbox of its user's resolver, and the
#: descriptor of its change journal; it returns when the socket is at its end.
TracerMain = Callable[[socket.socket, socket.socket, int], None]
#: Bytes of the socket's buffer: records wait there while the daemon is busy.
_SOCKET_BUFFER: Final = 4 << 20
#: RLIMIT_NICE that allows nice 0: 20 - nice (getrlimit(2)).
_NICE_0: Final = 20


def imported_main() -> TracerMain:
    """What tracers run, whole: who imports it shares its pages with those that are forked later."""
    from dprobed.tracer.main import import_all, main

    import_all()
    return main


def importing_main(sock: socket.socket, mailbox: socket.socket, changes: int) -> None:
    """What tracers run, imported by each of them."""
    from dprobed.tracer.main import main

    main(sock, mailbox, changes)


def fork_tracer(
    main: TracerMain, mailbox: socket.socket, journal: ChangeJournalFile
) -> tuple[int, socket.socket]:
    """Fork a tracer that runs ``main`` as the user of its journal: its pid, and our end of its
    socket.

    Raises OSError when the machine has no room for one more.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            with journal.opened() as changes:
                keep = {theirs.fileno(), mailbox.fileno(), changes}
                run = partial(_run, journal.user[0], partial(main, theirs, mailbox, changes))
                return fork_as(journal.user, keep, run), ours
        except BaseException:
            ours.close()
            raise


def _run(uid: int, main: Callable[[], None], become: Callable[[], None]) -> None:
    """Run the tracer of a user, in the forked child."""
    # A signal meant for the daemon must not leave breakpoints behind; only the socket ends it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    _keep_way_back()
    if uid:
        give_up_protection()
    become()
    main()


def give_up_protection(path: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Be as likely to be killed for want of memory as any process of an ordinary user.

    The service is protected from that, so that root's tracers stay; users are not to have processes
    that are. What a killed tracer leaves is undone.
    """
    with contextlib.suppress(OSError, ValueError):
        if int(path.read_text()) < 0:
            path.write_text("0")


def _keep_way_back() -> None:
    """Allow the later user to leave SCHED_IDLE again (RLIMIT_NICE), which a tracer sets on itself
    where its hits come from one thread (engine/affinity.py)."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NICE, (_NICE_0, _NICE_0))


class TracerAhead(NamedTuple):
    """A tracer that was forked before it is needed, for the user of its journal: its pid, our end
    of its socket, and both ends of the mailbox of its resolver."""

    journal: ChangeJournalFile
    pid: int
    sock: socket.socket
    mailbox: tuple[socket.socket, socket.socket]


def fork_ahead() -> TracerAhead:
    """Fork a tracer for this user and processes of this user; raises OSError."""
    journal = ChangeJournalFiles().make((os.geteuid(), os.getegid()), os.geteuid())
    mailbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return TracerAhead(journal, *fork_tracer(importing_main, mailbox[0], journal), mailbox)
