"""Hazard 1: hundreds of threads, created and ending while probes go in and out."""

from __future__ import annotations

from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting, text


def test_threads_that_come_and_go_while_probes_go_in_and_out(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("threads.c", "-pthread")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("running")
    for _ in range(30):
        passing = tracer.put(counting(program, "probed", "probed+0x8", "leave", "work"))
        assert all(each.hits == each.ran for each in tracer.remove(passing))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(kept)
    tracer.detach()
    assert text(target.pid) == before
    assert [target.finish()] == hits


def test_threads_that_end_in_a_slot(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    program = build_target("threads.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed", "leave", "leave_syscall"))
    target.go()
    target.expect("running")
    tracer.remove(tracer.put(counting(program, "work")))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(kept)
    tracer.detach()
    calls = target.finish()
    assert hits == [calls, target.number("leavers"), target.number("leavers")]


def test_three_hundred_threads_at_one_probe(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("crowd.c", "-pthread")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    for _ in range(20):
        outer = tracer.put(counting(program, "probed", "probed+0x8"))
        inner = tracer.put(counting(program, "probed"))
        within = tracer.remove(inner)[0].hits
        without = tracer.remove(outer)[0].hits
        assert 0 <= within <= without
    tracer.detach()
    assert text(target.pid) == before
    target.go()
    target.expect("stopped")
    target.finish()


def test_every_hit_of_many_threads_is_one_record(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """A record for each call, none twice: the program takes numbers from a variable."""
    program = build_target("threads.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    source = f'name = "{program}"\nvars = 1\noffset = probed\ninc lv,0\npush lv,0\nlog 1\nexit\n'
    number = tracer.put(source)
    target.go()
    target.expect("running")
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    assert tracer.vars(number) == hits
    tracer.detach()
    assert [target.finish()] == hits
    numbers = [int.from_bytes(each.log, "little") for each in tracer.records]
    assert numbers == list(range(1, hits[0] + 1))
    assert len({each.tid for each in tracer.records}) == hits[0] // 3


def test_no_thread_waits_for_ever_behind_others(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """More hits than can be served: still every thread has its turn."""
    program = build_target("crowd.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed", body="exit"))
    while len(tracer.records) < 300 * 100:
        tracer.receive()
    tracer.remove(number)
    assert len({each.tid for each in tracer.records}) == 300
    tracer.detach()
    target.go()
    target.expect("stopped")
    target.finish()


def test_attaching_again_and_again_while_threads_come_and_go(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Whichever thread our stop finds alive may be gone a moment later."""
    program = build_target("threads.c", "-pthread")
    target = start(program)
    before = text(target.pid)
    target.go()
    target.expect("running")
    for _ in range(8):
        tracer = trace(target)
        tracer.put(counting(program, "probed", "probed+0x8", "leave_syscall"))
        tracer.put(counting("libc.so.6", "pthread_create"))
        tracer.detach()
    target.go()
    target.expect("stopped")
    assert text(target.pid) == before
    target.finish()
