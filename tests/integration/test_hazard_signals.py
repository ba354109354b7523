"""Hazard 3: signals, job control, and targets that use SIGTRAP themselves."""

from __future__ import annotations

import os
import signal

import pytest

from dprobed.wire.engines import SIGNAL
from tests.conftest import BuildTarget
from tests.integration.conftest import EACH_ENGINE, Start, Trace
from tests.integration.harness import PATIENCE, Target, counting, text
from tests.integration.test_engine_threads import await_state


def test_handlers_see_original_addresses(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Timer signals hit threads in slots; the target checks the address that its handler gets."""
    program = build_target("signals.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed", "probed+0x8", "handler"))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    tracer.detach()
    assert text(target.pid) == before
    calls = target.finish()
    assert hits[:2] == [calls, calls]
    assert hits[2] >= 600


def test_handlers_that_jump_out(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    """An instruction that was hit has run, or not, by the time its thread is somewhere else."""
    program = build_target("jumps.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed", "thrower", "handler"))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    tracer.detach()
    assert text(target.pid) == before
    jumped = target.number("jumped")
    calls = target.finish()
    assert hits == [calls, 200, jumped]


def test_queued_signals_arrive_in_order(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("queued.c")
    target = start(program)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed", "probed+0x8"))
    target.go()
    for _ in range(10):
        tracer.remove(tracer.put(counting(program, "probed", "handler")))
    target.expect("stopped")
    hits = tracer.hits(kept)
    tracer.detach()
    calls = target.finish()
    assert hits == [calls, calls]


def wait_for(target: Target, options: int) -> int:
    """What the target's parent sees of it."""
    pid, status = os.waitpid(target.pid, options)
    assert pid == target.pid
    return status


@EACH_ENGINE
def test_job_control_works_as_without_us(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Stopped it stays, through insertions, removals and detaching; and goes on when told to."""
    program = build_target("stops.c", "-pthread")
    # In an orphaned process group, which ours may be, SIGTSTP and SIGTTIN are ignored.
    target = start(program, process_group=0)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("running")
    for signo in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN):
        os.kill(target.pid, signo)
        status = wait_for(target, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signo
        hits = tracer.hits(number)
        passing = tracer.put(counting(program, "probed", "probed+0x8"))
        assert tracer.hits(number) == hits
        assert tracer.hits(passing) == [0, 0]
        tracer.remove(passing)
        assert os.waitpid(target.pid, os.WUNTRACED | os.WCONTINUED | os.WNOHANG) == (0, 0)
        os.kill(target.pid, signal.SIGCONT)
        assert os.WIFCONTINUED(wait_for(target, os.WCONTINUED))
        target.expect("continued")
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    tracer.detach()
    assert text(target.pid) == before
    assert [target.finish()] == hits
    assert target.number("times") == 3


@EACH_ENGINE
def test_stopped_at_once_after_it_was_continued(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """SIGSTOP comes while a thread that we borrow has SIGCONT on its way already."""
    program = build_target("stops.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("running")
    for _ in range(100):
        os.kill(target.pid, signal.SIGSTOP)
        assert os.WSTOPSIG(wait_for(target, os.WUNTRACED)) == signal.SIGSTOP
        os.kill(target.pid, signal.SIGCONT)
        assert os.WIFCONTINUED(wait_for(target, os.WCONTINUED))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    tracer.detach()
    assert [target.finish()] == hits
    # A SIGCONT that is still pending is discarded by SIGSTOP.
    assert 0 < target.number("times") <= 100


@EACH_ENGINE
def test_a_stopped_target_stays_stopped_when_we_come_and_go(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("stops.c", "-pthread")
    target = start(program)
    target.go()
    target.expect("running")
    os.kill(target.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(wait_for(target, os.WUNTRACED))
    before = text(target.pid)
    for _ in range(3):
        tracer = trace(target)
        number = tracer.put(counting(program, "probed"))
        assert tracer.hits(number) == [0]
        tracer.detach()
        assert os.waitpid(target.pid, os.WCONTINUED | os.WNOHANG) == (0, 0)
        await_state(target.pid, "T")  # It is woken by a detach, and stops again by itself.
    assert text(target.pid) == before
    os.kill(target.pid, signal.SIGCONT)
    assert os.WIFCONTINUED(wait_for(target, os.WCONTINUED))
    target.go()
    target.expect("stopped")
    target.finish()


def test_a_target_that_uses_sigtrap_itself(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Handled, raised, from an int3 of its own, blocked, ignored: as the target set it."""
    program = build_target("sigtraps.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed", "work"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [320, 16]
    tracer.detach()
    assert text(target.pid) == before
    assert target.finish() == 320


@EACH_ENGINE
def test_a_hit_in_the_targets_own_handler_of_sigtrap(
    build_target: BuildTarget, start: Start, trace: Trace, engine: str
) -> None:
    """There SIGTRAP is blocked, so that the kernel resets its handler: the next would be fatal."""
    program = build_target("trap_in_trap.c")
    target = start(program)
    tracer = trace(target)
    number, (probe,) = tracer.insert(counting(program, "probed"))
    if engine == SIGNAL:
        assert probe.reason.endswith("it has a SIGTRAP handler of its own")
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [0 if engine == SIGNAL else 60]
    tracer.detach()
    assert target.finish() == 60


def test_a_breakpoint_of_the_target_is_refused_as_a_place(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("sigtraps.c")
    target = start(program)
    tracer = trace(target)
    _, probes = tracer.insert(counting(program, "own_int3"))
    assert probes[0].state == "failed"
    assert "a breakpoint of another debugger is there (int3)" in probes[0].reason
    tracer.detach()
    target.go()
    target.expect("stopped")
    target.finish()


@pytest.mark.parametrize("how", ["ignored", "child", "untouched"])
def test_sigtrap_that_is_set_by_a_system_call_of_its_own(
    build_target: BuildTarget, start: Start, trace: Trace, how: str
) -> None:
    """Ignored, it stays so: for itself, its children, and when we have gone."""
    target = start(build_target("raw_sigtrap.c"), how)
    tracer = trace(target)
    number = tracer.put(counting(target.process.args[0], "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [80 if how == "ignored" else 40]
    tracer.detach()
    target.finish()


@EACH_ENGINE
def test_a_default_sigtrap_still_ends_it(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    target = start(build_target("raw_sigtrap.c"), "default")
    tracer = trace(target)
    tracer.put(counting(target.process.args[0], "probed"))
    target.go()
    assert target.line() is None
    assert target.process.wait(PATIENCE) == -signal.SIGTRAP
    ended = tracer.wait()
    assert (ended.how, ended.status) == ("killed", signal.SIGTRAP)
    assert ended.probes[0].hits == 40
