"""The lifecycle of one traced thread as a table: (state, stop) to reaction.

Pure: ``thread_group`` carries the reactions out. A pair that is not in the table cannot happen; it
is taken for an internal error, and the thread is resumed.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from dprobed.tracee.status import Kind


class State(Enum):
    """The state of a traced thread, as far as its stops have told us."""

    #: A new thread or fork child whose first stop has not been seen.
    STARTING = auto()
    RUNNING = auto()
    #: In a ptrace-stop that we have seen; it runs again when we resume it.
    STOPPED = auto()
    #: In a group-stop, left there with PTRACE_LISTEN.
    LISTENING = auto()
    #: In a ptrace-stop that lasts: until a client resumes it (a program's ``suspend``), a debugger
    #: does, or the tracer is done with it.
    HELD = auto()
    #: A zombie leader: its own end is reported when the last other thread of the process ends.
    ENDED = auto()


class Reaction(Enum):
    """What the tracer does about a stop."""

    #: The thread has ended.
    FORGET = auto()
    #: A SIGTRAP: find out what it is, and run the programs of a hit.
    SERVE_TRAP = auto()
    #: Resume it with the signal.
    DELIVER_SIGNAL = auto()
    #: Leave it in its group-stop (PTRACE_LISTEN).
    STAY_IN_GROUP_STOP = auto()
    #: Resume it.
    GO_ON = auto()
    #: The first stop of a new thread or fork child.
    BEGIN = auto()
    #: It made a thread or a process, which is traced by us already.
    ADOPT_CHILD = auto()
    #: It did ``exec``: the process has a new address space and no other threads.
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

#: A stopped thread can still be killed by SIGKILL, or vanish in another thread's ``exec``, and the
#: leader gets the new image then.
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
    """What to do about a stop; ``None`` for a pair that the kernel's rules rule out."""
    return TABLE.get((state, kind))
