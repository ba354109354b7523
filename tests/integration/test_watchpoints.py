"""Watchpoints: every thread, every length, exact counts."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.arch.x86_64.syscalls import SYS_PERF_EVENT_OPEN
from dprobed.tracee import ptrace
from dprobed.wire.protocol import State
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import text

#: Calls of ``touch`` up to the gate "watched": 30 threads there before, 20 created later.
TOUCHES = 500


@pytest.fixture(scope="module")
def program(build_target: BuildTarget) -> Path:
    return build_target("watched.c", "-pthread")


def watch(program: Path, *watches: tuple[str, str], body: str = "abort") -> str:
    parts = [f'name = "{program}"']
    for minor, (kind, address) in enumerate(watches, start=1):
        parts.append(f"address = {address}\nwatchpoint = {kind}\nminor = {minor}\n{body}\n")
    return "\n".join(parts)


def test_every_write_of_every_thread(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    lengths = (("w", "eight:8"), ("w", "four:4"), ("w", "two:2"), ("w", "one:1"))
    number = tracer.put(watch(program, *lengths))
    target.go()
    target.expect("watched")
    assert tracer.hits(number) == [TOUCHES] * 4
    tracer.remove(number)
    again = tracer.put(watch(program, ("w", "eight:8")))
    target.go()
    target.expect("stopped")
    assert tracer.hits(again) == [100]
    tracer.detach()
    target.finish()


def test_who_keeps_the_memory_after_an_exec(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    """A child that shares the memory is left alone when its parent executes a program, and would
    die of a watchpoint that is still in its registers."""
    program = build_target("heir_execs.c")
    target = start(program)
    tracer = trace(target)
    number = tracer.put(watch(program, ("w", "kept:8")))
    target.go()
    target.expect("heir")
    assert tracer.hits(number) == [1]
    target.go()
    target.expect("stopped")
    tracer.detach()
    target.finish()


def test_reads_and_execution(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    number = tracer.put(
        watch(program, ("rw", "eight:8"), ("rw", "four:4"), ("x", "touch"), ("w", "unused:8"))
    )
    target.go()
    target.expect("watched")
    # the target itself reads eight and four once more, to check them
    assert tracer.hits(number) == [2 * TOUCHES + 1, 2 * TOUCHES + 1, TOUCHES, 0]
    tracer.detach()
    assert text(target.pid) == before
    target.go()
    target.expect("stopped")
    target.finish()


def test_watched_data_of_a_probed_instruction(program: Path, start: Start, trace: Trace) -> None:
    """The write is made by a slot's copy; the watch's program sees the original address."""
    target = start(program)
    before = text(target.pid)
    tracer = trace(target)
    watched = tracer.put(watch(program, ("w", "eight:8"), body="push r,rip\nlog 1\nexit"))
    probed = tracer.put(f'name = "{program}"\noffset = touch\npush r,rip\nlog 1\nexit\n')
    target.go()
    target.expect("watched")
    assert tracer.hits(watched) == tracer.hits(probed) == [TOUCHES]
    tracer.detach()
    assert text(target.pid) == before
    seen = {
        program: {int.from_bytes(r.log, "little") for r in tracer.records if r.program == program}
        for program in (watched, probed)
    }
    assert len(seen[probed]) == 1
    # a data breakpoint fires behind the instruction, which has 11 bytes
    assert {address + 11 for address in seen[probed]} == seen[watched]
    target.go()
    target.expect("stopped")
    target.finish()


def test_what_cannot_be_watched(program: Path, start: Start, trace: Trace) -> None:
    target = start(program)
    tracer = trace(target)
    _, probes = tracer.insert(
        watch(
            program,
            ("w", "eight:8"),
            ("w", "eight:3"),
            ("w", "odd+1:4"),
            ("w", "four:4"),
            ("rw", "two:2"),
            ("rw", "one:1"),
            ("w", "unused:8"),
            ("w", "eight:8"),
        )
    )
    assert [each.state for each in probes] == [
        State.ACTIVE,
        State.WATCHPOINT_LENGTH,
        State.WATCHPOINT_LENGTH,
        State.ACTIVE,
        State.ACTIVE,
        State.ACTIVE,
        State.NO_DEBUG_REGISTER,
        State.ACTIVE,
    ]
    target.go()
    target.expect("watched")
    hits = [each.hits for each in tracer.query(1)]
    assert hits[0] == hits[7] == hits[3] == TOUCHES
    tracer.detach()
    target.go()
    target.expect("stopped")
    target.finish()


_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def perf_watches(tid: int, count: int) -> Iterator[None]:
    """Has perf use so many debug registers of a thread (perf_event_open(2))."""
    attributes = bytearray(128)
    attributes[0:8] = (5 | len(attributes) << 32).to_bytes(8, "little")  # PERF_TYPE_BREAKPOINT
    attributes[40:48] = (1 << 5).to_bytes(8, "little")  # exclude_kernel
    attributes[52:56] = (2).to_bytes(4, "little")  # HW_BREAKPOINT_W
    attributes[64:72] = (8).to_bytes(8, "little")  # its length
    descriptors = []
    try:
        for number in range(count):
            attributes[56:64] = (0x10000 + 8 * number).to_bytes(8, "little")  # its address
            event = (ctypes.c_char * len(attributes)).from_buffer(attributes)
            found = _libc.syscall(SYS_PERF_EVENT_OPEN, event, tid, -1, -1, 0)
            assert found >= 0, os.strerror(ctypes.get_errno())
            descriptors.append(found)
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="Debian lets only root use perf")
def test_a_watchpoint_that_one_thread_cannot_have_is_in_none(
    program: Path, start: Start, trace: Trace
) -> None:
    target = start(program)
    tracer = trace(target)
    with perf_watches(target.pid, 3):
        # Three of the four are perf's: there is one for us.
        first = tracer.put(watch(program, ("w", "eight:8")))
        second, [probe] = tracer.insert(watch(program, ("w", "four:4")))
        assert probe.state is State.NO_DEBUG_REGISTER
        assert f"not in thread {target.pid}" in probe.reason
    third = tracer.put(watch(program, ("w", "two:2")))
    target.go()
    target.expect("watched")
    assert [tracer.hits(each) for each in (first, second, third)] == [[TOUCHES], [0], [TOUCHES]]
    tracer.detach()
    target.go()
    target.expect("stopped")
    target.finish()


def test_a_new_thread_that_cannot_have_a_watchpoint_is_named(
    program: Path, start: Start, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = start(program)
    there = {each.name for each in Path(f"/proc/{target.pid}/task").iterdir()}
    poke = ptrace.poke_debug

    def poke_those_that_are_there(tid: int, index: int, value: int) -> None:
        if index == 0 and str(tid) not in there:
            raise ptrace.PtraceError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        poke(tid, index, value)

    monkeypatch.setattr(ptrace, "poke_debug", poke_those_that_are_there)
    tracer = trace(target)
    number = tracer.put(watch(program, ("w", "eight:8"), ("w", "four:4")))
    target.go()
    target.expect("watched")
    probes = tracer.query(number)
    # Of 50 threads 30 were there; the others have at least the register that can be had.
    assert [probe.hits for probe in probes] == [300, TOUCHES]
    assert {probe.state for probe in probes} == {State.ACTIVE}
    assert all("No space left" in probe.reason for probe in probes)
    tracer.detach()
    target.go()
    target.expect("stopped")
    target.finish()
