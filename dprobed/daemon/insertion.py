"""What is inserted into targets, how, and for how long."""

from __future__ import annotations

import time

import msgspec

from dprobed.program.model import Program
from dprobed.wire import messages, protocol


class Term(msgspec.Struct, frozen=True):
    """From when and until when a program stays (monotonic, also over a restart of the daemon).

    ``until``: None: until it is removed. ``rule``: who says so, if not the user.
    """

    since: float = msgspec.field(default_factory=time.monotonic)
    until: float | None = None
    rule: str = ""


class Insertion(msgspec.Struct, frozen=True):
    """A program to be inserted, and how.

    ``deployed``: it belongs to a deployment, whose ``term`` is one for all processes.
    ``follow_forks``: fork children get it, too. ``policy``: that which inserts it, with how many
    ``seconds`` it stays in each process (None: no limit); empty: a client does. ``file``: of one
    for processes that the kernel places.
    """

    number: int
    upload: messages.Upload
    program: Program
    check_opcode: bool = True
    follow_forks: bool = False
    deployed: bool = False
    term: Term = msgspec.field(default_factory=Term)
    policy: str = ""
    seconds: float | None = None
    file: protocol.FilePlaces | None = None

    def is_over(self, now: float) -> bool:
        """Whether it is a deployment's, and that has come to its end."""
        return self.deployed and self.term.until is not None and self.term.until <= now


def left(until: float | None) -> float | None:
    """Seconds until a moment; None: there is none."""
    return None if until is None else max(0.0, until - time.monotonic())
