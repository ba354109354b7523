"""What a source of process events says, and to whom."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class Kind(Enum):
    """What happened to a process."""

    FORK = "fork"
    EXEC = "exec"
    #: It runs as another user, or with another group, now.
    UID = "uid"
    EXIT = "exit"


class Sink(Protocol):
    """Who hears of processes. Threads are not told of."""

    def on_event(self, kind: Kind, pid: int, parent: int = 0) -> None:
        """Something happened to process ``pid``, at most a moment ago: it may be gone.

        ``parent``: whose copy it is, where it was forked and the source knows.
        """
        ...

    def on_lost(self) -> None:
        """Events were lost: anything may have happened since the last one."""
        ...


class Source(Protocol):
    """Something that hears of processes, from ``start`` to ``stop``."""

    #: For people: what it is.
    name: str

    def start(self) -> None:
        """Begin; raises OSError where this source cannot be used."""
        ...

    def stop(self) -> None:
        """No further event comes."""
        ...
