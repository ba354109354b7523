"""Targets that trap their own system calls or steps, and check the address of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import RefusedError, counting, until_it_reads

STEPS = ("stepped", "step_nop", "step_push", "step_call", "step_jump", "step_rep")


@pytest.fixture
def program(build_target: BuildTarget) -> Path:
    return build_target("judged.c")


@pytest.mark.parametrize("how", ["filtered", "dispatched", "allowed"])
def test_a_system_call_that_is_judged_by_its_address(
    program: Path, start: Start, trace: Trace, how: str
) -> None:
    """Made in the slot it is another; the place is given up as soon as that shows.

    Of "allowed" the target has all its other system calls dispatched when we leave.
    """
    target = start(program, how)
    tracer = trace(target)
    number = tracer.put(counting(program, "ask", "ask_call"))
    target.go()
    while (line := target.line()) != "judged":
        if line == "without":
            pytest.skip("this kernel has no PR_SET_SYSCALL_USER_DISPATCH")
        assert line is not None, target.said
    entry, call = tracer.query(number)
    assert (entry.state, entry.hits) == (State.ACTIVE, 10)
    assert (call.state, call.hits) == (State.FAILED, 1)
    assert call.reason.startswith("the target has system calls trapped")
    target.go()
    target.expect("stopped")
    calls = 20
    if how == "allowed":
        calls += 1
        until_it_reads(f"{target.pid}")
    assert tracer.query(number)[0].hits == calls
    tracer.detach()
    target.finish()


def test_all_system_calls_but_some_are_dispatched_already(
    program: Path, start: Start, trace: Trace
) -> None:
    target = start(program, "closed")
    if "without" in target.said:
        pytest.skip("this kernel has no PR_SET_SYSCALL_USER_DISPATCH")
    tracer = trace(target)
    with pytest.raises(RefusedError, match="PR_SET_SYSCALL_USER_DISPATCH"):
        tracer.insert(counting(program, "ask"))
    target.go()
    target.expect("stopped")
    tracer.detach()
    target.finish()


def test_a_target_that_steps_itself(program: Path, start: Start, trace: Trace) -> None:
    target = start(program, "steps")
    tracer = trace(target)
    number = tracer.put(counting(program, *STEPS))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [1] * len(STEPS)
    _, [pops] = tracer.insert(counting(program, "step_pops"))
    assert (pops.state, pops.reason.endswith("it can begin single stepping, which would show")) == (
        State.FAILED,
        True,
    )
    tracer.detach()
    target.finish()
