"""``--engine auto``: the fastest way that a program and its places allow, all of it in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting, text

pytest.importorskip("llvmlite")

#: How often each place of kinds.c is passed.
ROUNDS = 20
COUNTS = "inc lv,0\nabort"


@pytest.fixture
def engine() -> str:
    """All of these are about this choice."""
    return "auto"


def with_variable(program: Path, *places: str) -> str:
    return counting(program, *places, body=COUNTS).replace("\n", "\nvars = 1\n", 1)


def test_a_program_that_can_runs_in_the_target(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """By a jump; where a breakpoint is already, by that one, which then serves both."""
    program = build_target("kinds.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    tracer.insert(counting(program, "at_call"), engine="trap")
    number, probes = tracer.insert(with_variable(program, "at_load", "at_call", "at_lea"))
    assert [each.state for each in probes] == [State.ACTIVE] * 3, probes
    assert [each.engine for each in probes] == ["inline", "signal", "inline"]
    assert [bool(each.slower) for each in probes] == [False, True, False]
    assert "breakpoint" in probes[1].slower
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [ROUNDS] * 3
    assert tracer.vars(number) == [3 * ROUNDS]
    assert tracer.hits(number - 1) == [ROUNDS]
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


@pytest.mark.parametrize("state", [False, True], ids=["each", "all"])
def test_what_no_native_engine_serves_is_left_to_the_tracer(
    build_target: BuildTarget, start: Start, trace: Trace, state: bool
) -> None:
    """Alone where it has nothing in common with the others, else with all of them."""
    program = build_target("kinds.c")
    target = start(program)
    tracer = trace(target)
    source = (with_variable if state else counting)(program, "at_load", "at_movs")
    number, (load, movs) = tracer.insert(source)
    assert (load.state, movs.state) == (State.ACTIVE, State.ACTIVE), (load, movs)
    assert load.engine == ("trap" if state else "inline")
    assert movs.engine == "trap"
    assert "repeated" in movs.slower
    assert (load.slower.startswith("at_movs: ") and "repeated" in load.slower) is state
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [ROUNDS] * 2
    if state:
        assert tracer.vars(number) == [2 * ROUNDS]
    tracer.detach()
    target.finish()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("push comm\nlog 2\nexit", "makes system calls"),
        ("suspend\nexit", "suspends"),
        ("push r,xmm0\nlog 2\nexit", "floating point"),
    ],
)
def test_what_is_better_not_in_the_target_is_by_trap(
    build_target: BuildTarget, start: Start, trace: Trace, body: str, why: str
) -> None:
    program = build_target("kinds.c")
    target = start(program)
    tracer = trace(target)
    _, (probe,) = tracer.insert(counting(program, "at_load", body=body))
    assert (probe.state, probe.engine) == (State.ACTIVE, "trap")
    assert "test.rpn:" in probe.slower and why in probe.slower
    tracer.detach()
    target.end()


def test_a_watchpoint_and_code_that_count_the_same_are_both_the_tracers(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("kinds.c")
    target = start(program)
    tracer = trace(target)
    watching = f"address = counter:8\nwatchpoint = w\n{COUNTS}\n"
    number, probes = tracer.insert(with_variable(program, "at_lock") + watching)
    assert [each.engine for each in probes] == ["trap", "watch"]
    assert "watchpoint" in probes[0].slower
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    assert hits[0] == ROUNDS
    assert tracer.vars(number) == [sum(hits)]
    tracer.detach()
    target.finish()


def test_a_process_that_uses_sigtrap_itself_has_no_signal_engine(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("kinds.c")
    target = start("/bin/sh", "-c", f"trap '' TRAP; exec {program}")
    tracer = trace(target)
    _, (probe,) = tracer.insert(counting(program, "at_load"), engine="signal")
    assert probe.state is State.FAILED
    assert "it ignores SIGTRAP" in probe.reason
    tracer.insert(counting(program, "at_call"), engine="trap")
    number, (probe,) = tracer.insert(with_variable(program, "at_call"))
    assert (probe.state, probe.engine) == (State.ACTIVE, "trap")
    assert "it ignores SIGTRAP" in probe.slower
    target.go()
    target.expect("stopped")
    assert tracer.vars(number) == [ROUNDS]
    tracer.detach()
    target.finish()
