"""Hazard: the first process of a pid namespace, which the kernel treats otherwise when traced."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from dprobed.proc import procfs
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import PATIENCE, Target, counting

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make pid namespaces")

FATAL = {
    "segv": signal.SIGSEGV,
    "thread": signal.SIGSEGV,
    "bus": signal.SIGBUS,
    "fpe": signal.SIGFPE,
    "ill": signal.SIGILL,
    "trap": signal.SIGTRAP,
    "sys": signal.SIGSYS,
}


@pytest.fixture
def program(build_target: BuildTarget) -> Path:
    return build_target("inits.c", "-pthread")


def start_init(start: Start, program: Path, how: str) -> tuple[Target, int]:
    """The program as the first process of a namespace, and its id for us."""
    target = start("unshare", "-pf", "--kill-child", program, how)
    (pid,) = procfs.children(target.pid)
    found = procfs.status(pid)
    assert found is not None
    assert found.innermost == 1
    return target, pid


def end_of(target: Target) -> int:
    """How it ended; ``unshare`` kills itself by the signal that its child died of."""
    assert target.line() is None
    status: int = target.process.wait(PATIENCE)
    return status


@pytest.mark.parametrize("at", ["elsewhere", "there"])
@pytest.mark.parametrize("how", FATAL)
def test_a_fault_ends_it_as_it_would_natively(
    program: Path, start: Start, trace: Trace, how: str, at: str
) -> None:
    """The instruction that faults is probed, or is not."""
    natively, _ = start_init(start, program, how)
    target, pid = start_init(start, program, how)
    tracer = trace()
    tracer.attach(pid)
    places = ["probed"] if at == "elsewhere" else ["probed", "faults"]
    tracer.put(counting(program, *places))
    for each in (natively, target):
        each.go()
        each.expect("stopped")
        each.go()
    assert end_of(natively) == -FATAL[how]
    assert end_of(target) == -FATAL[how]
    ended = tracer.wait()
    assert (ended.how, ended.status) == ("killed", FATAL[how])
    assert ended.probes[0].hits == 20


@pytest.mark.parametrize("how", ["caught", "stop"])
def test_what_it_survives_natively(program: Path, start: Start, trace: Trace, how: str) -> None:
    """A fault that it catches; and SIGSTOP of its own namespace, which does not stop it."""
    target, pid = start_init(start, program, how)
    tracer = trace()
    tracer.attach(pid)
    number = tracer.put(counting(program, "probed", "faults"))
    target.go()
    target.expect("stopped")
    target.go()
    target.expect("OK")
    assert target.process.wait(PATIENCE) == 0
    ended = tracer.wait()
    assert (ended.how, ended.status) == ("exited", 0)
    assert next(each.hits for each in ended.probes if each.program == number) == 20


def test_another_namespace_may_stop_it(program: Path, start: Start, trace: Trace) -> None:
    target, pid = start_init(start, program, "caught")
    tracer = trace()
    tracer.attach(pid)
    number = tracer.put(counting(program, "probed"))
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE
    while procfs.run_state(pid) not in "tT":
        assert time.monotonic() < deadline
    tracer.query(number)  # all that came before has been served
    assert procfs.run_state(pid) in "tT"
    os.kill(pid, signal.SIGCONT)
    target.go()
    target.expect("stopped")
    target.go()
    target.expect("OK")
    tracer.wait()
