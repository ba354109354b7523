"""Probes at a place that is passed a million times a second, and what they may cost."""

from __future__ import annotations

import time

import pytest

from dprobed.wire.limits import Limits
from dprobed.wire.protocol import Changed, State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, TracerProcess, counting, text


@pytest.fixture
def rushing(build_target: BuildTarget, start: Start) -> Target:
    """It has measured itself, and waits."""
    target = start(build_target("busy.c"))
    target.go()
    target.expect("probed")
    return target


def changes(tracer: TracerProcess) -> list[tuple[State, str]]:
    return [
        (status.state, status.reason)
        for event in tracer.events
        if isinstance(event, Changed)
        for status in event.probes
    ]


def throttled(tracer: TracerProcess, number: int) -> str:
    """Why a program was put to sleep. It may be awake by now: a second in which it was fast enough
    is over soon where the machine is busy with others."""
    tracer.query(number)
    reasons = [reason for state, reason in changes(tracer) if state is State.THROTTLED]
    assert reasons == reasons[:1] * len(reasons)
    return reasons[0]


def rush(target: Target) -> float:
    """Run it to its end, two seconds; its speed while probed, as a share of that alone."""
    target.go()
    target.expect("stopped")
    return target.number("third") / target.number("alone")


@pytest.mark.parametrize("whose", ["program", "process"])
def test_what_is_over_its_share_is_throttled(rushing: Target, trace: Trace, whose: str) -> None:
    limits = Limits(share=0.1)
    program = counting(rushing.process.args[0], "probed")
    before = text(rushing.pid)
    if whose == "program":
        tracer = trace(rushing)
        number, _ = tracer.insert(program, budget=limits)
    else:
        tracer = trace(rushing, budget=limits)
        number, _ = tracer.insert(program)
    began = time.monotonic()
    speed = rush(rushing)
    reason = throttled(tracer, number)
    assert reason.startswith("over the budget of ")
    assert reason.endswith(": 10 % of the time")
    # Shown once, not each time that it sleeps: again only if it was fast enough for a second.
    shown = [state for state, _ in changes(tracer)]
    assert 1 <= shown.count(State.THROTTLED) <= 1 + (time.monotonic() - began)
    assert set(shown) <= {State.THROTTLED, State.ACTIVE}
    (status,) = tracer.query(number)
    # Probed all the time it would be a hundredth of that.
    assert speed > 0.02
    # It ran in turns all the time, and slept for a share of it that depends on the machine.
    assert 0 < status.ran == status.hits
    assert 0 < status.asleep_ns < status.present_ns
    tracer.detach()
    assert text(rushing.pid) == before
    rushing.finish()


def test_so_many_hits_a_second(rushing: Target, trace: Trace) -> None:
    tracer = trace(rushing)
    program = counting(rushing.process.args[0], "probed")
    began = time.monotonic()
    number, _ = tracer.insert(program, budget=Limits(hits=2_000))
    rush(rushing)
    seconds = time.monotonic() - began
    assert throttled(tracer, number).endswith(": 2000 hits a second")
    (status,) = tracer.query(number)
    # As many as an account holds, and some when it was in again; more only for what came until it
    # was out.
    assert 200 < status.hits < 2_000 * (seconds + 1)
    tracer.detach()
    rushing.finish()


def test_what_is_over_its_budget_is_removed(rushing: Target, trace: Trace) -> None:
    tracer = trace(rushing)
    program = counting(rushing.process.args[0], "probed")
    before = text(rushing.pid)
    number, _ = tracer.insert(program, budget=Limits(share=0.1, remove=True))
    speed = rush(rushing)
    (status,) = tracer.query(number)
    assert (status.state, status.addresses) == (State.DISABLED, [])
    assert status.reason.endswith(": 10 % of the time")
    assert changes(tracer) == [(State.DISABLED, status.reason)]
    # It was within a second, so from then on there is nothing to see.
    assert speed > 0.02
    assert status.hits < (rushing.number("calls") - rushing.number("before")) / 10
    tracer.detach()
    assert text(rushing.pid) == before
    rushing.finish()


