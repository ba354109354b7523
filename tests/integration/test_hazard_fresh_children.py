"""Hazard 2: who returns from ``fork`` finds a child that nobody traces, and may trace it itself."""

from __future__ import annotations

from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting


def test_a_parent_traces_its_children(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("traces_child.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [120]
    tracer.detach()
    assert target.finish() == 120


def test_probes_come_and_go_meanwhile(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("traces_child.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed"))
    target.go()
    for _ in range(15):
        tracer.remove(tracer.put(counting(program, "probed", "tracer_of")))
    target.expect("stopped")
    assert tracer.hits(kept) == [120]
    tracer.detach()
    target.finish()
