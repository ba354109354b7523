"""Forks that are followed: every child has the probes from its first instruction on."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.client_support import dprobe, program
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, TracerProcess, counting, text


@pytest.fixture
def family(build_target: BuildTarget) -> Path:
    return build_target("family.c", "-pthread")


def run_through(tracer: TracerProcess, target: Target) -> int:
    """Let it do what it does; how many calls the whole family made."""
    target.go()
    target.expect("stopped")
    return target.number("total")


def hits_of_all(tracer: TracerProcess, number: int) -> int:
    """The hits of a program in the target, which lives, and in all children, which have ended."""
    total = sum(tracer.hits(number))
    for forked in tracer.forked:
        ended = tracer.ends_of(forked.pid)
        probes = [each for each in ended.probes if each.program == number]
        assert probes
        for each in probes:
            assert (each.missed, each.ran) == (0, each.hits), each
        total += sum(each.hits for each in probes)
    return total


@pytest.mark.parametrize(
    ("mode", "children"),
    [
        (("tree", "3", "3"), 3 + 9 + 27),
        (("tree", "1", "8"), 8),
        (("storm",), 45),
        (("spawn",), 10),
        (("orphans",), 40),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_every_call_of_the_family_is_counted(
    family: Path, start: Start, trace: Trace, mode: tuple[str, ...], children: int
) -> None:
    target = start(family, *mode)
    before = text(target.pid)
    tracer = trace()
    tracer.attach(target.pid, follow_forks=True)
    target.tracer = tracer
    number = tracer.put(counting(family, "probed", body="push r,rsp\nlog 1\nexit"))
    total = run_through(tracer, target)
    assert hits_of_all(tracer, number) == total
    assert len(tracer.forked) == children
    by_pid = {forked.pid: 0 for forked in tracer.forked} | {target.pid: 0}
    for record in tracer.records:
        # A child that shares its parent's memory is not yet a target of its own.
        by_pid[record.pid] = by_pid.get(record.pid, 0) + 1
    assert sum(by_pid.values()) == total
    tracer.detach()
    assert text(target.pid) == before
    target.finish()


@pytest.mark.parametrize("mode", ["tree 3 3", "storm", "spawn", "orphans"])
def test_nobody_is_followed_unasked(family: Path, start: Start, trace: Trace, mode: str) -> None:
    target = start(family, *mode.split())
    tracer = trace(target)
    tracer.put(counting(family, "probed"))
    run_through(tracer, target)
    assert tracer.forked == []
    tracer.detach()
    target.finish()


def test_a_child_begins_with_the_variables_of_its_parent(
    family: Path, start: Start, trace: Trace
) -> None:
    target = start(family, "tree", "1", "1")
    tracer = trace()
    tracer.attach(target.pid, follow_forks=True)
    target.tracer = tracer
    source = (
        f'name = "{family}"\nvars = 1\ngvars = 1\noffset = probed\n'
        "inc lv,0\ninc gv,0\npush lv,0\npush gv,0\nlog 2\nexit"
    )
    number = tracer.put(source)
    run_through(tracer, target)
    [forked] = tracer.forked
    tracer.ends_of(forked.pid)
    first = next(record for record in tracer.records if record.pid == forked.pid)
    # The parent had made five calls.
    assert first.log == (6).to_bytes(8, "little") * 2
    assert first.hit == 1
    assert tracer.vars(number) == [10]
    assert tracer.vars(None) == [10]
    tracer.detach()
    target.finish()


def test_programs_come_and_go_while_the_family_grows(
    family: Path, start: Start, trace: Trace
) -> None:
    target = start(family, "storm")
    tracer = trace()
    tracer.attach(target.pid, follow_forks=True)
    target.tracer = tracer
    kept = tracer.put(counting(family, "probed"))
    target.go()
    for _ in range(10):
        tracer.remove(tracer.put(counting(family, "probed", "probed+0x8")))
    target.expect("stopped")
    assert hits_of_all(tracer, kept) == target.number("total")
    tracer.detach()
    target.finish()


def test_who_is_made_while_the_first_program_goes_in_has_it(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """Also who is made while the parent is being prepared for it, which is so only once."""
    grows = build_target("grows.c", "-pthread")
    for _ in range(5):
        target = start(grows)
        tracer = trace()
        tracer.attach(target.pid, follow_forks=True)
        target.tracer = tracer
        target.go()
        number = tracer.put(counting(grows, "probed"))
        target.expect("grown")
        for _ in range(2):
            tracer.hits(number)  # what the tracer had put off is done
        target.go()
        target.expect("stopped")
        children = [forked.pid for forked in tracer.forked]
        ends = [tracer.ends_of(pid) for pid in children]
        probes = [[each for each in end.probes if each.program == number] for end in ends]
        found = [[(each.state, each.reason, each.hits) for each in those] for those in probes]
        assert found == [[(State.ACTIVE, "", 1)]] * len(children)
        assert tracer.hits(number) == [1]
        tracer.detach()
        target.finish()


def test_a_program_whose_module_only_the_children_have(
    family: Path, start: Start, trace: Trace
) -> None:
    target = start(
        "/bin/sh", "-c", 'echo ready; read x; "$0" child | cat; "$0" child; echo stopped', family
    )
    tracer = trace()
    tracer.attach(target.pid, follow_forks=True)
    target.tracer = tracer
    number, [status] = tracer.insert(counting(family, "probed"))
    assert status.state is State.PENDING
    target.go()
    target.expect("stopped")
    tracer.ends_of(target.pid)
    ends = [tracer.ends_of(forked.pid) for forked in tracer.forked]
    hits = [each.hits for end in ends for each in end.probes if each.program == number]
    assert sorted(hits)[-2:] == [5, 5]
    assert sum(hits) == 10


def test_we_detach_from_one_of_the_family(family: Path, start: Start, trace: Trace) -> None:
    """The parent goes on without probes, the child with."""
    target = start("/usr/bin/python3", "-c", _FORKER, family)
    tracer = trace()
    tracer.attach(target.pid, follow_forks=True)
    target.tracer = tracer
    number = tracer.put(counting("libc.so.6", "getppid"))
    target.go()
    target.expect("forked")
    while not tracer.forked:  # the parent may be faster than its child
        tracer.receive()
    [forked] = tracer.forked
    tracer.detach_from(target.pid)
    target.go()
    target.expect("called")
    assert tracer.hits(number, forked.pid) == [10]
    assert tracer.ends[target.pid].probes[0].hits == 1
    tracer.detach_from(forked.pid)
    target.go()
    target.expect("OK")


_FORKER = """
import os, sys
def gate(word):
    print(word, flush=True)
    os.read(0, 1)
