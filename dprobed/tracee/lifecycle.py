"""The life of one traced thread as a table: (state, stop) to reaction.

Pure: the tracer carries reactions out. A pair that is not in the table cannot happen; the tracer
treats it as a defect of ours and lets the thread go on.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from dprobed.tracee.status import Kind


class State(Enum):
    """Where a traced thread is."""

    #: Created by a traced thread; its first stop has not been seen.
    STARTING = auto()
    RUNNING = auto()
    #: In a trace stop that we have seen; it runs again when we say so.
    STOPPED = auto()
    #: In a group-stop, left there with PTRACE_LISTEN.
    LISTENING = auto()
    #: Held by a program's ``suspend`` (a stop that lasts until the client resumes it).
    HELD = auto()
    #: The leading thread after its own end: a zombie, reported when the last other thread ends.
    ENDED = auto()


class Reaction(Enum):
    """What the tracer does about a stop."""

    FORGET = auto()
    SERVE_TRAP = auto()
    DELIVER_SIGNAL = auto()
    STAY_IN_GROUP_STOP = auto()
    GO_ON = auto()
    BEGIN = auto()
    ADOPT_CHILD = auto()
    NEW_IMAGE = auto()


_RUNS: Final[dict[Kind, Reaction]] = {
    Kind.EXITED: Reaction.FORGET,
    Kind.KILLED: Reaction.FORGET,
    Kind.TRAP: Reaction.SERVE_TRAP,
    Kind.SIGNAL: Reaction.DELIVER_SIGNAL,
    Kind.GROUP_STOP: Reaction.STAY_IN_GROUP_STOP,
    Kind.STOP: Reaction.GO_ON,
    Kind.CLONE: Reaction.ADOPT_CHILD,
    Kind.FORK: Reaction.ADOPT_CHILD,
    Kind.VFORK: Reaction.ADOPT_CHILD,
    Kind.EXEC: Reaction.NEW_IMAGE,
    Kind.OTHER: Reaction.GO_ON,
}

#: A thread in a stop of ours can still die of SIGKILL, or vanish in another thread's ``exec``, and
#: the leader gets the new image then.
_STANDS: Final[dict[Kind, Reaction]] = {
    Kind.EXITED: Reaction.FORGET,
    Kind.KILLED: Reaction.FORGET,
    Kind.EXEC: Reaction.NEW_IMAGE,
}

TABLE: Final[dict[tuple[State, Kind], Reaction]] = {
    **{(State.RUNNING, kind): reaction for kind, reaction in _RUNS.items()},
    **{(State.STOPPED, kind): reaction for kind, reaction in _STANDS.items()},
    **{(State.HELD, kind): reaction for kind, reaction in _STANDS.items()},
    **{(State.LISTENING, kind): reaction for kind, reaction in _STANDS.items()},
    **{(State.ENDED, kind): reaction for kind, reaction in _STANDS.items()},
    # PTRACE_LISTEN ends with another PTRACE_EVENT_STOP: by SIGCONT, by our interrupt (then still
    # with the stopping signal), or because a new stop began.
    (State.LISTENING, Kind.STOP): Reaction.GO_ON,
    (State.LISTENING, Kind.GROUP_STOP): Reaction.STAY_IN_GROUP_STOP,
    # The first stop of a child that ptrace attached by itself. With PTRACE_SEIZE it is an
    # EVENT_STOP; a group-stop in progress shows in its signal.
    (State.STARTING, Kind.STOP): Reaction.BEGIN,
    (State.STARTING, Kind.GROUP_STOP): Reaction.BEGIN,
    (State.STARTING, Kind.EXITED): Reaction.FORGET,
    (State.STARTING, Kind.KILLED): Reaction.FORGET,
}


def react(state: State, kind: Kind) -> Reaction | None:
    """What to do about a stop; ``None`` for a pair that the kernel's rules exclude."""
    return TABLE.get((state, kind))
