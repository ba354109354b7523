"""The daemon as a service of systemd: what it is given by it, and what it tells it.

Given is a socket that listens already (``dprobed.socket``). Told are readiness, what runs, a
reload, the end, and that the daemon is well. That last comes once the daemon has greeted a client,
one that it makes for this: a loop that still fires timers and serves nobody tells nothing, and is
restarted. The client has a socket of its own and not the daemon's, which others may keep full.

Where no systemd (or what speaks its protocol) started the daemon, all of it does nothing, and
systemd-python is not even imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from dprobed.wire import messages

#: Seconds between two looks at what runs, where no watchdog asks for more.
_LOOK: Final = 10.0
#: Looks within the watchdog's time: one that comes late is not taken for none.
_LOOKS: Final = 3

_log = logging.getLogger("dprobed")


class _Server(Protocol):
    """What serves clients (server.py)."""

    async def serve_one(self, sock: socket.socket) -> None:
        """Serve a socket that is connected already."""
        ...


class ServiceManager:
    """What systemd gave this process, and the way to tell it something.

    ``environ``: that of this process; what is for this process alone is taken out of it. Raises
    OSError where what it says was given is not there.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._told: Final = "NOTIFY_SOCKET" in environ
        self._watchdog: Final = _watchdog_seconds(environ) if self._told else 0.0
        #: The sockets that listen already.
        self.listeners: Final[list[socket.socket]] = []
        self._complained = False
        if "LISTEN_FDS" in environ:
            self._take()

    def _take(self) -> None:
        from systemd import daemon

        for descriptor in daemon.listen_fds():
            if daemon.is_socket(descriptor, type=socket.SOCK_STREAM, listening=1):
                self.listeners.append(socket.socket(fileno=descriptor))
            else:
                os.close(descriptor)  # None of ours: what outlives us is in files.

    # -- states ----------------------------------------------------------------------------------

    def ready(self, status: str) -> None:
        """The daemon serves clients."""
        self._tell("READY=1", f"STATUS={status}")

    def stopping(self) -> None:
        """The daemon is ending."""
        self._tell("STOPPING=1", "STATUS=taking all probes out")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """The policies are being reloaded within this context."""
        now = time.monotonic_ns() // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")
        try:
            yield
        finally:
            self._tell("READY=1")

    async def watch(self, server: _Server, status: Callable[[], str]) -> None:
        """Say what runs, and that clients are served, from now on; without systemd it returns."""
        if not self._told:
            return
        pause = min(_LOOK, self._watchdog / _LOOKS) if self._watchdog else _LOOK
        said = complaint = ""
        while True:
            lines = []
            try:
                await _greeted(server)
            except OSError as error:  # No descriptor is left: perhaps soon.
                if complaint != (complaint := str(error.strerror)):
                    _log.error("clients cannot be served: %s", complaint)
            else:
                complaint = ""
                lines = ["WATCHDOG=1"] if self._watchdog else []
            if (line := status()) != said:
                lines.append(f"STATUS={line}")
                said = line
            if lines:
                self._tell(*lines)
            await asyncio.sleep(pause)

    def _tell(self, *lines: str) -> None:
        if not self._told:
            return
        from systemd import daemon

        try:
            daemon.notify("\n".join(lines))
        except OSError as error:
            if not self._complained:
                _log.warning("systemd cannot be told %s: %s", lines[0], error.strerror)
            self._complained = True


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """The time in which systemd wants to hear of us (sd_watchdog_enabled(3)); 0: it does not."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(0, int(environ.get("WATCHDOG_USEC", "0"))) / 1e6
    except ValueError:
        return 0.0


async def _greeted(server: _Server) -> None:
    """Wait until the server has answered a client of our own, as it does any client."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        await server.serve_one(theirs)
        writer.write(messages.encode(messages.Hello(id=0, protocol=messages.PROTOCOL)))
        # A refusal (too many are connected) is an answer, too.
        await reader.readline()
    finally:
        writer.close()
