"""What a killed tracer has left in its targets is undone, whoever was killed with it."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dprobed import change_journal
from dprobed.proc import procfs
from dprobed.tracee import ptrace
from tests.conftest import BuildTarget
from tests.integration.client_support import (
    PATIENCE,
    Daemon,
    Json,
    parsed,
    running_daemon,
    tracer_of,
    wait_end,
)
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, TracerProcess, counting, text
from tests.integration.test_guard import catches, is_whole, until_it_hits


@pytest.fixture
def guarded(build_target: BuildTarget) -> Path:
    return build_target("guarded.c", "-pthread")


def mappings(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.fixture
def recover(start: Start) -> Iterator[Callable[[TracerProcess], list[int]]]:
    """Have another tracer undo what a killed one left; who could not be attached to."""
    made: list[TracerProcess] = []

    def undo(killed: TracerProcess) -> list[int]:
        tracer = TracerProcess(changes=killed.changes)
        made.append(tracer)
        left = tracer.recover()
        tracer.end()
        return left

    yield undo
    for each in made:
        each.end()


Recover = Callable[[TracerProcess], list[int]]


def entries(tracer: TracerProcess) -> list[change_journal.Kind]:
    return [change.kind for _, change in change_journal.read(tracer.changes)][1:]


def test_nothing_is_left(guarded: Path, start: Start, trace: Trace, recover: Recover) -> None:
    """Text, pages, the handler of SIGTRAP."""
    target = start(guarded)
    before, mapped = text(target.pid), mappings(target.pid)
    tracer = trace(target)
    number = tracer.put(counting(guarded, "probed"))
    tracer.put(counting("libc.so.6", "getppid", "getuid", "getgid"))
    until_it_hits(tracer, number, 1000)
    target.tracer = None
    tracer.kill()
    assert text(target.pid) != before
    assert catches(target)
    assert recover(tracer) == []
    assert text(target.pid) == before
    assert mappings(target.pid) == mapped
    assert not catches(target)
    assert is_whole(target)


def test_the_journal_is_empty_after_a_detach(guarded: Path, start: Start, trace: Trace) -> None:
    target = start(guarded)
    tracer = trace(target)
    number = tracer.put(counting(guarded, "probed"))
    until_it_hits(tracer, number)
    noted = entries(tracer)
    assert {change_journal.Kind.SITE, change_journal.Kind.AREA} <= set(noted)
    tracer.detach()
    assert entries(tracer) == []
    assert is_whole(target)


def kill_both(daemon: Daemon, target: Target) -> None:
    """SIGKILL a target's tracer and its daemon."""
    tracer = tracer_of(target.pid)
    assert tracer not in (0, daemon.process.pid)
    os.kill(daemon.process.pid, signal.SIGKILL)
    os.kill(tracer, signal.SIGKILL)
    daemon.process.wait(PATIENCE)
    assert wait_end(tracer)


@pytest.fixture
def source(guarded: Path, tmp_path: Path) -> Path:
    path = tmp_path / "x.rpn"
    path.write_text(counting(guarded, "probed"))
    return path


def test_a_daemon_does_it_when_its_tracer_was_killed(
    guarded: Path, source: Path, start: Start, daemon: Daemon
) -> None:
    target = start(guarded)
    before, mapped = text(target.pid), mappings(target.pid)
    daemon.json("insert", source, "--pid", target.pid)
    os.kill(tracer_of(target.pid), signal.SIGKILL)
    while daemon.json("query", "--pid", target.pid)[0]["state"] == "active":
        pass
    assert text(target.pid) == before
    assert mappings(target.pid) == mapped
    assert not catches(target)
    assert is_whole(target)


def test_the_next_daemon_does_it_when_both_were_killed(
    guarded: Path, source: Path, start: Start, tmp_path: Path
) -> None:
    target = start(guarded)
    before, mapped = text(target.pid), mappings(target.pid)
    with running_daemon(tmp_path) as daemon:
        daemon.json("insert", source, "--pid", target.pid)
        kill_both(daemon, target)
    assert text(target.pid) != before
    assert catches(target)
    with running_daemon(tmp_path) as daemon:
        daemon.json("remove", "--all")
        assert daemon.process.stderr is not None
        said = daemon.process.stderr.readline()
        assert f"process {target.pid}: 3 breakpoints of its lost tracer removed" in said
        assert text(target.pid) == before
        assert mappings(target.pid) == mapped
        assert not catches(target)
    assert is_whole(target)


