"""What the daemon asks of whoever holds probes: of a *backend*.

A tracer process is one (daemon/tracer_process.py); the tests have one that follows a script. The
daemon knows no more of either than what stands here.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Container
from typing import Protocol

from dprobed.wire import protocol


class BackendRefused(Exception):
    """The backend answered that it did not do it; the text is one line for the user."""


class BackendGone(Exception):
    """The backend came to its end before the answer."""


class Backend(Protocol):
    """Holds probes in some targets. What it tells of them goes to the ``OnEvent`` that it was
    started with, in order, from the event loop."""

    @property
    def name(self) -> str:
        """What kind it is, as records and targets carry it."""
        ...

    @property
    def gone(self) -> Future[str]:
        """Done when it has ended and all that it said was read: with a line that says how it ended
        if that was not by plain exit, else with ""."""
        ...

    async def request(self, make: Callable[[int], protocol.Request]) -> protocol.Ok:
        """Send ``make(seq)`` and wait for the answer; raises BackendRefused, BackendGone."""
        ...

    def close(self) -> None:
        """End it: it takes its probes out and detaches."""
        ...


#: Called with each event of a backend.
OnEvent = Callable[[Backend, protocol.Event], None]


class Backends(Protocol):
    """Starts backends of one kind."""

    @property
    def pids(self) -> Container[int]:
        """The processes that they are, none of which may be probed."""
        ...

    async def start(self, on_event: OnEvent, *, uid: int, gid: int, owner: int) -> Backend:
        """One without targets yet; it acts with the rights of ``uid`` and ``gid``.

        ``owner``: whose processes it is to have.
        Raises OSError when the machine has no room for one more.
        """
        ...

    async def stop(self, patience: float) -> int:
        """End all of them, wait at most ``patience`` seconds; how many are still at it."""
        ...
