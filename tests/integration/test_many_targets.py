"""Several targets in one tracer: what happens to one is nothing to the others."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dprobed.engine.trap.sites import Site
from dprobed.engine.trap.stops import TrapStops
from dprobed.tracee.thread import Thread
from dprobed.wire import protocol
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.debug_support import await_hold
from tests.integration.harness import RefusedError, Target, TracerProcess, counting, text

LOGGING = "push r,rsp\nlog 1\nexit"


def begin(
    trace: Trace, targets: list[Target], programs: list[Path], body: str = "abort"
) -> tuple[TracerProcess, list[int]]:
    """One tracer, a program in each of its targets."""
    tracer = trace()
    for target in targets:
        tracer.attach(target.pid)
        target.tracer = tracer
    numbers = [
        tracer.put(counting(program, "probed", body=body), target.pid)
        for target, program in zip(targets, programs, strict=True)
    ]
    return tracer, numbers


def test_all_are_served(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    names = ("threads.c", "forks.c", "shared.c", "signals.c", "jumps.c", "queued.c")
    programs = [build_target(name, "-pthread") for name in names]
    targets = [start(program) for program in programs]
    before = [text(target.pid) for target in targets]
    tracer, numbers = begin(trace, targets, programs, LOGGING)
    for target in targets:
        target.go()
    waiting = list(targets)
    while waiting:
        target = waiting.pop(0)
        line = target.line()
        if line == "running":
            target.go()
        if line != "stopped":
            waiting.append(target)
    hits = [
        tracer.hits(number, target.pid) for number, target in zip(numbers, targets, strict=True)
    ]
    for target in targets:
        tracer.detach_from(target.pid)
    assert [text(target.pid) for target in targets] == before
    tracer.close()
    for target, its_hits in zip(targets, hits, strict=True):
        target.tracer = None
        assert its_hits == [target.finish()]


def test_one_dies_one_executes_from_one_we_detach(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    programs = [build_target("threads.c", "-pthread")] * 3 + [build_target("execs.c", "-pthread")]
    targets = [start(program) for program in programs]
    dies, leaves, stays, executes = targets
    before = [text(target.pid) for target in targets]
    tracer, numbers = begin(trace, targets, programs)
    for target in targets:
        target.go()
    for target in (dies, leaves, stays):
        target.expect("running")
    os.kill(dies.pid, signal.SIGKILL)
    assert tracer.ends_of(dies.pid).how == "killed"
    executes.expect("stopped")
    assert tracer.hits(numbers[3], executes.pid) == [70]
    assert tracer.detach_from(leaves.pid).how == "detached"
    for target in (leaves, stays):
        target.go()
        target.expect("stopped")
    assert text(leaves.pid) == before[1]
    hits = tracer.hits(numbers[2], stays.pid)
    assert set(tracer.ends) == {dies.pid, leaves.pid}
    with pytest.raises(RefusedError, match="no target of this tracer"):
        tracer.query(numbers[0], dies.pid)
    tracer.detach_from(stays.pid)
    tracer.detach_from(executes.pid)
    leaves.finish()
    executes.finish()
    assert hits == [stays.finish()]


def test_three_hundred_threads_beside_others(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Programs go in and out of the crowd while the others are hit; nothing of theirs is lost."""
    crowd, threads = build_target("crowd.c", "-pthread"), build_target("threads.c", "-pthread")
    programs = [crowd, threads, threads]
    targets = [start(program) for program in programs]
    tracer, numbers = begin(trace, targets, programs)
    for target in targets:
        target.go()
    for target in targets[1:]:
        target.expect("running")
    for _ in range(5):
        tracer.remove(tracer.put(counting(crowd, "probed"), targets[0].pid), targets[0].pid)
    for target in targets[1:]:
        target.go()
    for target in targets:
        target.expect("stopped")
    hits = [
        tracer.hits(number, target.pid) for number, target in zip(numbers, targets, strict=True)
    ]
    for target in targets:
        tracer.detach_from(target.pid)
    [crowded] = hits.pop(0)
    # Its threads were at it before we came.
    assert 0 < crowded <= targets[0].finish()
    assert hits == [[target.finish()] for target in targets[1:]]


