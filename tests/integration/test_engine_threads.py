"""Threads and processes that end, fork or sleep at awkward moments."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from dprobed.proc import procfs
from dprobed.program.bytecode import encode
from dprobed.program.rpn.parser import assemble
from dprobed.wire import protocol
from dprobed.wire.protocol import State, TargetEvent
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import PATIENCE, Target, TracerProcess, counting, text


def await_state(tid: int, states: str) -> None:
    """Wait until the kernel shows a thread in one of these states."""
    deadline = time.monotonic() + PATIENCE
    while procfs.run_state(tid) not in states:
        assert time.monotonic() < deadline, f"{tid} is in state {procfs.run_state(tid)!r}"
        os.sched_yield()


def await_child(pid: int) -> None:
    """Wait until a single-threaded process has a child."""
    deadline = time.monotonic() + PATIENCE
    while not procfs.children(pid):
        assert time.monotonic() < deadline, f"{pid} has no child"
        os.sched_yield()


def stall(tracer: TracerProcess) -> None:
    """Stop the tracer itself, between two things that it does."""
    os.kill(tracer.pid, signal.SIGSTOP)
    await_state(tracer.pid, "T")


def test_probes_come_and_go_with_a_zombie_leader(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("engine_leader.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("alone")
    await_state(target.pid, "Z")
    passing = tracer.put(counting(program, "probed", "probed+0x8", "work"))
    target.go()
    target.expect("worked")
    assert [each.hits for each in tracer.remove(passing)] == [20, 20, 0]
    assert tracer.hits(kept) == [20]
    target.go()
    target.expect("stopped")
    ended = tracer.detach()
    assert ended.how == "detached"
    assert target.finish() == 20


def test_libraries_are_followed_with_a_zombie_leader(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("engine_leader.c", "-pthread")
    library = build_target(
        "plug.c", "-shared", "-fPIC", "-Wl,-soname,libplug.so.1", output="libp.so"
    )
    target = start(program, library)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed"))
    later, _ = tracer.insert(counting(library.name, "plugged"))
    target.go()
    target.expect("alone")
    await_state(target.pid, "Z")
    target.go()
    target.expect("worked")
    assert [(each.state, each.hits) for each in tracer.query(kept)] == [(State.ACTIVE, 40)]
    assert [(each.state, each.hits) for each in tracer.query(later)] == [(State.ACTIVE, 1)]
    target.go()
    target.expect("stopped")
    tracer.detach()
    assert target.finish() == 40


def test_a_breakpoint_on_its_way_is_served_before_we_leave(
    build_target: BuildTarget, start: Start, engine: str
) -> None:
    """A thread that only hits: our stop often finds it between int3 and the SIGTRAP."""
    program = build_target("engine_loop.c")
    target = start(program)
    before = text(target.pid)
    target.go()
    for _ in range(60):
        tracer = TracerProcess(engine=engine)
        tracer.attach(target.pid)
        for _ in range(3):
            number = tracer.put(counting(program, "probed"))
            tracer.put(counting("libc.so.6", "poll"))
            tracer.remove(number)
        tracer.put(counting(program, "probed", "probed+0x8"))
        tracer.detach()
        assert target.process.poll() is None
    target.go()
    target.expect("stopped")
    assert text(target.pid) == before
    target.finish()


def test_a_child_whose_parent_is_killed_in_fork_is_clean(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("engine_fork.c")
    target = start(program)
    tracer = trace(target)
    tracer.put(counting(program, "probed"))
    stall(tracer)
    target.go()
    await_child(target.pid)  # the parent is at its fork event, which nobody sees
    os.kill(target.pid, signal.SIGKILL)
    await_state(target.pid, "Z")
    os.kill(tracer.pid, signal.SIGCONT)
    ended = tracer.wait()
    assert (ended.how, ended.status) == ("killed", signal.SIGKILL)
    target.tracer = None
    assert target.line() == "child clean"


@pytest.mark.parametrize("when", ["while it sleeps", "at the event"])
def test_probes_come_and_go_while_a_parent_is_in_vfork(
    build_target: BuildTarget, start: Start, trace: Trace, when: str
) -> None:
    program = build_target("engine_vfork.c")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("child")
    for _ in range(2):
        tracer.remove(tracer.put(counting(program, "probed", "probed+0x8")))
    assert tracer.hits(kept) == [0]
    if when == "at the event":
        target.go()
        target.expect("stopped")
        assert tracer.hits(kept) == [6]
        tracer.detach()
    else:
        detach_in_vfork(target, tracer)
    assert text(target.pid) == before
    target.finish()


def test_who_sleeps_in_vfork_is_not_waited_for(
    build_target: BuildTarget, start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others would stand still meanwhile, each time."""
    monkeypatch.setattr("dprobed.tracee.stop_the_world._TIMEOUT", float("inf"))
    program = build_target("engine_vfork.c")
    target = start(program)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("child")
    tracer.remove(tracer.put(counting(program, "probed", "probed+0x8")))
    target.go()
    target.expect("stopped")
    assert tracer.hits(kept) == [6]
    tracer.detach()
    target.finish()


