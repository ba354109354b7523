"""Watches for processes that change their user or group (setuid) while they are probed.

A service starts as root and goes on as its own user; who may observe one need not be allowed to
observe the other. The proc connector reports each such change to root's daemon; all other events
are filtered out in the kernel, so that listening costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dprobed.proc.connector import Connector
from dprobed.proc.events import EventKind

_log = logging.getLogger("dprobed")


class IdentityChanges:
    """Calls ``changed`` with the pid of each process that changed its user or group.

    ``missed`` is called when events were lost.
    """

    def __init__(self, changed: Callable[[int], None], missed: Callable[[], None]) -> None:
        self._changed = changed
        self._missed = missed
        self._source = Connector(self, {EventKind.UID})

    def start(self) -> None:
        """Listen to the proc connector, where it is available."""
        try:
            self._source.start()
        except OSError as error:
            _log.info(
                "changes of a process's user are not reported (%s): policies are checked again "
                "only when a process executes something",
                error.strerror or error,
            )

    def stop(self) -> None:
        """Stop listening."""
        self._source.stop()

    def on_event(self, kind: EventKind, pid: int, parent: int = 0) -> None:
        """A process changed its user or group."""
        self._changed(pid)

    def on_lost(self) -> None:
        """Events were lost: any process may have changed its user."""
        self._missed()
