"""Hazard 2: fork, vfork, CLONE_VM, posix_spawn, exec, dlopen and dlclose."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dprobed.wire.protocol import Changed, State, TargetEvent
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import counting, text


def test_fork_gives_a_clean_child(build_target: BuildTarget, start: Start, trace: Trace) -> None:
    program = build_target("forks.c", "-pthread")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed", "raw_fork", "raw_fork_syscall"))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    tracer.detach()
    assert text(target.pid) == before
    assert hits == [target.finish(), 10, 10]


def test_probes_come_and_go_between_forks(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("forks.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed"))
    target.go()
    for _ in range(15):
        tracer.remove(tracer.put(counting(program, "probed", "raw_fork_syscall", "raw_fork")))
    target.expect("stopped")
    hits = tracer.hits(kept)
    tracer.detach()
    assert hits == [target.finish()]


def test_children_that_share_memory_are_served_too(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """The counter is shared, so all of its increments are hits, whichever process made them."""
    program = build_target("shared.c", "-pthread")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    tracer.detach()
    assert text(target.pid) == before
    assert hits == [target.finish()]


def test_probes_come_and_go_while_children_share_memory(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("shared.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    kept = tracer.put(counting(program, "probed"))
    target.go()
    for _ in range(15):
        tracer.remove(tracer.put(counting(program, "probed", "probed+0x8", "shares")))
    target.expect("stopped")
    hits = tracer.hits(kept)
    tracer.detach()
    assert hits == [target.finish()]


def test_a_probe_in_libc_survives_spawned_programs(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """vfork, clone and exec inside libc itself are probed: their system calls are in slots."""
    program = build_target("shared.c", "-pthread")
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(counting("libc.so.6", "vfork", "execve", "clone", "posix_spawn", "_exit"))
    target.go()
    target.expect("stopped")
    hits = tracer.hits(number)
    tracer.detach()
    assert text(target.pid) == before
    target.finish()
    assert hits[0] == 20
    assert hits[1] >= 10
    assert hits[3] == 10
    assert hits[4] >= 10


def test_exec_places_the_probes_again(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("execs.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    number = tracer.put(counting(program, "probed"))
    first = tracer.query(number)[0].addresses
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [70]
    assert tracer.query(number)[0].addresses != first
    tracer.detach()
    assert target.finish() == 10
    execs = [e for e in tracer.events if isinstance(e, TargetEvent) and e.kind == "exec"]
    assert len(execs) == 6


def test_exec_keeps_a_sigtrap_that_is_ignored(start: Start, trace: Trace) -> None:
    """Hits before it have reset that in the kernel; the program that is executed has it."""
    script = 'trap "" TRAP; echo ready; read x; echo hit; exec sh -c "echo ready; read x"'
    target = start("/bin/sh", "-c", script)

    def is_ignored() -> bool:
        fields = Path(f"/proc/{target.pid}/status").read_text().split("SigIgn:")[1].split()
        return bool(int(fields[0], 16) >> (signal.SIGTRAP - 1) & 1)

    assert is_ignored()
    tracer = trace(target)
    number = tracer.put(counting("libc.so.6", "write"))
    target.go()
    target.expect("hit")
    target.expect("ready")
    assert sum(tracer.hits(number)) > 0
    tracer.detach()
    assert is_ignored()


def test_exec_of_another_program_leaves_probes_pending(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("loads.c")
    target = start("/bin/sh", "-c", 'echo ready; read x; exec "$0" none', program)
    tracer = trace(target)
    number, probes = tracer.insert(counting(program, "probed"))
    assert [each.state for each in probes] == [State.PENDING]
    in_shell = tracer.put(counting("libc.so.6", "execve"))
    target.go()
    target.expect("ready")
    assert [each.state for each in tracer.query(number)] == [State.ACTIVE]
    assert tracer.hits(in_shell) == [1]
    assert any(isinstance(each, Changed) for each in tracer.events)
    tracer.detach()


@pytest.fixture
def library(build_target: BuildTarget) -> Path:
    return build_target("plug.c", "-shared", "-fPIC", "-Wl,-soname,libplug.so.1", output="libp.so")


@pytest.mark.parametrize("by", ["path", "base name", "soname"])
def test_libraries_that_come_and_go(
    build_target: BuildTarget, start: Start, trace: Trace, library: Path, by: str
) -> None:
    program = build_target("loads.c")
    target = start(program, library)
    before = text(target.pid)
    tracer = trace(target)
    name = {"path": str(library), "base name": library.name, "soname": "libplug.so.1"}[by]
    number, probes = tracer.insert(counting(name, "plugged"))
    assert [each.state for each in probes] == [State.PENDING]
    target.go()
    target.expect("loaded")
    assert tracer.hits(number) == [100]
    tracer.remove(number)
    number = tracer.put(counting(name, "plugged"))
    target.go()
    target.expect("unloaded")
    status = tracer.query(number)[0]
    assert (status.state, status.hits, status.addresses) == (State.PENDING, 50, [])
    target.go()
    target.expect("stopped")
    assert tracer.hits(number) == [100]
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


def test_the_end_of_the_target_is_reported(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("crowd.c", "-pthread")
    target = start(program)
    tracer = trace(target)
    tracer.put(counting(program, "probed"))
    os.kill(target.pid, signal.SIGKILL)
    ended = tracer.wait()
    assert (ended.how, ended.status) == ("killed", signal.SIGKILL)
    assert ended.probes[0].hits == ended.probes[0].ran
    assert target.process.wait(60) == -signal.SIGKILL
