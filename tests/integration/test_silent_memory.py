"""Memory and files that do not answer: whoever waited for them would wait without end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.program.exceptions import ExCode
from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.client_support import PATIENCE, Daemon, tracer_of
from tests.integration.conftest import Start, Trace
from tests.integration.harness import Target, TracerProcess, counting
from tests.integration.silent_fs import SilentFiles

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may fill and mount so")

READS = "push r,rdi\npush mem,u8\nlog 1\nexit"
WRITES = "push r,rdi\npush 1\npop mem,u8\npush 0\nlog 1\nexit"
INVALID = ExCode.INVALID_ADDR


@pytest.fixture
def files(build_target: BuildTarget, tmp_path: Path) -> Iterator[SilentFiles]:
    """A file system that stops to answer when it is told to."""
    with SilentFiles(build_target("silent_fs.c"), tmp_path) as mounted:
        yield mounted


def addresses(tracer: TracerProcess) -> list[int | None]:
    """What each record says: the address that could not be accessed, None where all could."""
    return [each.exception[1] if each.exception else None for each in tracer.records]


def looked_at(program: Path, target: Target, tracer: TracerProcess, body: str) -> list[int | None]:
    """What each of 16 accesses says, 8 before the target has filled the memory, 8 after."""
    number = tracer.put(counting(program, "looked_at", body=body))
    filling = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("looked")
    target.go()
    target.expect("filled")
    assert tracer.hits(number) == [16]
    assert tracer.hits(filling) == [8]
    return addresses(tracer)


@pytest.mark.parametrize("how", ["anonymous", "shared"])
def test_a_read_of_memory_that_the_target_is_to_fill(
    build_target: BuildTarget, start: Start, trace: Trace, how: str
) -> None:
    """The thread that would fill it comes by a probe, too, and is served."""
    program = build_target("fills.c", "-pthread")
    target = start(program, how)
    tracer = trace(target)
    said = looked_at(program, target, tracer, READS)
    assert [each.exception[0] for each in tracer.records[:8] if each.exception] == [INVALID] * 8
    assert None not in said[:8]
    assert said[8:] == [None] * 8
    tracer.detach()
    assert target.finish() == 8


def test_a_write_to_memory_of_which_the_target_is_asked(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("fills.c", "-pthread")
    target = start(program, "protected")
    tracer = trace(target)
    said = looked_at(program, target, tracer, WRITES)
    assert None not in said[:8]
    assert said[8:] == [None] * 8
    tracer.detach()
    target.finish()


def test_a_read_of_a_file_that_does_not_answer(
    build_target: BuildTarget, start: Start, trace: Trace, files: SilentFiles
) -> None:
    """It is waited for once, then not again; another target of the tracer is served meanwhile."""
    program = build_target("maps_file.c")
    silent, other = start(program, files.path), start(program, program)
    tracer = trace(silent)
    tracer.attach(other.pid)
    numbers = {
        each.pid: tracer.put(counting(program, "looked_at", body=READS), each.pid)
        for each in (silent, other)
    }
    files.mute()
    began = time.monotonic()
    for each in (silent, other):
        each.tracer = tracer
        each.go()
    other.expect("looked")
    silent.expect("looked")
    # Each of a hundred would be waited for.
    assert time.monotonic() - began < 10
    assert tracer.hits(numbers[silent.pid], silent.pid) == [100]
    assert tracer.hits(numbers[other.pid], other.pid) == [100]
    said = {
        each.pid: [bool(record.exception) for record in tracer.records if record.pid == each.pid]
        for each in (silent, other)
    }
    assert said == {silent.pid: [True] * 100, other.pid: [False] * 100}
    for each in (silent, other):
        tracer.detach_from(each.pid)
    files.answer()
    for each in (silent, other):
        assert each.finish() == 1


def test_a_program_in_a_file_that_does_not_answer(
    build_target: BuildTarget, start: Start, trace: Trace, tmp_path: Path
) -> None:
    """Its file cannot be opened: the probe waits, with the reason, until it can."""
    program = build_target("sleeps.c")
    with SilentFiles(build_target("silent_fs.c"), tmp_path, program) as files:
        silent, other = start(files.path, program), start(program, program)
        files.mute()
        began = time.monotonic()
        tracer = trace(silent)
        tracer.attach(other.pid)
        number, probes = tracer.insert(counting(files.path, "probed"), silent.pid)
        of_other = tracer.put(counting(program, "probed"), other.pid)
        assert time.monotonic() - began < 10
        assert [each.state for each in probes] == [State.PENDING]
        assert "its file system does not answer" in probes[0].reason
        other.tracer = tracer
        for word in ("called", "opened"):
            other.go()
            other.expect(word)
        assert tracer.hits(of_other, other.pid) == [4]
        files.answer()
        deadline = time.monotonic() + PATIENCE
        while tracer.query(number, silent.pid)[0].state is not State.ACTIVE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        silent.tracer = tracer
        for word in ("called", "opened"):
            silent.go()
            silent.expect(word)
        assert tracer.hits(number, silent.pid) == [4]
        for each in (silent, other):
            tracer.detach_from(each.pid)
            assert each.finish() == 4


def test_a_daemon_and_programs_in_a_file_that_does_not_answer(
    daemon: Daemon, build_target: BuildTarget, start: Start, tmp_path: Path
) -> None:
    """It answers, serves others, and survives that it cannot look into the file of one whose tracer
    was killed."""
    program = build_target("sleeps.c")
    source = tmp_path / "probed.rpn"
    source.write_text(counting(program.name, "probed", body="exit"))
    folder = tmp_path / "silent"
    folder.mkdir()
    with SilentFiles(build_target("silent_fs.c"), folder, program) as files:
        silent = start(files.path, program)
        daemon.json("insert", source, "--pid", silent.pid)
        tracer = tracer_of(silent.pid)
        files.mute()
        os.kill(tracer, signal.SIGKILL)
        other = start(program, program)
        began = time.monotonic()
        daemon.json("insert", source, "--exe", program)
        deadline = time.monotonic() + PATIENCE
        while not any(
            row.get("pid") == other.pid and row["state"] == "active" for row in daemon.query()
        ):
            assert time.monotonic() < deadline
        assert time.monotonic() - began < 20
        other.go()
        other.expect("called")
        assert [row["hits"] for row in daemon.query() if row.get("pid") == other.pid] == [3]
        assert daemon.dprobe("remove", "--all").returncode == 0
        files.answer()
        other.go()
        other.expect("opened")
        assert other.finish() == 4


def test_a_daemon_is_told_of_a_word_in_a_page_that_does_not_answer(
    daemon: Daemon, build_target: BuildTarget, start: Start, tmp_path: Path, files: SilentFiles
) -> None:
    """Where such words are says a file that is the user's; what the process has there is, too."""
    library = build_target(
        "calls_parent.c", "-shared", "-fPIC", "-nostartfiles", output="libcalls_parent.so"
    )
    target = start(build_target("silent_slot.c"), files.path, library)
    source = tmp_path / "parent.rpn"
    source.write_text(counting("libc.so.6", "getppid", body="exit"))
    files.mute()
    try:
        began = time.monotonic()
        done = daemon.dprobe("insert", source, "--pid", target.pid)
        assert (done.returncode, done.stderr) == (0, "")
        assert [row["state"] for row in daemon.query()] == ["active"]
        assert time.monotonic() - began < 20
        assert daemon.dprobe("remove", "--all").returncode == 0
    finally:
        files.answer()
    assert target.finish() == 1
