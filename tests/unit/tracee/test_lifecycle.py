"""The lifecycle table of a thread: every pair of state and stop, the impossible ones too."""

from __future__ import annotations

import pytest

from dprobed.tracee.lifecycle import TABLE, Reaction, State, react
from dprobed.tracee.status import Kind

ENDS = {Kind.EXITED: Reaction.FORGET, Kind.KILLED: Reaction.FORGET}
#: What ptrace(2) says can be reported of a thread in each state, and what is to be done then.
EXPECTED: dict[State, dict[Kind, Reaction]] = {
    State.STARTING: {
        **ENDS,
        Kind.STOP: Reaction.BEGIN,
        Kind.GROUP_STOP: Reaction.BEGIN,
    },
    State.RUNNING: {
        **ENDS,
        Kind.TRAP: Reaction.SERVE_TRAP,
        Kind.SIGNAL: Reaction.DELIVER_SIGNAL,
        Kind.GROUP_STOP: Reaction.STAY_IN_GROUP_STOP,
        Kind.STOP: Reaction.GO_ON,
        Kind.CLONE: Reaction.ADOPT_CHILD,
        Kind.FORK: Reaction.ADOPT_CHILD,
        Kind.VFORK: Reaction.ADOPT_CHILD,
        Kind.EXEC: Reaction.NEW_IMAGE,
        Kind.OTHER: Reaction.GO_ON,
    },
    State.LISTENING: {
        **ENDS,
        Kind.STOP: Reaction.GO_ON,
        Kind.GROUP_STOP: Reaction.STAY_IN_GROUP_STOP,
        Kind.EXEC: Reaction.NEW_IMAGE,
    },
    State.STOPPED: {**ENDS, Kind.EXEC: Reaction.NEW_IMAGE},
    State.HELD: {**ENDS, Kind.EXEC: Reaction.NEW_IMAGE},
    State.ENDED: {**ENDS, Kind.EXEC: Reaction.NEW_IMAGE},
}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("state", State)
def test_every_pair(state: State, kind: Kind) -> None:
    assert react(state, kind) is EXPECTED[state].get(kind)


def test_the_table_holds_nothing_else() -> None:
    assert sum(map(len, EXPECTED.values())) == len(TABLE)


@pytest.mark.parametrize("state", State)
def test_a_thread_can_end_in_every_state(state: State) -> None:
    """SIGKILL reaches a thread wherever it is."""
    assert react(state, Kind.KILLED) is Reaction.FORGET
    assert react(state, Kind.EXITED) is Reaction.FORGET


@pytest.mark.parametrize("reaction", Reaction)
def test_no_reaction_without_a_reason(reaction: Reaction) -> None:
    assert reaction in TABLE.values()


@pytest.mark.parametrize("state", [each for each in State if each is not State.RUNNING])
def test_only_a_running_thread_hits(state: State) -> None:
    assert react(state, Kind.TRAP) is None
