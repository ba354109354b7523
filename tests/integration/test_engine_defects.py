"""Internal errors in the tracer, wherever they occur, never harm a target.

The faults are made in the tracer itself (there is no other way to make them): one of its functions
raises at its n-th call. The tracer must then remove its breakpoints and detach; an error that
belongs to no target makes it detach from all and exit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dprobed.engine.resident_area import ResidentArea
from dprobed.engine.runner import ProgramRunner
from dprobed.engine.trap.engine import TrapEngine
from dprobed.engine.trap.removal import SiteRemoval
from dprobed.engine.trap.sites import Sites
from dprobed.engine.trap.stops import TrapStops
from dprobed.tracee.thread_group import ThreadGroup
from dprobed.tracer.reporter import Reporter
from tests.conftest import BuildTarget
from tests.integration.conftest import Start
from tests.integration.harness import RefusedError, TracerProcess, counting, text


class PlannedDefectError(Exception):
    """What the broken function raises."""


def break_at(
    monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str, calls: int
) -> Callable[..., Any]:
    """Make a method raise at its n-th call, and work before and after."""
    works = getattr(owner, name)
    left = [calls]

    def broken(self: object, *arguments: object, **named: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise PlannedDefectError(name)
        return works(self, *arguments, **named)

    monkeypatch.setattr(owner, name, broken)
    return broken


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (TrapStops, "hit", 50),
        (TrapStops, "serve_hit", 50),
        (ProgramRunner, "run", 50),
        (Reporter, "add", 50),
        (Reporter, "flush", 1),
        (ProgramRunner, "_identify", 1),
        (TrapStops, "_serve_site", 1),
        (TrapEngine, "begin", 20),
        (TrapEngine, "serve", 1),
        (ThreadGroup, "dispatch", 5),
        (ThreadGroup, "dispatch", 400),
        (ThreadGroup, "go", 5),
        (ThreadGroup, "go", 400),
        (Sites, "disarm", 1),
        (ResidentArea, "unmap", 1),
        (SiteRemoval, "leave_slots", 1),
    ],
)
def test_the_target_survives(
    build_target: BuildTarget,
    start: Start,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
    owner: type[Any],
    name: str,
    calls: int,
) -> None:
    program = build_target("threads.c", "-pthread")
    target = start(program)
    before = text(target.pid)
    break_at(monkeypatch, owner, name, calls)
    tracer = TracerProcess(engine=engine)
    target.tracer = tracer
    try:
        tracer.attach(target.pid)
        tracer.put(counting(program, "probed", "leave_syscall", body="push r,rdi\nlog 1\nexit"))
        target.go()
        target.expect("running")
    except (AssertionError, BrokenPipeError):
        assert tracer.closed
    except RefusedError as error:
        assert "PlannedDefectError" in str(error)
    tracer.close()
    while not tracer.closed:
        tracer.receive()
    status = tracer.status()
    target.tracer = None
    failed = tracer.ended is not None and tracer.ended.how == "failed"
    assert failed or status == 1, "the defect went unnoticed"
    if "running" not in target.said:
        target.go()
        target.expect("running")
    target.go()
    target.expect("stopped")
    # Where leaving itself is broken a few pages of ours may stay, but in the target's own code
    # nothing does.
    after = text(target.pid)
    assert {name: after[name] for name in before} == before
    target.finish()
