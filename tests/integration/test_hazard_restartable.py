"""Hazard: restartable sequences (rseq), which the kernel aborts at each stop within them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.engine.trap.installed_guard import InstalledGuard
from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, counting, text


@pytest.fixture
def program(build_target: BuildTarget) -> Path:
    return build_target("restartable.c", "-pthread")


def begun(start: Start, program: Path, how: str) -> Target:
    target = start(program, how)
    if "without" in target.said:
        pytest.skip("this C library or this kernel has no restartable sequences")
    return target


def test_a_thread_that_is_borrowed_within_one(program: Path, start: Start, trace: Trace) -> None:
    """It is nowhere else in between, as far as the kernel knows: it would go on unprotected."""
    target = begun(start, program, "spins")
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    for _ in range(5):
        tracer.remove(tracer.put(counting("libc.so.6", "getpid")))
    target.go()
    target.expect("stopped")
    assert target.number("aborts") > 0
    assert tracer.hits(number) == [1]
    tracer.detach()
    target.finish()


@pytest.mark.parametrize("how", ["counts", "handles"])
def test_a_probe_within_one_is_given_up(
    program: Path, start: Start, trace: Trace, how: str
) -> None:
    """Each stop begins the sequence anew, so it would come to the breakpoint for ever. Also where
    the thread makes a system call for us first: in a handler of SIGTRAP, which a hit resets."""
    target = begun(start, program, how)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, "sequence", "inside", "probed"))
    target.go()
    target.expect("stopped")
    # One by us; another one by whoever else had the CPU then.
    aborts = target.number("aborts")
    assert aborts >= 1
    outside, inside, other = tracer.query(number)
    assert [(each.state, each.hits) for each in (outside, other)] == [
        (State.ACTIVE, 100 + aborts),
        (State.ACTIVE, 1),
    ]
    assert (inside.state, inside.hits) == (State.FAILED, 0)
    assert "restartable sequence" in inside.reason
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


@pytest.mark.parametrize("calls", [False, True])
@pytest.mark.parametrize(("kind", "where"), [("w", "entered:8"), ("x", "inside")])
def test_a_watchpoint_within_one_is_given_up(
    program: Path,
    start: Start,
    trace: Trace,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    where: str,
    calls: bool,
) -> None:
    """Also where the thread makes a system call for us in the middle of its hit: it is looked now
    and then whether the guard is still SIGTRAP's handler."""
    if calls:
        monkeypatch.setattr(InstalledGuard, "is_look_due", lambda *_: True)
    target = begun(start, program, "counts")
    tracer = trace(target)
    number = tracer.put(
        f'name = "{program}"\n'
        f"address = {where}\nwatchpoint = {kind}\nminor = 1\nabort\n"
        "address = counter:8\nwatchpoint = w\nminor = 2\nabort\n"
    )
    target.go()
    target.expect("stopped")
    assert target.number("aborts") >= 1  # Others may have had the CPU then.
    within, at_the_end = tracer.query(number)
    assert (within.state, within.hits) == (State.FAILED, 1)
    assert "restartable sequence" in within.reason
    assert (at_the_end.state, at_the_end.hits) == (State.ACTIVE, 100)
    tracer.detach()
    target.finish()


def test_a_watchpoint_within_one_is_over_at_that_hit(
    program: Path, start: Start, trace: Trace
) -> None:
    target = begun(start, program, "counts")
    tracer = trace(target)
    number = tracer.put(
        f'name = "{program}"\n'
        "address = entered:8\nwatchpoint = w\nmax_hits = 1\nabort\n"
        "address = counter:8\nwatchpoint = w\nabort\n"
    )
    target.go()
    target.expect("stopped")
    within, at_the_end = tracer.query(number)
    assert (within.state, within.hits) == (State.DISABLED, 1)
    assert (at_the_end.state, at_the_end.hits) == (State.ACTIVE, 100)
    tracer.detach()
    target.finish()