def detach_in_vfork(target: Target, tracer: TracerProcess) -> None:
    """Ask to detach; from the parent we can detach only when the child has ended."""
    tracer.close()
    target.tracer = None
    target.go()
    target.expect("stopped")
    tracer.wait()


def test_a_stop_that_meets_vfork_itself(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """The parent stands at its vfork event when probes go in, and cannot be borrowed."""
    program = build_target("engine_vfork.c")
    target = start(program)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed"))
    stall(tracer)
    target.go()
    await_child(target.pid)
    request(tracer, counting("libc.so.6", "getpid", "malloc"))
    os.kill(tracer.pid, signal.SIGCONT)
    target.expect("child")
    target.go()
    target.expect("stopped")
    assert tracer.hits(kept) == [6]
    tracer.detach()
    target.finish()


def request(tracer: TracerProcess, source: str) -> None:
    """Send an insertion without waiting for its answer."""
    bytecode = encode(assemble(source, "test.rpn"))
    tracer.sock.sendall(protocol.pack(protocol.Insert(tracer.next(), tracer.target, 99, bytecode)))


def test_a_kill_while_probes_go_in_is_the_end_of_it(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("crowd.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    tracer.put(counting(program, "probed", body="push r,xmm0\npop r,xmm0\nexit"))
    stall(tracer)
    request(tracer, counting("libc.so.6", "getpid", "malloc"))
    os.kill(target.pid, signal.SIGKILL)
    await_state(target.pid, "Z")
    os.kill(tracer.pid, signal.SIGCONT)
    ended = tracer.wait()
    assert (ended.how, ended.status) == ("killed", signal.SIGKILL)


def test_attaching_to_a_child_in_vfork_is_refused(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Our breakpoints would be its parent's too, which is not traced."""
    program = build_target("engine_vfork.c")
    target = start(program)
    target.go()
    target.expect("child")
    child = int(Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text())
    tracer = trace()
    with pytest.raises(Exception, match="shares its memory"):
        tracer.attach(child)
    target.go()
    target.expect("stopped")
    target.finish()


def test_a_thread_of_the_kernels_own_is_left_alone(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """io_uring's worker is in the list of threads, but cannot be traced and needs no tracing."""
    program = build_target("engine_uring.c")
    target = start(program)
    if "none" not in target.said:
        assert len(procfs.threads(target.pid)) == 2
    before = text(target.pid)
    tracer = trace(target)
    tracer.put(counting(program, "probed", body="suspend\nexit"))
    target.go()
    while not any(isinstance(e, TargetEvent) and e.kind == "suspend" for e in tracer.events):
        tracer.receive()
    # The only thread of the program's own is held. The kernel's is not to make system calls for us.
    tracer.detach()
    target.expect("stopped")
    assert text(target.pid) == before
    target.finish()


def test_probes_come_and_go_while_threads_execute_the_program_again(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("engine_execs.c", "-pthread")
    target = start(program, "20", "1")
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed"))
    target.go()
    rounds = 0
    while not tracer.events or sum(is_exec(event) for event in tracer.events) < 20:
        number, probes = tracer.insert(counting(program, "probed", "probed+0x8", "busy"))
        assert all(each.state in (State.ACTIVE, State.PENDING) for each in probes), probes
        tracer.remove(number)
        rounds += 1
    target.expect("stopped")
    assert [each.state for each in tracer.query(kept)] == [State.ACTIVE]
    assert rounds > 1
    tracer.detach()
    target.finish()


def is_exec(event: protocol.Event) -> bool:
    return isinstance(event, TargetEvent) and event.kind == "exec"


def test_each_hit_has_the_name_that_its_thread_has_then(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("renames.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    tracer.put(counting(program, "probed", body="exit"))
    assert target.finish() == 5
    tracer.wait()
    names = [each.comm for each in tracer.records]
    assert names == [b"own 0", b"own 1", b"own 2", b"given", b""]
