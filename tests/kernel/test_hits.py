"""What happens at hits: counts, states, variables, full rings, and ends under fire."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dprobed.kernel.abi import State
from dprobed.program.exits import EXCEPTION, REM
from dprobed.record.log import decode_log
from tests.kernel.device import (
    GETPPID,
    KILL,
    O_NONBLOCK,
    O_RDWR,
    READ,
    Device,
    KernelProgram,
    check,
    insert_module,
    path,
    remove_module,
)
from tests.kernel.machine import AREA, Machine
from tests.kernel.test_bridge import PLACE, kernel_program

WAIT4, NANOSLEEP = 61, 35
SIGKILL = 9


@contextmanager
def calling(machine: Machine, cpu: int, number: int, *args: int) -> Iterator[None]:
    """A process on that CPU makes a system call again and again."""
    machine.run_on(cpu)
    pid = check(machine.for_ever(number, *args))
    machine.run_on(0)
    try:
        yield
    finally:
        check(machine.call(KILL, pid, SIGKILL))
        check(machine.call(WAIT4, pid, 0, 0, 0))


def test_pass_count_and_max_hits(machine: Machine, device: Device) -> None:
    loaded = device.load(kernel_program("exit", probe="pass_count = 2\nmax_hits = 3"))
    loaded.attach(PLACE)
    check(machine.call(GETPPID, count=10))
    assert [hit.record.hit for hit in loaded.read()] == [3, 4, 5]
    query = loaded.query()
    assert (query.state, query.hits, query.runs) == (State.DISABLED, 5, 3)
    loaded.close()


def test_rem_ends_the_probe_with_a_record(machine: Machine, device: Device) -> None:
    loaded = device.load(kernel_program("push 1\nlog 1\nrem"))
    loaded.attach(PLACE)
    check(machine.call(GETPPID, count=10))
    (hit,) = loaded.read()
    assert hit.record.exit == REM
    assert (loaded.state(), loaded.query().runs) == (State.REMOVED, 1)
    loaded.close()


def test_abort_leaves_no_record(machine: Machine, device: Device) -> None:
    loaded = device.load(kernel_program("push 1\nlog 1\nabort"))
    loaded.attach(PLACE)
    check(machine.call(GETPPID, count=10))
    assert loaded.query().runs == 10
    assert loaded.stats().written == 0
    assert not loaded.ready()
    loaded.close()


def test_variables(machine: Machine, device: Device) -> None:
    program = kernel_program("inc lv,0\npush lv,0\npush gv,0\nadd\npop gv,1", "vars=1\ngvars=2")
    first, second = device.load(program), device.load(program)
    first.attach(PLACE)
    second.attach(PLACE)
    first.set_vars(0, [10])
    first.set_vars(0, [100, 0], global_=True)
    check(machine.call(GETPPID, count=5))
    assert (first.get_vars(0, 1), second.get_vars(0, 1)) == ([15], [5])
    # The last program that wrote it was one of the two.
    assert second.get_vars(0, 2, global_=True) in ([100, 105], [100, 115])
    other = Device(machine)
    third = other.load(program)
    assert third.get_vars(0, 2, global_=True) == [0, 0]
    for program_ in (first, second, third):
        program_.close()
    other.close()


def test_inc_counts_on_all_cpus(machine: Machine, device: Device) -> None:
    loaded = device.load(kernel_program("inc lv,0\nabort", "vars = 1"))
    loaded.attach(PLACE)
    with calling(machine, 1, GETPPID):
        while not loaded.query().runs:
            pass
        check(machine.call(GETPPID, count=3000))
    query = loaded.query()
    assert query.runs > 3000
    assert loaded.get_vars(0, 1) == [query.runs]
    assert query.hits == query.runs
    loaded.close()


def test_an_exception_ends_the_program_and_not_the_kernel(machine: Machine, device: Device) -> None:
    loaded = device.load(kernel_program("push 7\nlog 1\npush 7\npush 0\ndiv"))
    loaded.attach(PLACE)
    check(machine.call(GETPPID))
    (hit,) = loaded.read()
    assert (hit.record.exit, list(hit.record.exception)) == (EXCEPTION, [0x20, 0, 0])
    assert decode_log(hit.log, hit.raw) == [{"words": [7]}]
    loaded.close()


@pytest.mark.parametrize(
    "text",
    ["again: jmp again", "again: call again\nexit", "push 0\nagain: loop again"],
)
def test_a_program_that_would_not_end(machine: Machine, device: Device, text: str) -> None:
    loaded = device.load(kernel_program("sx out\n" + text + "\nout: exit"))
    loaded.attach(PLACE)
    check(machine.call(GETPPID, count=3))
    assert len(loaded.read()) == 3
    loaded.close()


def test_a_full_ring_counts_what_is_lost(machine: Machine, device: Device) -> None:
    loaded = device.load(kernel_program("push procid\nlog 1"), ring=4096)
    loaded.attach(PLACE)
    check(machine.call(GETPPID, count=100))
    kept = 4096 // 120
    assert [hit.record.hit for hit in loaded.read()] == list(range(1, kept + 1))
    stats = loaded.stats()
    assert (stats.written, stats.lost) == (kept, 100 - kept)
    # And there is room again, across the ring's end.
    check(machine.call(GETPPID, count=3))
    assert [hit.record.hit for hit in loaded.read()] == [101, 102, 103]
    loaded.close()


def _attach_behind_entry(loaded: KernelProgram) -> None:
    """Place it behind the call of the function tracer, which itself drops what nests in it."""
    for offset in (5, 9):
        try:
            loaded.attach(PLACE, offset=offset)
        except OSError as error:
            assert error.errno == errno.EILSEQ
        else:
            return
    raise AssertionError("the function does not begin as expected")


def test_a_hit_in_a_hit_is_counted_and_not_run(machine: Machine, device: Device) -> None:
    outer = device.load(kernel_program("push task\npush mem,u8\nlog 1"))
    inner = device.load(kernel_program("push 1\nlog 1"))
    _attach_behind_entry(outer)
    inner.attach("copy_from_kernel_nofault")
    before = inner.query()
    check(machine.call(GETPPID, count=5))
    assert len(outer.read()) == 5
    query = inner.query()
    assert query.missed + query.recursed - before.missed - before.recursed >= 5
    assert query.runs == query.hits
    outer.close()
    inner.close()


def test_who_waits_is_woken(machine: Machine, device: Device) -> None:
    loaded = device.load(kernel_program("exit"))
    loaded.attach("__x64_sys_nanosleep")
    machine.write(AREA + 4096, struct.pack("<2Q", 0, 20_000_000))
    with calling(machine, 1, NANOSLEEP, AREA + 4096, 0):
        for _ in range(3):
            assert loaded.ready(30_000)
            assert loaded.read()
    loaded.close()


def test_a_read_that_may_not_wait(machine: Machine, device: Device) -> None:
    loaded = device.load(kernel_program("exit"))
    fcntl, setfl = 72, 4
    check(machine.call(fcntl, loaded.fd, setfl, O_RDWR | O_NONBLOCK))
    assert machine.call(READ, loaded.fd, AREA, 4096) == -errno.EAGAIN
    loaded.close()


BUSY = ("try_to_wake_up", "vfs_read", "kmem_cache_alloc", "__schedule", "irq_work_queue",
        "__wake_up_common")  # fmt: skip


def test_busy_places_under_load(machine: Machine, device: Device) -> None:
    program = kernel_program("push task\npush mem,u64\nlog 1")
    machine.write(AREA + 4096, struct.pack("<2Q", 0, 1_000_000))
    with calling(machine, 1, NANOSLEEP, AREA + 4096, 0), calling(machine, 0, GETPPID):
        for _ in range(3):
            running: list[KernelProgram] = []
            for place in BUSY:
                try:
                    loaded = device.load(program)
                    loaded.attach(place)
                except OSError as error:
                    assert error.errno == errno.EADDRNOTAVAIL
                running.append(loaded)
            assert any(loaded.ready(10_000) for loaded in running)
            for loaded in running:
                stats = loaded.stats()
                assert stats.written + stats.lost <= loaded.query().hits
                loaded.close()


def test_a_descriptor_closed_under_fire(machine: Machine, device: Device) -> None:
    with calling(machine, 1, GETPPID), calling(machine, 0, GETPPID):
        for _ in range(5):
            loaded = device.load(kernel_program("push task\npush mem,u8\nlog 1"))
            loaded.attach(PLACE)
            assert loaded.ready(10_000)
            loaded.close()


def test_the_module_stays_as_long_as_it_is_used(machine: Machine) -> None:
    device = Device(machine)
    loaded = device.load(kernel_program("exit"))
    loaded.attach(PLACE)
    device.close()

    assert remove_module(machine) == -errno.EWOULDBLOCK
    check(machine.call(GETPPID))
    assert len(loaded.read()) == 1
    loaded.close()
    assert remove_module(machine) == 0
    assert path(machine, "/dev/dprobes", O_RDWR) == -errno.ENOENT
    insert_module(machine)
