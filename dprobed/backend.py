"""The interface between the daemon and what holds probes, a *backend*.

A tracer process is one (daemon/tracer_process.py); the tests have a scripted one. The daemon uses
only what is declared here.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Collection, Container
from typing import Final, Protocol

from dprobed.wire import protocol


class BackendRefused(Exception):
    """The backend refused a request; the text is one line for the user."""


class BackendGone(Exception):
    """The backend ended before it answered."""


class BackendSilent(Exception):
    """The backend has not answered in time. ``asked``: it may yet do so, and do what it was asked;
    else nothing was sent. The text goes on a sentence about it."""

    def __init__(self, text: str, *, asked: bool) -> None:
        super().__init__(text)
        self.asked: Final = asked


#: Seconds in which a backend answers what it only has to look up: longer than a tracer waits for a
#: resolver, the longest time in which it hears nobody. And what changes a target, whose threads it
#: has to stop, and whose files have to be read.
PATIENCE: Final = 15.0
LONG_PATIENCE: Final = 120.0

#: Called with an answer that comes after its deadline; None: the request was refused.
Late = Callable[[protocol.Ok | None], None]


class Backend(Protocol):
    """Holds probes in some targets; it reports their events to the ``OnEvent`` that it was started
    with, in order, from the event loop."""

    @property
    def name(self) -> str:
        """The kind of backend, as records and targets carry it."""
        ...

    @property
    def gone(self) -> Future[str]:
        """Done when it has ended and all its messages were read: with a line about how it ended, or
        "" after a plain exit."""
        ...

    @property
    def is_silent(self) -> bool:
        """Whether it has not answered in time, and nothing has come of it since."""
        ...

    @property
    def waits(self) -> float:
        """Seconds for which it has owed an answer, and given none."""
        ...

    async def heard(self) -> None:
        """Wait until it is silent no longer, or has ended."""
        ...

    async def request(
        self,
        make: Callable[[int], protocol.Request],
        patience: float | None = PATIENCE,
        late: Late | None = None,
    ) -> protocol.Ok:
        """Send ``make(seq)`` and wait for the answer; raises BackendRefused, BackendGone, and
        BackendSilent where it does not come in ``patience`` seconds (None: whenever), or none came
        to others in time. An answer that comes after that is for ``late``, and dropped without."""
        ...

    def close(self) -> None:
        """End it: it removes its probes and detaches."""
        ...

    async def recover(self) -> None:
        """After it has ended, perhaps killed: undo what it has left in its targets."""
        ...


#: Called with each event of a backend.
OnEvent = Callable[[Backend, protocol.Event], None]


class Backends(Protocol):
    """Starts backends of one kind."""

    @property
    def pids(self) -> Container[int]:
        """Pids of the backends' processes, which may not be probed."""
        ...

    async def start(self, on_event: OnEvent, *, uid: int, gid: int, owner: int) -> Backend:
        """Start one, without targets yet; it acts with the rights of ``uid`` and ``gid``.

        ``owner``: whose processes it is to have.
        Raises OSError when the machine has no room for one more.
        """
        ...

    def recoveries(self, owner: int) -> Collection[Future[None]]:
        """Of what killed backends may have left in processes of user ``owner``: who undoes it now.

        Nobody may attach to one of them before that is done.
        """
        ...

    async def recover_orphans(self, patience: float) -> None:
        """At the daemon's start: undo what backends of daemons before it have left.

        Waits at most ``patience`` seconds; the rest is done later.
        """
        ...

    async def stop(self, patience: float) -> int:
        """End all of them and wait at most ``patience`` seconds; how many still run."""
        ...
