"""Watchpoints on the kernel's data: which accesses hit, and what ends them."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from dprobed.kernel.abi import Kind, State
from dprobed.program.exits import REM
from dprobed.record.log import decode_log
from tests.kernel import sample
from tests.kernel.device import KILL, Device, KernelProgram, address_of, check, write_text
from tests.kernel.machine import AREA, Machine
from tests.kernel.test_bridge import kernel_program

WAIT4, SIGKILL = 61, 9
RATE = "/proc/sys/kernel/perf_event_max_sample_rate"


@pytest.fixture
def total(machine: Machine) -> Iterator[int]:
    """Where ``dpsample_total`` is: 4 bytes, which begin with 1."""
    with sample.loaded(machine):
        yield address_of(machine, "dpsample_total")


def _program(device: Device, text: str = "abort", probe: str = "") -> KernelProgram:
    return device.load(kernel_program(text, probe=probe))


def _hits(loaded: KernelProgram) -> int:
    query = loaded.query()
    assert query.hits == query.runs
    assert (query.recursed, query.missed) == (0, 0)
    return int(query.hits)


def test_what_is_written(machine: Machine, device: Device, total: int) -> None:
    loaded = _program(device, f"push {total:#x}\npush mem,u32\nlog i32 total")
    loaded.watch(Kind.WATCH_W, total, 4)
    assert (loaded.state(), loaded.query().address) == (State.ACTIVE, total)
    sample.step(machine, 5)
    assert sample.total(machine) == 6
    (hit,) = loaded.read()
    # The processor stops behind the access.
    assert decode_log(hit.log, hit.raw)[0]["value"] == 6
    assert (hit.record.address, hit.record.pid, _hits(loaded)) == (total, 1, 1)
    loaded.close()
    sample.step(machine)


def test_what_is_read_or_written(machine: Machine, device: Device, total: int) -> None:
    loaded = _program(device)
    loaded.watch(Kind.WATCH_RW, total, 4)
    sample.step(machine)
    assert _hits(loaded) == 2
    sample.total(machine)
    assert _hits(loaded) >= 3
    loaded.close()


def test_what_is_executed(machine: Machine, device: Device, total: int) -> None:
    place = address_of(machine, "dpsample_step")
    loaded = _program(device, "push r,rdi\nlog i32 by\npush r,rip\nlog i64 at")
    loaded.watch(Kind.WATCH_X, place, 1)
    sample.step(machine, 7, count=3)
    for hit in loaded.read():
        by, at = decode_log(hit.log, hit.raw)
        assert (by["value"], at["value"]) == (7, place - 2**64)
    assert _hits(loaded) == 3
    loaded.close()


def test_on_every_cpu(machine: Machine, device: Device, total: int) -> None:
    loaded = _program(device)
    loaded.watch(Kind.WATCH_W, total, 4)
    for cpu in (1, 0, 1):
        machine.run_on(cpu)
        sample.step(machine)
    assert _hits(loaded) == 3
    loaded.close()


def test_four_and_no_more(machine: Machine, device: Device, total: int) -> None:
    words = address_of(machine, "dpsample_words")
    four = [_program(device) for _ in range(4)]
    fifth = _program(device)
    for n, loaded in enumerate(four):
        loaded.watch(Kind.WATCH_W, total + n, 1)
    with pytest.raises(OSError, match="ENOSPC"):
        fifth.watch(Kind.WATCH_RW, words + 8, 8)
    assert (fifth.state(), fifth.query().address) == (State.COMPILED, 0)
    sample.step(machine)
    assert _hits(four[0]) == 1
    four.pop().close()
    fifth.watch(Kind.WATCH_RW, words + 8, 8)
    sample.step(machine)
    assert _hits(fifth) == 1
    for loaded in (*four, fifth):
        loaded.close()


@pytest.mark.parametrize(
    ("text", "probe", "ended"),
    [("exit", "max_hits = 2", State.DISABLED), ("inc lv,0\nrem", "", State.REMOVED)],
)
def test_one_that_ends(
    machine: Machine, device: Device, total: int, text: str, probe: str, ended: State
) -> None:
    loaded = device.load(kernel_program(text, "vars = 1", probe))
    loaded.watch(Kind.WATCH_W, total, 4)
    sample.step(machine, count=10)
    query = loaded.query()
    runs = 1 if ended is State.REMOVED else 2
    assert (query.state, query.runs, query.missed) == (ended, runs, 0)
    assert len(hits := loaded.read()) == runs
    assert (hits[-1].record.exit == REM) == (ended is State.REMOVED)
    loaded.close()


def test_the_data_of_a_module_that_goes(machine: Machine, device: Device) -> None:
    loaded = _program(device)
    with sample.loaded(machine):
        loaded.watch(Kind.WATCH_W, address_of(machine, "dpsample_total"), 4)
        sample.step(machine)
    query = loaded.query()
    assert (query.state, query.error, query.address) == (State.FAILED, errno.ENODEV, 0)
    # Its exit writes it, too.
    assert (query.hits, query.missed) == (2, 0)
    loaded.close()


def test_what_the_kernel_holds_back_is_counted(
    machine: Machine, device: Device, total: int
) -> None:
    loaded = _program(device)
    loaded.watch(Kind.WATCH_W, total, 4)
    write_text(machine, RATE, "1")
    try:
        sample.step(machine, count=300)
    finally:
        write_text(machine, RATE, "100000")
    query = loaded.query()
    assert query.hits + query.missed == 300
    loaded.close()


def test_closed_under_fire(machine: Machine, device: Device, total: int) -> None:
    machine.run_on(1)
    with sample.opened(machine) as fd:
        pid = check(machine.for_ever(sample.PWRITE, fd, AREA + 4096, 1, 0))
        machine.run_on(0)
        for _ in range(5):
            loaded = _program(device, "push task\npush mem,u8\nlog 1")
            loaded.watch(Kind.WATCH_RW, total, 4)
            assert loaded.ready(60_000)
            loaded.close()
        check(machine.call(KILL, pid, SIGKILL))
        check(machine.call(WAIT4, pid, 0, 0, 0))


def test_a_watchpoint_in_what_a_program_does(machine: Machine, device: Device, total: int) -> None:
    """Hit while a program runs on the same processor: counted, and not run."""
    outer = _program(device, f"push {total:#x}\npush mem,u32\nlog 1")
    inner = _program(device)
    outer.attach("dpsample:dpsample_step")
    inner.watch(Kind.WATCH_RW, total, 4)
    sample.step(machine)
    query = inner.query()
    assert (query.hits, query.recursed, query.missed) == (2, 1, 0)
    assert len(outer.read()) == 1
    outer.close()
    inner.close()