def test_one_whose_threads_hit_all_the_time_keeps_nothing_from_another(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Whatever the kernel finds first: programs go into the other one, and out again."""
    program = build_target("floods.c", "-pthread")
    targets = [start(program, "2"), start(program, "100")]
    tracer = trace()
    for target in targets:
        tracer.attach(target.pid)
        target.tracer = tracer
    number = tracer.put(counting(program, "probed"), targets[1].pid)
    for target in reversed(targets):
        target.go()
        target.expect("running")
    for _ in range(3):
        tracer.remove(tracer.put(counting(program, "probed"), targets[0].pid), targets[0].pid)
    for target in targets:
        target.go()
        target.expect("stopped")
    hits = tracer.hits(number, targets[1].pid)
    for target in targets:
        tracer.detach_from(target.pid)
    calls = [target.finish() for target in targets]
    assert hits == calls[1:]


def test_an_internal_error_in_one_spares_the_others(
    build_target: BuildTarget, start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = build_target("threads.c", "-pthread")
    targets = [start(program) for _ in range(3)]
    before = [text(target.pid) for target in targets]
    works = TrapStops.hit

    def broken(self: TrapStops, thread: Thread, site: Site, now: int) -> Any:
        if thread.tgid == targets[1].pid and self._runner.served > 100:
            raise RuntimeError("planned")
        return works(self, thread, site, now)

    monkeypatch.setattr(TrapStops, "hit", broken)
    tracer, numbers = begin(trace, targets, [program] * 3)
    for target in targets:
        target.go()
        target.expect("running")
    ended = tracer.ends_of(targets[1].pid)
    assert ended.how == "failed"
    assert ended.probes[0].hits > 100
    for target in targets:
        target.go()
        target.expect("stopped")
    assert text(targets[1].pid) == before[1]
    targets[1].finish()
    for number, target in ((numbers[0], targets[0]), (numbers[2], targets[2])):
        hits = tracer.hits(number, target.pid)
        tracer.detach_from(target.pid)
        assert hits == [target.finish()]
    assert set(tracer.ends) == {target.pid for target in targets}


def test_the_daemon_goes_while_all_are_hit(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("threads.c", "-pthread")
    targets = [start(program) for _ in range(8)]
    before = [text(target.pid) for target in targets]
    tracer, _ = begin(trace, targets, [program] * 8, LOGGING)
    for target in targets:
        target.go()
        target.expect("running")
    tracer.close()
    while not tracer.closed:
        tracer.receive()
    tracer.reap()
    assert {pid: ended.how for pid, ended in tracer.ends.items()} == {
        target.pid: "detached" for target in targets
    }
    for target, was in zip(targets, before, strict=True):
        target.tracer = None
        target.go()
        target.expect("stopped")
        assert text(target.pid) == was
        target.finish()


def test_one_is_held_for_a_debugger_while_another_is_hit(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    held, free = build_target("debugged.c"), build_target("threads.c", "-pthread")
    targets = [start(held), start(free)]
    tracer = trace()
    for target in targets:
        tracer.attach(target.pid)
        target.tracer = tracer
    source = f'name = "{held}"\noffset = probed\npass_count = 9\nmax_hits = 1\nexit debugger\n'
    number = tracer.put(counting(free, "probed", body=LOGGING), targets[1].pid)
    tracer.insert(source, facilities={"debugger": 1})
    targets[0].go()
    assert await_hold(tracer).held == [targets[0].pid]
    targets[1].go()
    targets[1].expect("running")
    targets[1].go()
    targets[1].expect("stopped")
    hits = tracer.hits(number, targets[1].pid)
    tracer.detach_from(targets[1].pid)
    assert hits == [targets[1].finish()]
    resumed = tracer.request(protocol.Resume(tracer.next(), targets[0].pid))
    assert resumed.tids == [targets[0].pid]
    targets[0].expect("OK")
