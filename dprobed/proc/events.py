"""Events of processes (fork, exec, change of user, exit): their sources and their sink.

Two sources: the kernel's ``connector``, and ``polling`` of /proc. psutil has none: its
``process_iter`` is polling too, and does not see an ``exec``.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class EventKind(Enum):
    """What happened to a process."""

    FORK = "fork"
    EXEC = "exec"
    #: It changed its user or its group.
    UID = "uid"
    EXIT = "exit"


class EventSink(Protocol):
    """Receives events of processes; there are none of threads."""

    def on_event(self, kind: EventKind, pid: int, parent: int = 0) -> None:
        """Something happened to process ``pid``, a moment ago: it may be gone by now.

        ``parent``: the process that forked it, at a fork, where the source knows; else 0.
        """
        ...

    def on_lost(self) -> None:
        """Events were lost: anything may have happened since the last one."""
        ...


class Source(Protocol):
    """Sends events of processes to a sink, from ``start`` to ``stop``."""

    #: What it is, for messages and the log.
    name: str

    def start(self) -> None:
        """Begin to send events; raises OSError where this source cannot be used."""
        ...

    def stop(self) -> None:
        """No further event comes."""
        ...
