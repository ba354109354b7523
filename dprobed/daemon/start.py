"""What every daemon does: checks where it runs, and serves its socket until it is to end.

``main`` is the daemon that listens, ``private_service`` that of one command.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dprobed import __version__, systemd_journal
from dprobed.daemon.app import App

#: Seconds that tracers have at the daemon's end to remove their probes; later they go on alone.
PATIENCE: Final = 10.0

_log = logging.getLogger("dprobed")


class StartError(Exception):
    """The daemon cannot start; the text says why and what to do."""


def check_proc() -> None:
    """Check that /proc is that of our process namespace; raises StartError.

    In a new process namespace /proc shows the old one until it is mounted again: a decision about
    one process would then be applied to another.
    """
    try:
        shown = str(Path("/proc/self").readlink())
    except OSError as error:
        raise StartError(f"/proc/self: {error.strerror}; run: mount -t proc proc /proc") from None
    if shown != str(os.getpid()):
        raise StartError(
            f"/proc is that of another process namespace (this process is {os.getpid()}, and "
            f"{shown} there); run: mount -t proc proc /proc"
        )


async def serve(build: Callable[[Callable[[], None]], App], sock: socket.socket) -> None:
    """Serve a listening socket until a signal, or one that is connected until its end.

    ``build``: makes the daemon; it is given what ends this.
    """
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        _at_signal(number, loop, end.set)
    app = build(end.set)
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        _at_signal(signal.SIGHUP, loop, app.reload)
        about = systemd_journal.about("started", version=__version__)
        _log.info("dprobed %s listens at %s", __version__, sock.getsockname(), extra=about)
        await app.listen(sock)
    else:
        _at_signal(signal.SIGHUP, loop, end.set)
        await app.serve_one(sock)
    await end.wait()
    await app.stop(PATIENCE)


def _at_signal(
    number: signal.Signals, loop: asyncio.AbstractEventLoop, do: Callable[[], None]
) -> None:
    """Do something in the loop at a signal.

    Not by its ``add_signal_handler``, which imports ``inspect`` to look at what is to be done: that
    takes a tenth of the time in which a private daemon gets ready.
    """

    def at_signal(number: int, frame: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(do)

    signal.signal(number, at_signal)
