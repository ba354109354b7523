"""Clients of the daemon, their users, and how a request is refused.

A *user* is a uid and gid as the kernel reports them. A *client* inserts programs and is told of
their state changes: a connection, a deployment, or the daemon itself for its policies. A program's
*owner* is the client with whose end it is removed; a program that is kept has none.
"""

from __future__ import annotations

from typing import Final, Protocol

from dprobed.wire import messages


class Refusal(Exception):
    """A request is refused; the text says why, and what to do."""

    def add(self, text: str) -> None:
        """Say more."""
        self.args = (f"{self}; {text}",)


class Forbidden(Refusal):
    """A refusal because of who asks, which is noted (audit.py).

    ``kind``: the rule, in a word or two; ``pid``: the process that it is about, if it is about one.
    """

    def __init__(self, text: str, kind: str, pid: int | None = None) -> None:
        super().__init__(text)
        self.kind: Final = kind
        self.pid: Final = pid


class NoFacilityRefusal(Refusal):
    """A program names a facility that nobody has registered (yet)."""


class NoAnswer(Refusal):
    """The tracer of a process does not answer. ``asked``: it may yet do what it was asked; else
    nothing was sent to it."""

    def __init__(self, text: str, *, asked: bool) -> None:
        super().__init__(text)
        self.asked: Final = asked


class User(Protocol):
    """A uid and gid, as the kernel reports them."""

    uid: int
    gid: int


class Client(User, Protocol):
    """Inserts programs, gets their records, and is told of their state changes."""

    #: Its process, which it cannot have probed.
    pid: int
    #: The programs that it inserts stay when it is gone.
    kept: bool

    def offer(self, lines: bytes) -> bool:
        """Send record lines if there is room; False: there was not, and nothing was sent."""
        ...

    def tell(self, message: messages.Report) -> None:
        """Send a report that must not be dropped."""
        ...
