"""Hazard 5: system calls that the kernel never restarts do not notice that their thread stops."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from dprobed.proc import procfs
from dprobed.tracee.ptrace import send
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import PATIENCE, Target, counting


@pytest.fixture
def program(build_target: BuildTarget) -> Path:
    return build_target("never_restarted.c", "-pthread")


def until_all_wait(target: Target) -> None:
    """Wait until every thread sleeps in a system call."""
    deadline = time.monotonic() + PATIENCE
    for tid in procfs.threads(target.pid):
        while procfs.run_state(tid) not in "StT":
            assert time.monotonic() < deadline


def test_stops_do_not_end_them(program: Path, start: Start, trace: Trace) -> None:
    target = start(program, "forever")
    target.go()
    target.expect("begun")
    until_all_wait(target)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    for _ in range(10):
        tracer.remove(tracer.put(counting(program, "probed+0x8", "run")))
        until_all_wait(target)
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [1]
    tracer.detach()
    target.finish()


def test_nor_does_a_detach(program: Path, start: Start, trace: Trace) -> None:
    target = start(program, "forever")
    target.go()
    target.expect("begun")
    for _ in range(3):
        until_all_wait(target)
        tracer = trace(target)
        tracer.put(counting(program, "probed"))
        target.tracer = None
        tracer.detach()
    target.go()
    target.expect("stopped")
    target.finish()


@pytest.mark.parametrize("number", [signal.SIGWINCH, signal.SIGCHLD, signal.SIGUSR2])
def test_nor_do_signals_that_are_ignored(
    program: Path, start: Start, trace: Trace, number: signal.Signals
) -> None:
    """By default, or because the target said so: natively they wake nobody."""
    target = start(program, "forever")
    target.go()
    target.expect("begun")
    tracer = trace(target)
    tracer.put(counting(program, "probed"))
    for _ in range(5):
        for tid in procfs.threads(target.pid):
            until_all_wait(target)
            send(target.pid, tid, number)
    target.go()
    target.expect("stopped")
    tracer.detach()
    target.finish()
