"""Job control while we stop, borrow and resume a target all the time."""

from __future__ import annotations

import os
import signal
import time

from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.wire import protocol
from tests.conftest import BuildTarget
from tests.integration.conftest import Start
from tests.integration.harness import PATIENCE, Target, TracerProcess, counting, text


def await_report(target: Target, options: int) -> int:
    """What the kernel tells the target's parent next; a lost stop is never told."""
    deadline = time.monotonic() + PATIENCE / 4
    while True:
        pid, status = os.waitpid(target.pid, options | os.WNOHANG)
        if pid:
            return status
        assert time.monotonic() < deadline, "the kernel reports nothing"
        os.sched_yield()


def test_no_stop_and_no_continuation_is_lost(
    build_target: BuildTarget, start: Start, engine: str
) -> None:
    """Each round borrows a thread several times; the stop comes somewhere in it."""
    program = build_target("engine_loop.c")
    target = start(program)
    before = text(target.pid)
    target.go()
    bytecode = encode(assemble(counting(program, "probed"), "test.rpn"))
    for delay in range(80):
        tracer = TracerProcess(engine=engine)
        tracer.target = target.pid
        requests: list[protocol.Request] = [
            protocol.Attach(1, target.pid),
            protocol.Insert(2, target.pid, 1, bytecode, engine=engine),
            protocol.Detach(3, target.pid),
        ]
        tracer.sock.sendall(b"".join(map(protocol.pack, requests)))
        until = time.monotonic() + delay * 0.0003
        while time.monotonic() < until:
            os.sched_yield()
        os.kill(target.pid, signal.SIGSTOP)
        status = await_report(target, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signal.SIGSTOP
        if delay % 2:
            tracer.wait()
        os.kill(target.pid, signal.SIGCONT)
        assert os.WIFCONTINUED(await_report(target, os.WCONTINUED))
        if not delay % 2:
            tracer.wait()
    target.go()
    target.expect("stopped")
    assert text(target.pid) == before
    target.finish()
