"""Return probes where processes are made and end, and where probe or tracer come and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import EACH_ENGINE, Start, Trace
from tests.integration.harness import PATIENCE, TracerProcess, text
from tests.integration.returns_support import FLAGS, at_end, counts, returning


@pytest.fixture
def program(build_target: BuildTarget, engine: str) -> Path:
    return build_target("returns.c", *FLAGS[engine], "-pthread")


FUNCTIONS = ("forks", "vforks", "vforks_and_executes", "leaf")


@EACH_ENGINE
@pytest.mark.parametrize("follow", [False, True])
def test_fork_and_vfork_in_a_function(
    follow: bool, program: Path, start: Start, trace: Trace
) -> None:
    """The parent returns from it; a followed child does, too, in its own process."""
    target = start(program, "processes")
    tracer = trace(target, follow_forks=follow)
    number = tracer.put(returning(program, *FUNCTIONS))
    target.go()
    target.expect("stopped")
    # `leaf` in the parent: after each of three forks; in three children that share its memory. Its
    # call in those that execute another program is not begun.
    assert at_end(target, tracer, number) == [(3, 0), (3, 0), (3, 0), (6, 0)]
    children = [each for pid, each in tracer.ends.items() if pid != target.pid]
    assert len(children) == (6 if follow else 0)
    found = sorted(counts(each.probes) for each in children)
    executed = [[(0, 0)] * 4] * 3
    assert found == (executed + [[(1, 0), (0, 0), (0, 0), (2, 0)]] * 3 if follow else [])


@EACH_ENGINE
def test_exec_inside(program: Path, start: Start, trace: Trace) -> None:
    """The call that executes another program never returns; the probe goes on in the new one."""
    target = start(program, "executes")
    tracer = trace(target)
    number = tracer.put(returning(program, "executes", "leaf"))
    target.go()
    target.expect("ready")
    assert counts(tracer.query(number)) == [(0, 1), (0, 0)]
    target.go()
    target.expect("stopped")
    assert at_end(target, tracer, number) == [(0, 1), (10, 0)]


@EACH_ENGINE
def test_a_function_that_ends_the_process(program: Path, start: Start, trace: Trace) -> None:
    target = start(program, "ends")
    tracer = trace(target)
    number = tracer.put(returning(program, "ends"))
    target.go()
    target.expect("OK")
    assert target.process.wait(PATIENCE) == 0
    assert counts([each for each in tracer.wait().probes if each.program == number]) == [(1, 1)]


@EACH_ENGINE
def test_while_the_probe_goes_in_and_out(program: Path, start: Start, trace: Trace) -> None:
    """A call that was running when the probe went in is no hit; one that is running when it goes
    out returns as without us, and so does one when we detach."""
    target = start(program, "inside")
    tracer = trace(target)
    before = text(target.pid)
    target.go()
    target.expect("inside")
    number = tracer.put(returning(program, "waits", "leaf"))
    target.go()
    target.expect("again")
    assert counts(tracer.query(number)) == [(0, 0), (1, 0)]
    out = tracer.remove(number)
    assert counts(out) == [(0, 0), (1, 0)]
    assert all(each.state in (State.ACTIVE, State.REMOVED) for each in out)
    number = tracer.put(returning(program, "waits", "leaf"))
    target.go()
    target.expect("third")
    assert counts(tracer.query(number)) == [(0, 0), (1, 0)]
    tracer.detach()
    assert text(target.pid) == before
    target.go()
    target.expect("stopped")
    target.finish()


def test_the_tracer_is_killed_inside(program: Path, start: Start, trace: Trace) -> None:
    """The guard serves the return site as any other; the journal has it, so it is taken out."""
    target = start(program, "inside")
    before = text(target.pid)
    tracer = trace(target)
    tracer.put(returning(program, "waits", "leaf"))
    target.go()
    target.expect("inside")
    target.tracer = None
    changed = text(target.pid)
    assert changed != before
    tracer.kill()
    target.go()
    target.expect("again")
    other = TracerProcess(changes=tracer.changes)
    assert other.recover() == []
    other.end()
    assert text(target.pid) == before
    target.go()
    target.expect("third")
    target.go()
    target.expect("stopped")
    target.finish()


def test_in_and_out_under_fire(program: Path, start: Start, trace: Trace) -> None:
    """Threads are in the functions, in slots, at breakpoints; results are right all the time, and
    each time the code is as it was."""
    target = start(program, "hammers")
    tracer = trace(target)
    before = text(target.pid)
    target.go()
    target.expect("hammering")
    functions = ("deep", "handing", "leaf", "flees")
    for _ in range(25):
        number = tracer.put(returning(program, *functions))
        while not all(each.hits or each.unwound for each in tracer.query(number)):
            assert not target.has_said()
        found = tracer.remove(number)
        assert all(each.missed == each.dropped == 0 for each in found)
        assert [each.unwound > 0 for each in found] == [False, False, False, True]
    tracer.detach()
    assert text(target.pid) == before
    target.go()
    target.expect("stopped")
    target.finish()
