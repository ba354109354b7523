"""Targets that change their own address space: their probed code, or the memory that is ours."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from dprobed.proc import procfs
from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import RefusedError, Target, TracerProcess, counting, until_it_reads

CHANGED = "the target changed its code there"
TOOK_AWAY = "the target took away the memory in which the probed instructions run"


@pytest.fixture
def program(build_target: BuildTarget) -> Path:
    return build_target("remaps.c", "-pthread")


def begin(program: Path, start: Start, trace: Trace, how: str) -> tuple[Target, TracerProcess, int]:
    """Probed, and at the gate; its thread (where code is replaced, there is none) is in a slot,
    in ``read``."""
    target = start(program, how)
    tracer = trace(target, follow_forks=True)
    number = tracer.put(counting(program, "alone", "reads_call"))
    reach(target, "reading")
    if how == "replaces":
        return target, tracer, number
    (reader,) = (tid for tid in procfs.threads(target.pid) if tid != target.pid)
    until_it_reads(f"{target.pid}/task/{reader}")
    return target, tracer, number


def states(tracer: TracerProcess, number: int) -> list[tuple[State, int, str]]:
    return [(each.state, each.hits, each.reason) for each in tracer.query(number)]


def reach(target: Target, *words: str) -> None:
    """Open a gate for each word, and read up to it."""
    for word in words:
        target.go()
        target.expect(word)


def probe_again(program: Path, target: Target, tracer: TracerProcess) -> None:
    """Its code, as it is now, takes probes as ever; and it goes on after us."""
    again = tracer.put(counting(program, "alone"))
    reach(target, "left")
    assert tracer.hits(again) == [10]
    leave(target, tracer)


def leave(target: Target, tracer: TracerProcess) -> None:
    """The target goes on after us, to its end."""
    tracer.detach_from(target.pid)
    target.finish()


@pytest.mark.parametrize("how", ["remaps", "closes"])
def test_code_that_is_moved_to_other_memory_or_closed_for_a_while(
    program: Path, start: Start, trace: Trace, how: str
) -> None:
    """Its breakpoints are in the copy that it makes, hold there, and are taken out of that."""
    target, tracer, number = begin(program, start, trace, how)
    reach(target, "changed")
    again = tracer.put(counting(program, "alone"))
    reach(target, "left")
    assert tracer.hits(number) == [30, 1]
    assert tracer.hits(again) == [10]
    leave(target, tracer)


def test_code_that_is_read_from_its_file_again(program: Path, start: Start, trace: Trace) -> None:
    target, tracer, number = begin(program, start, trace, "drops")
    reach(target, "changed")
    assert states(tracer, number) == [(State.FAILED, 10, CHANGED), (State.FAILED, 1, CHANGED)]
    probe_again(program, target, tracer)


def test_code_that_is_overwritten_with_breakpoints(
    program: Path, start: Start, trace: Trace
) -> None:
    """The ``int3`` that stands at the place then is not ours to take out, in no process."""
    target, tracer, number = begin(program, start, trace, "replaces")
    reach(target, "changed")
    _, probes = tracer.insert(counting(program, "alone"))
    assert [each.state for each in probes] == [State.MISMATCH]
    assert "changed its code" in probes[0].reason
    reach(target, "left")
    assert states(tracer, number) == [(State.FAILED, 10, CHANGED), (State.FAILED, 0, CHANGED)]
    leave(target, tracer)


@pytest.mark.parametrize("how", ["unmaps", "protects", "takes"])
def test_the_memory_that_is_ours_is_taken_away(
    program: Path, start: Start, trace: Trace, how: str
) -> None:
    """A thread in it, and one on its way there, find themselves in the code that was probed."""
    target, tracer, number = begin(program, start, trace, how)
    reach(target, "touched")
    assert target.number("strange") > 0
    elsewhere = tracer.put(counting(program, "reads"))
    reach(target, "changed")
    assert tracer.hits(elsewhere) == [0]
    assert states(tracer, number) == [(State.FAILED, 10, TOOK_AWAY), (State.FAILED, 1, TOOK_AWAY)]
    probe_again(program, target, tracer)


def test_a_child_that_is_not_given_the_memory_that_is_ours(
    program: Path, start: Start, trace: Trace
) -> None:
    target, tracer, number = begin(program, start, trace, "keeps")
    reach(target, "touched", "changed", "left")
    assert tracer.hits(number) == [30, 1]
    leave(target, tracer)


def test_the_memory_that_is_ours_is_taken_away_again_and_again(
    program: Path, start: Start, trace: Trace
) -> None:
    """In whatever moment: the target is none the worse, and each probe is in or says why not."""

    def hunted() -> int:
        target = start(program, "hunts")
        tracer = trace(target)
        target.go()
        lost = 0
        while not target.has_said():
            with contextlib.suppress(RefusedError):  # not even room for our own places was left
                number, probes = tracer.insert(counting(program, "alone", "alone+8"))
                while any(each.state is State.ACTIVE for each in probes) and not target.has_said():
                    probes = tracer.query(number)
                assert all(each.reason or each.state is State.ACTIVE for each in probes)
                lost += [each.reason for each in probes].count(TOOK_AWAY)
                tracer.remove(number)
        target.expect("hunted")
        target.expect("stopped")
        tracer.detach_from(target.pid)
        target.finish()
        return lost

    # On a busy machine a target may be through before it has met one of them.
    assert any(hunted() for _ in range(5))