def test_within_its_budget_nothing_is_passed_over(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("threads.c", "-pthread")
    target = start(program)
    tracer = trace(target, budget=Limits(share=1.0, hits=1e6))
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("running")
    target.go()
    target.expect("stopped")
    (status,) = tracer.query(number)
    tracer.detach()
    assert (status.hits, status.asleep_ns) == (target.finish(), 0)


def test_many_threads_are_throttled_and_unharmed(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Probes go in and out all the time while threads come and go."""
    program = build_target("threads.c", "-pthread")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number, _ = tracer.insert(counting(program, "probed"), budget=Limits(share=0.02))
    target.go()
    target.expect("running")
    while not tracer.query(number)[0].asleep_ns:
        pass
    target.go()
    target.expect("stopped")
    (status,) = tracer.query(number)
    tracer.detach()
    assert text(target.pid) == before
    assert 0 < status.hits < target.finish()


def test_a_watchpoint_is_throttled(rushing: Target, trace: Trace) -> None:
    program = f'name = "{rushing.process.args[0]}"\naddress = calls:8\nwatchpoint = w\nexit\n'
    tracer = trace(rushing)
    number, _ = tracer.insert(program, budget=Limits(share=0.1))
    speed = rush(rushing)
    assert throttled(tracer, number)
    (status,) = tracer.query(number)
    tracer.detach()
    assert status.asleep_ns > 0
    assert status.hits > 0
    assert speed > 0.02
    rushing.finish()


def test_what_comes_while_others_sleep_is_within_the_budget(rushing: Target, trace: Trace) -> None:
    """Its hits would keep the account of the process overdrawn, and so nobody would look again."""
    path = rushing.process.args[0]
    tracer = trace(rushing, budget=Limits(hits=50))
    first = tracer.put(counting(path, "probed"))
    rushing.go()
    while not tracer.query(first)[0].asleep_ns:
        pass
    second, _ = tracer.insert(counting(path, "probed"))
    rushing.expect("stopped")
    assert tracer.query(second)[0].hits < 1_000
    tracer.detach()
    rushing.finish()


def test_the_one_that_reports_is_always_in(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """A budget puts those to sleep that count, and the one at the end still tells what they had."""
    target = start(build_target("busy.c"))
    target.go()
    target.expect("probed")
    tracer = trace(target, budget=Limits(hits=2_000))
    tracer.insert(
        "name = libc.so.6\nvars = calls\noffset = clock_gettime\n  inc lv,calls\n  abort\n"
        "offset = _exit\nalways = yes\n  push lv,calls\n  log u64 n\n  exit\n"
    )
    assert rush(target) > 0.02
    target.finish()
    ended = tracer.wait()
    counts, reports = ended.probes
    assert counts.asleep_ns > 0
    assert (reports.hits, reports.ran, reports.asleep_ns) == (1, 1, 0)
    assert [each.words for each in ended.variables] == [[counts.hits]]


def test_even_one_that_is_always_in_costs_no_more(rushing: Target, trace: Trace) -> None:
    tracer = trace(rushing)
    program = f'name = "{rushing.process.args[0]}"\noffset = probed\nalways = yes\nabort\n'
    number, _ = tracer.insert(program, budget=Limits(share=0.1))
    assert rush(rushing) > 0.02
    assert throttled(tracer, number)
    (status,) = tracer.query(number)
    assert status.asleep_ns > 0
    tracer.detach()
    rushing.finish()


def test_other_probes_on_the_site_stay(rushing: Target, trace: Trace) -> None:
    """What is throttled is a program, not a place."""
    path = rushing.process.args[0]
    tracer = trace(rushing)
    cheap, _ = tracer.insert(counting(path, "probed"), budget=Limits(hits=50))
    dear = tracer.put(counting(path, "probed"))
    rush(rushing)
    assert throttled(tracer, cheap)
    (status,) = tracer.query(dear)
    assert status.state is State.ACTIVE
    assert status.hits == rushing.number("calls") - rushing.number("before")
    assert status.hits > tracer.query(cheap)[0].hits
    tracer.detach()
    rushing.finish()