gate("ready")
os.getppid()
down, up = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    for _ in range(2):
        os.read(down[0], 1)
        for _ in range(10): os.getppid()
        os.write(up[1], b"x")
    os._exit(0)
gate("forked")
for word in ("called", None):
    for _ in range(10): os.getppid()
    os.write(down[1], b"x")
    os.read(up[0], 1)
    if word: gate(word)
assert os.waitpid(child, 0) == (child, 0)
print("OK", flush=True)
"""


def test_the_daemon_goes_while_the_family_grows(family: Path, start: Start, trace: Trace) -> None:
    """The daemon's death: the tracer detaches from all, without a change left, and none is lost."""
    for _ in range(3):
        target = start(family, "storm")
        before = text(target.pid)
        tracer = trace()
        tracer.attach(target.pid, follow_forks=True)
        target.tracer = tracer
        tracer.put(counting(family, "probed"))
        target.go()
        while len(tracer.forked) < 5:
            tracer.receive()
        tracer.close()
        while not tracer.closed:
            tracer.receive()
        tracer.reap()
        target.tracer = None
        target.expect("stopped")
        assert text(target.pid) == before
        target.finish()


@pytest.fixture
def killed(family: Path, start: Start) -> Iterator[Target]:
    yield start(family, "storm")


def test_the_whole_family_is_killed(family: Path, trace: Trace, killed: Target) -> None:
    tracer = trace()
    tracer.attach(killed.pid, follow_forks=True)
    tracer.put(counting(family, "probed"))
    killed.go()
    while len(tracer.forked) < 5:
        tracer.receive()
    os.kill(killed.pid, signal.SIGKILL)
    assert tracer.ends_of(killed.pid).how == "killed"
    for forked in tracer.forked:
        assert tracer.ends_of(forked.pid).how == "exited"


#: A child that wants its parent to trace it (PTRACE_TRACEME), and says what came of that.
WANTS = """
import ctypes, os
if os.fork() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.ptrace(0, 0, 0, 0)
    os.write(1, b"%d\\n" % (ctypes.get_errno() if failed else 0))
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(("options", "came"), [((), "0\n"), (("-f",), f"{errno.EPERM}\n")])
def test_who_may_trace_a_child(tmp_path: Path, options: tuple[str, ...], came: str) -> None:
    """Its parent, unless it is followed: then it is ours, as the help of `-f` says."""
    source = program(tmp_path)
    command = ("/usr/bin/python3", "-c", WANTS)
    done = dprobe("run", *options, "-o", "/dev/null", source, "--", *command)
    assert (done.returncode, done.stdout) == (0, came), done.stderr
