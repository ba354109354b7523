"""Processes that become another user's while they are probed.

A service begins as root and goes on as its own user; who may observe the one need not be allowed to
observe the other. The kernel tells root's daemon of each such change, and all else is left out
there, so that to listen costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dprobed.proc.connector import Connector
from dprobed.proc.events import Kind

_log = logging.getLogger("dprobed")


class IdentityChanges:
    """Calls ``changed`` with each process that runs as another user or group, and ``missed`` when
    any may have."""

    def __init__(self, changed: Callable[[int], None], missed: Callable[[], None]) -> None:
        self._changed = changed
        self._missed = missed
        self._source = Connector(self, {Kind.UID})

    def start(self) -> None:
        """Listen, where the kernel tells us."""
        try:
            self._source.start()
        except OSError as error:
            _log.info(
                "processes that become another user's are not told of (%s): they are decided about "
                "when they execute something",
                error.strerror or error,
            )

    def stop(self) -> None:
        """Hear no more."""
        self._source.stop()

    def on_event(self, kind: Kind, pid: int, parent: int = 0) -> None:
        """A process runs as another user or group."""
        self._changed(pid)

    def on_lost(self) -> None:
        """Any process may run as another user now."""
        self._missed()