def test_a_tracer_that_is_stopped_for_long_lets_its_target_go(
    guarded: Path, source: Path, start: Start, daemon: Daemon
) -> None:
    """SIGSTOP stops it in the middle of hits: its target's threads stand still until it is gone."""
    target = start(guarded)
    before = text(target.pid)
    daemon.json("insert", source, "--pid", target.pid)
    os.kill(tracer_of(target.pid), signal.SIGSTOP)
    while daemon.json("query", "--pid", target.pid)[0]["state"] == "active":
        pass
    assert tracer_of(target.pid) == 0
    assert text(target.pid) == before
    assert is_whole(target)


def cpu_seconds(pid: int) -> float:
    """What a process has used of the CPU."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_what_it_takes_is_not_the_targets_to_say(
    build_target: BuildTarget, start: Start, daemon: Daemon, tmp_path: Path
) -> None:
    """80 MB of a module full of breakpoints that nobody has put there: the daemon is there for
    others, and they stay."""
    binary = build_target("filled.c")
    full = tmp_path / "full"
    with full.open("wb") as file:
        file.truncate(80 << 20)
    target = start(binary, full)
    source = tmp_path / "x.rpn"
    source.write_text(counting(binary, "probed"))
    daemon.json("insert", source, "--pid", target.pid)
    begun = cpu_seconds(daemon.process.pid)
    for _ in range(50):
        daemon.query()
    before = cpu_seconds(daemon.process.pid)
    to_ask = (before - begun) / 50
    os.kill(tracer_of(target.pid), signal.SIGKILL)
    asked = 1
    while daemon.query()[0]["state"] == "active":
        asked += 1
    # What it takes to answer us, over and over, is no part of it.
    assert cpu_seconds(daemon.process.pid) < before + 1 + 2 * asked * to_ask
    assert is_whole(target)


def test_a_child_that_has_another_parent_by_now(
    build_target: BuildTarget, start: Start, trace: Trace, recover: Recover
) -> None:
    """Forked while its parent's tracer stood still, which then was killed: nobody has seen it."""
    binary = build_target("strays.c")
    target = start(binary)
    before = text(target.pid)
    tracer = trace(target)
    tracer.put(counting(binary, "probed"))
    os.kill(tracer.pid, signal.SIGSTOP)
    target.go()
    while not procfs.children(target.pid):
        assert target.process.poll() is None
    target.tracer = None
    tracer.kill()
    target.expect("forked")
    stray = target.number("stray")
    assert procfs.parent(stray) != target.pid
    assert recover(tracer) == []
    now = text(stray)
    # Where the gate is nobody comes by.
    assert all(now[line] == before[line] for line in before if "[vdso]" not in line)
    # It goes on, until there is no input any more.
    ended = os.pidfd_open(stray)
    target.go()
    target.process.stdin.close()
    assert select.select([ended], [], [], PATIENCE)[0]
    os.close(ended)
    target.expect("OK")
    assert target.process.wait(PATIENCE) == 0


def left_over(daemon: Daemon) -> Json:
    """What ``doctor`` says of processes that nobody attends."""
    rows = parsed(daemon.dprobe("doctor", "--json").stdout)
    return next(row for row in rows if row["check"] == "processes of killed tracers")


def test_what_nobody_attends_is_named(
    guarded: Path, source: Path, start: Start, tmp_path: Path
) -> None:
    """By ``doctor``, also without a daemon, and by ``status``, with what to do about it."""
    target = start(guarded)
    before = text(target.pid)
    with running_daemon(tmp_path) as daemon:
        daemon.json("insert", source, "--pid", target.pid)
        assert left_over(daemon)["result"] == "ok"
        kill_both(daemon, target)
    named = left_over(daemon)
    assert (named["result"], str(target.pid) in named["detail"]) == ("no", True)
    assert "start dprobed again" in named["remedy"]
    # Another tracer has it by now: it stays as it is.
    tids = procfs.threads(target.pid)
    for tid in tids:
        ptrace.seize(tid)
    with running_daemon(tmp_path) as daemon:
        (health,) = parsed(daemon.dprobe("status", "--json").stdout)
        (problem,) = health["problems"]
        assert f"processes {target.pid} have something left of a tracer" in problem
        daemon.process.kill()
        daemon.process.wait(PATIENCE)
    for tid in tids:
        ptrace.interrupt(tid)
        _, status = os.waitpid(tid, 0x40000000)
        # A breakpoint's signal, which the guard is waiting for; none if it stopped for us.
        ptrace.detach(tid, 0 if status >> 16 else os.WSTOPSIG(status))
    with running_daemon(tmp_path) as daemon:
        daemon.json("remove", "--all")
        assert text(target.pid) == before
        (health,) = parsed(daemon.dprobe("status", "--json").stdout)
        assert health["problems"] == []
        assert left_over(daemon)["result"] == "ok"
    assert is_whole(target)
