"""SIGKILL between any two ptrace calls: the target's end is reported, and nothing else fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.wire import protocol
from tests.conftest import BuildTarget
from tests.integration.conftest import Start
from tests.integration.harness import RefusedError, Target, TracerProcess, counting

BODY = "push r,rdi\nlog 1\npush r,xmm0\npop r,xmm0\nexit"


def kill_at(monkeypatch: pytest.MonkeyPatch, pid: int, calls: int) -> None:
    """Have the target killed before the tracer's n-th call; done when the kernel shows it."""
    left = [calls]

    def killing_before(works: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(pid, signal.SIGKILL)
                while procfs.run_state(pid) not in ("Z", "X", ""):
                    os.sched_yield()
            return works(*arguments)

        return call

    for way in ("call", "bound_call"):
        monkeypatch.setattr(ptrace, way, killing_before(getattr(ptrace, way)))


def live(target: Target, tracer: TracerProcess, program: object) -> None:
    """Everything that is done to a target in its life."""
    tracer.attach(target.pid)
    number = tracer.put(counting(str(program), "probed", "probed+0x8", body=BODY))
    watch = f'name = "{program}"\naddress = calls:8\nwatchpoint = w\nabort\n'
    watched = tracer.put(watch)
    tracer.put(counting("libc.so.6", "getppid", "poll"))
    os.write(target.process.stdin.fileno(), b"\n")
    tracer.query(number)
    tracer.remove(watched)
    tracer.remove(number)
    tracer.request(protocol.Detach(tracer.next(), tracer.target))


@pytest.mark.parametrize("name", ["engine_loop.c", "threads.c"])
@pytest.mark.parametrize("calls", [*range(1, 120, 3), *range(120, 600, 40)])
def test_killed_before_the_nth_call(
    build_target: BuildTarget,
    start: Start,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    calls: int,
) -> None:
    program = build_target(name, "-pthread")
    target = start(program)
    kill_at(monkeypatch, target.pid, calls)
    tracer = TracerProcess(engine=engine)
    try:
        live(target, tracer, program)
    except (RefusedError, AssertionError, BrokenPipeError):
        assert procfs.run_state(target.pid) in ("Z", "X")
    tracer.close()
    while not tracer.closed:
        tracer.receive()
    tracer.reap()
    if tracer.ended is not None and tracer.ended.how != "detached":
        assert (tracer.ended.how, tracer.ended.status) in (("killed", signal.SIGKILL), ("gone", 0))
