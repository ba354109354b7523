"""Fork children made at awkward moments: detached from without our changes, or followed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import BuildTarget
from tests.integration.conftest import EACH_ENGINE, Start, Trace
from tests.integration.harness import counting
from tests.integration.test_engine_threads import await_child, await_state, stall

#: Children do not inherit that their parent goes before others (sched(7)).
USUAL_FOR_CHILDREN = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK

both = pytest.mark.parametrize("follow", [False, True], ids=["detached", "followed"])


@contextlib.contextmanager
def no_cpu_idle() -> Iterator[list[int]]:
    """So that a new process waits for its first turn; yields those that have all of them."""
    count = 2 * len(os.sched_getaffinity(0))
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield [each.pid for each in busy]
    finally:
        for each in busy:
            each.kill()
            each.wait()


@both
@EACH_ENGINE
def test_another_thread_executes_while_one_forks(
    build_target: BuildTarget, start: Start, trace: Trace, follow: bool
) -> None:
    """The thread that forked is gone before it could tell, and its child had no turn yet."""
    program = build_target("engine_forkexec.c", "-pthread")
    target = start(program, "40", "1")
    tracer = trace(target, follow_forks=follow)
    tracer.put(counting(program, "probed"))
    with no_cpu_idle():
        target.go()
        target.expect("stopped")
    assert bool(tracer.forked) == follow
    for forked in tracer.forked:
        ended = tracer.ends_of(forked.pid)
        assert (ended.how, ended.status, ended.probes[0].hits) == ("exited", 0, 3)
    tracer.detach()
    target.finish()


@both
@pytest.mark.parametrize("wanted", ["handles", "ignores"])
@EACH_ENGINE
def test_a_child_has_what_its_parent_set_for_sigtrap(
    build_target: BuildTarget, start: Start, trace: Trace, wanted: str, follow: bool
) -> None:
    """The parent's hits made the kernel forget it before the fork."""
    program = build_target("engine_trapfork.c")
    target = start(program, wanted)
    tracer = trace(target, follow_forks=follow)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [10]
    tracer.detach()
    target.finish()


#: Ways to make children, and how many of them execute the program again: five calls each.
WAYS = {
    "vforks": 48,
    "shares": 0,
    "siblings": 0,
    "pidfds": 0,
    "handler": 0,
    "daemons": 0,
    "leaderless": 12,
}


@both
@pytest.mark.parametrize("way", WAYS)
def test_children_made_in_less_usual_ways(
    build_target: BuildTarget, start: Start, trace: Trace, way: str, follow: bool
) -> None:
    program = build_target("engine_forkers.c", "-pthread")
    target = start(program, way)
    tracer = trace(target, follow_forks=follow)
    number = tracer.put(counting(program, "probed"))
    others = tracer.put(counting(program, "make_syscall"))
    tracer.put(counting("libc.so.6", "fork", "vfork"))
    target.go()
    target.expect("stopped")
    [hits] = tracer.hits(number)
    for forked in tracer.forked:
        ended = tracer.ends_of(forked.pid)
        assert ended.how == "exited"
        for each in ended.probes:
            assert (each.missed, each.ran) == (0, each.hits), each
        hits += sum(each.hits for each in ended.probes if each.program == number)
    tracer.remove(others)
    tracer.detach()
    own = target.finish()
    assert hits == (target.number("total") + 5 * WAYS[way] if follow else own)


@EACH_ENGINE
def test_a_child_that_its_parent_traces(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("engine_forkers.c", "-pthread")
    target = start(program, "traces")
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    tracer.detach()
    assert hits == [target.finish()]


@EACH_ENGINE
def test_a_child_ends_after_we_detached_from_its_parent_with_a_zombie_leader(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """The parent's zombie leader stays with the tracer, and is not taken for an orphan."""
    program = build_target("engine_forkers.c", "-pthread")
    target = start(program, "outlives")
    tracer = trace(target, follow_forks=True)
    tracer.put(counting(program, "probed"))
    target.go()
    target.expect("child")
    while not tracer.forked:
        tracer.receive()
    tracer.detach_from(target.pid)
    target.go()
    [forked] = tracer.forked
    assert tracer.ends_of(forked.pid).probes[0].hits == 2
    target.expect("stopped")
    target.finish()


@both
def test_processes_end_in_the_middle_of_making_children(
    build_target: BuildTarget, start: Start, trace: Trace, follow: bool
) -> None:
    """The target waits for all of them: who was lost would stand still, and it with them."""
    program = build_target("engine_forkstorm.c", "-pthread")
    target = start(program)
    tracer = trace(target, follow_forks=follow)
    tracer.put(counting(program, "probed"))
    tracer.put(counting("libc.so.6", "fork", "vfork"))
    target.go()
    target.expect("stopped")
    assert bool(tracer.forked) == follow
    for forked in tracer.forked:
        ended = tracer.ends_of(forked.pid)
        assert (ended.how, ended.status) in (("exited", 0), ("killed", signal.SIGKILL))
        assert [each.missed for each in ended.probes] == [0] * len(ended.probes)
    tracer.detach()
    target.finish()


@pytest.mark.skipif(os.geteuid() != 0, reason="lets processes wait behind others")
def test_the_end_of_a_process_is_not_told_before_its_child(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Who follows forks until all have ended would go too early.

    The parent is killed in its fork event, which nobody sees, before the child has its first turn.
    """
    program = build_target("engine_fork.c")
    with no_cpu_idle() as busy:
        one = {max(os.sched_getaffinity(0))}
        for pid in busy:
            go_first(pid, one)
        for _ in range(5):
            target = start(program, "followed")
            tracer = trace(target, follow_forks=True)
            number = tracer.put(counting(program, "probed"))
            os.sched_setscheduler(target.pid, USUAL_FOR_CHILDREN, os.sched_param(0))
            go_first(target.pid, one)
            stall(tracer)
            target.go()
            await_child(target.pid)
            os.kill(target.pid, signal.SIGKILL)
            await_state(target.pid, "Z")
            os.kill(tracer.pid, signal.SIGCONT)
            while tracer.ends.keys() != {target.pid, *(each.pid for each in tracer.forked)}:
                tracer.receive()
            [forked] = tracer.forked
            assert [(each.program, each.hits) for each in tracer.ends[forked.pid].probes] == [
                (number, 1)
            ]
            target.tracer = None
            assert target.line() == "child clean"


def go_first(pid: int, cpus: set[int]) -> None:
    """Before others, on these."""
    os.setpriority(os.PRIO_PROCESS, pid, -15)
    os.sched_setaffinity(pid, cpus)
