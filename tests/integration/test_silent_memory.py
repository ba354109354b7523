"""Memory and files that do not answer: whoever waited for them would wait without end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dprobed.program.isa import ExCode
from tests.conftest import BuildTarget
from tests.integration.conftest import Start, Trace
from tests.integration.harness import TracerProcess, counting
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


@pytest.mark.parametrize("how", ["anonymous", "shared"])
def test_a_read_of_memory_that_the_target_is_to_fill(
    build_target: BuildTarget, start: Start, trace: Trace, how: str
) -> None:
    """The thread that would fill it comes by a probe, too, and is served."""
    program = build_target("fills.c", "-pthread")
    target = start(program, how)
    tracer = trace(target)
    number = tracer.put(counting(program, "looked_at", body=READS))
    filling = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("looked")
    target.go()
    target.expect("filled")
    assert tracer.hits(number) == [16]
    assert tracer.hits(filling) == [8]
    before, after = addresses(tracer)[:8], addresses(tracer)[8:]
    assert [each.exception[0] for each in tracer.records[:8] if each.exception] == [INVALID] * 8
    assert None not in before
    assert after == [None] * 8
    tracer.detach()
    assert target.finish() == 8


def test_a_write_to_memory_of_which_the_target_is_asked(
    build_target: BuildTarget, start: Start, trace: Trace
) -> None:
    program = build_target("fills.c", "-pthread")
    target = start(program, "protected")
    tracer = trace(target)
    number = tracer.put(counting(program, "looked_at", body=WRITES))
    filling = tracer.put(counting(program, "probed"))
    target.go()
    target.expect("looked")
    target.go()
    target.expect("filled")
    assert tracer.hits(number) == [16]
    assert tracer.hits(filling) == [8]
    assert None not in addresses(tracer)[:8]
    assert addresses(tracer)[8:] == [None] * 8
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
