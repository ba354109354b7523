"""Watchpoints: every thread, every length, exact counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from dprobed.engine.protocol import State
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
