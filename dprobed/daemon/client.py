"""Who asks: users, clients, and what they are told when something cannot be done.

A *user* is whom the kernel says that somebody is. A *client* is a user who hears of what becomes of
the programs that are its own: a connection, a deployment, or the daemon itself for its policies.
A program's *owner* is the client that it goes out with; one that is kept has none.
"""

from __future__ import annotations

from typing import Protocol

from dprobed.wire import messages


class Refusal(Exception):
    """The request cannot be done; the text says why and what to do."""


class User(Protocol):
    """Whom the kernel says that somebody is."""

    uid: int
    gid: int


class Client(User, Protocol):
    """A user who hears of what becomes of programs."""

    #: The process that it is, which cannot be probed for itself.
    pid: int
    #: What it inserts stays when it is gone.
    kept: bool

    def offer(self, lines: bytes) -> bool:
        """Send record lines if there is room; False: there was not, and nothing was sent."""
        ...

    def tell(self, message: messages.Report) -> None:
        """Send what must not be lost."""
        ...
