"""A tracer is killed while a signal is on its way: the target still gets it.

Natively none is lost. libc waits without end for the answer to one of its own (``setuid`` with
threads), so one that is lost may be the end of the target.
"""

from __future__ import annotations

import os
import signal
import time
from typing import NoReturn

import pytest

from dprobed.proc import procfs
from dprobed.tracee import ptrace
from dprobed.tracee.signals import held_mask
from dprobed.tracee.thread import Thread
from dprobed.tracer.target import TracedProcess
from tests.conftest import BuildTarget
from tests.integration.client_support import tracer_of
from tests.integration.conftest import Start, Trace
from tests.integration.harness import PATIENCE, TracerProcess, counting


def held(pid: int) -> int:
    """How many of its threads have the mask of one that makes a step for us."""
    found = [procfs.status(tid) for tid in procfs.threads(pid)]
    return sum(each.blocked == held_mask(0) for each in found if each is not None)


def test_it_arrives(
    build_target: BuildTarget, start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(target: TracedProcess, thread: Thread) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(TracedProcess, "deliver", die)
    target = start(build_target("signalled.c", "-pthread"))
    tracer = trace(target)
    target.go()
    while not tracer.closed:
        tracer.receive()
    assert tracer.status() == -signal.SIGKILL
    assert tracer_of(target.pid) == 0
    target.tracer = None
    target.expect("running")
    target.go()
    target.expect("stopped")
    target.finish()


def test_a_thread_that_makes_a_step_gets_its_mask_back(
    build_target: BuildTarget, start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal finds a thread in a slot: it makes a step out of it, all others held back."""

    def die(thread: int, number: int = 0) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    program = build_target("signalled.c", "-pthread")
    target = start(program)
    target.go()
    target.expect("running")
    with monkeypatch.context() as patched:
        patched.setattr(ptrace, "step", die)
        tracer = trace()
    tracer.attach(target.pid)
    tracer.insert(counting(program, "probed"))
    while not tracer.closed:
        tracer.receive()
    assert tracer.status() == -signal.SIGKILL
    deadline = time.monotonic() + PATIENCE
    while held(target.pid) != 1:  # the guard's handler has a mask of its own
        assert time.monotonic() < deadline
    heir = TracerProcess(changes=tracer.changes)
    assert heir.recover() == []
    heir.end()
    assert held(target.pid) == 0
