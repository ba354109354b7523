"""Hazard 8, while a tracer lives: whoever dies, the target is left unchanged."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dprobed.wire.protocol import TargetEvent
from tests.conftest import BuildTarget
from tests.integration.client_support import (
    DPROBE,
    PATIENCE,
    children,
    running_daemon,
    tracer_of,
    wait_end,
)
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, TracerProcess, counting, text
from tests.integration.test_engine_threads import await_state


@pytest.fixture(scope="module")
def crowd(build_target: BuildTarget) -> Path:
    """Three hundred threads that hit the probes all the time."""
    return build_target("crowd.c", "-pthread")


def is_unharmed(target: Target, before: dict[str, bytes]) -> None:
    """Nobody traces it, its text is as before, and it ends well."""
    assert tracer_of(target.pid) == 0
    assert text(target.pid) == before
    target.go()
    target.expect("stopped")
    target.finish()


def ask(tracer: TracerProcess) -> None:
    assert tracer.detach().how == "detached"


def close(tracer: TracerProcess) -> None:
    tracer.close()
    assert tracer.wait().how == "detached"


def vanish(tracer: TracerProcess) -> None:
    """As when the daemon is killed: nobody reads any more, and much is unread."""
    tracer.sock.close()
    tracer.closed = True
    tracer.reap()


ENDS = [ask, close, vanish]


@pytest.mark.parametrize("end", ENDS)
def test_while_three_hundred_threads_hit(
    crowd: Path, start: Start, trace: Trace, end: Callable[[TracerProcess], None]
) -> None:
    target = start(crowd)
    before = text(target.pid)
    tracer = trace(target)
    tracer.put(counting(crowd, "probed", "probed+0x8", "work", body="push r,rip\nlog 1\nexit"))
    tracer.put(counting("libc.so.6", "usleep", "clock_nanosleep"))
    while not tracer.records:
        tracer.receive()
    target.tracer = None
    end(tracer)
    is_unharmed(target, before)


@pytest.mark.parametrize("end", ENDS)
def test_while_threads_are_suspended(
    crowd: Path, start: Start, trace: Trace, end: Callable[[TracerProcess], None]
) -> None:
    target = start(crowd)
    before = text(target.pid)
    tracer = trace(target)
    tracer.put(counting(crowd, "probed", body="suspend\nexit"))
    while sum(isinstance(e, TargetEvent) and e.kind == "suspend" for e in tracer.events) < 50:
        tracer.receive()
    target.tracer = None
    end(tracer)
    is_unharmed(target, before)


@pytest.mark.parametrize("end", ENDS)
def test_while_the_target_is_stopped(
    crowd: Path, start: Start, trace: Trace, end: Callable[[TracerProcess], None]
) -> None:
    target = start(crowd)
    before = text(target.pid)
    tracer = trace(target)
    tracer.put(counting(crowd, "probed"))
    os.kill(target.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(target.pid, os.WUNTRACED)[1])
    target.tracer = None
    end(tracer)
    await_state(target.pid, "T")  # It is woken by a detach, and stops again by itself.
    os.kill(target.pid, signal.SIGCONT)
    is_unharmed(target, before)


@pytest.mark.parametrize("end", ENDS)
def test_right_after_the_request(
    crowd: Path, start: Start, trace: Trace, end: Callable[[TracerProcess], None]
) -> None:
    """Five times in and out, without a pause in between."""
    target = start(crowd)
    before = text(target.pid)
    for _ in range(5):
        tracer = trace(target)
        tracer.put(counting(crowd, "probed"))
        target.tracer = None
        end(tracer)
    is_unharmed(target, before)


def test_the_target_killed_in_the_middle(crowd: Path, start: Start, trace: Trace) -> None:
    for _ in range(3):
        target = start(crowd)
        tracer = trace(target)
        tracer.put(counting(crowd, "probed"))
        target.process.kill()
        assert tracer.wait().how == "killed"
        assert target.process.wait(60) == -signal.SIGKILL


# --- the real commands ---


@pytest.fixture
def source(crowd: Path, tmp_path: Path) -> Path:
    path = tmp_path / "hits.rpn"
    path.write_text(counting(crowd, "probed", "work", "probed+0x8", body="push r,rip\nlog 1\nexit"))
    return path


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command, whose output is read as text."""
    started: list[subprocess.Popen[str]] = []

    def begin(*command: object, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, text=True, **options
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


Spawn = Callable[..., subprocess.Popen[str]]


def attached(spawn: Spawn, target: Target, source: Path) -> tuple[subprocess.Popen[str], int, int]:
    """A client that attached and gets records; its private daemon and its tracer."""
    client = spawn(DPROBE, "attach", "--format", "json", "-o", "-", target.pid, source)
    assert client.stdout is not None
    assert '"type":"record"' in client.stdout.readline()
    tracer = tracer_of(target.pid)
    (daemon,) = children(client.pid)
    assert children(daemon) == [tracer]
    return client, daemon, tracer


def test_the_client_is_killed(crowd: Path, start: Start, spawn: Spawn, source: Path) -> None:
    target = start(crowd)
    before = text(target.pid)
    client, daemon, tracer = attached(spawn, target, source)
    client.kill()
    assert wait_end(tracer)
    assert wait_end(daemon)
    is_unharmed(target, before)


def test_the_private_daemon_is_killed(
    crowd: Path, start: Start, spawn: Spawn, source: Path
) -> None:
    target = start(crowd)
    before = text(target.pid)
    client, daemon, tracer = attached(spawn, target, source)
    os.kill(daemon, signal.SIGKILL)
    assert wait_end(tracer)
    client.communicate(timeout=PATIENCE)
    assert client.returncode not in (0, -signal.SIGKILL)
    is_unharmed(target, before)


def test_the_client_does_not_read(crowd: Path, start: Start, spawn: Spawn, source: Path) -> None:
    """A client that hangs: the target's threads go on, and end as they should."""
    target = start(crowd)
    client, daemon, tracer = attached(spawn, target, source)
    os.kill(client.pid, signal.SIGSTOP)
    target.go()
    target.expect("stopped")
    target.finish()
    client.kill()
    assert wait_end(tracer)
    assert wait_end(daemon)


def test_the_daemon_is_killed(crowd: Path, start: Start, source: Path, tmp_path: Path) -> None:
    target = start(crowd)
    before = text(target.pid)
    with running_daemon(tmp_path) as daemon:
        (first, *_) = daemon.json("insert", source, "--pid", target.pid)
        assert first["state"] == "active"
        tracer = tracer_of(target.pid)
        assert children(daemon.process.pid) == [tracer]
        assert text(target.pid) != before
        daemon.process.kill()
        assert wait_end(tracer)
    is_unharmed(target, before)
