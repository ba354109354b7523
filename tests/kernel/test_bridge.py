"""The module in Debian's kernel: from a program's source text to the record of a hit."""

from __future__ import annotations

import pytest

from dprobed.kernel.abi import ABI, State, Version
from dprobed.program.items import ItemToken
from dprobed.program.model import Program
from dprobed.program.rpn.parser import assemble
from dprobed.record.log import decode_log
from kernel_bridge.isa_header import checksum
from tests.kernel.device import GETPPID, Device, KernelProgram, attaching, check, ioctl
from tests.kernel.machine import Machine

#: What getppid(2) runs; no other part of the kernel does.
PLACE = "__x64_sys_getppid"


def kernel_program(text: str, header: str = "", probe: str = "") -> Program:
    """A kernel program with one probe."""
    lines = ["name = kernel", "modtype = kernel", header, f"offset = {PLACE}", probe, text]
    return assemble("\n".join(lines), "test.rpn")


def test_version(machine: Machine, device: Device) -> None:
    version = Version()
    assert ioctl(machine, device.fd, "DPROBES_VERSION", version) == 0
    assert (version.abi, version.isa) == (ABI, checksum())


def test_from_source_text_to_record(machine: Machine, device: Device) -> None:
    program = kernel_program(
        """
        push comm
        push pid
        push procid
        log 4
        push u,rax
        log i32 number
        """,
        "major = 7",
        "minor = 9",
    )
    loaded = device.load(program)
    assert loaded.state() is State.COMPILED
    loaded.attach(PLACE)
    assert not loaded.ready()
    machine.run_on(1)
    check(machine.call(GETPPID))
    assert loaded.ready()
    (hit,) = loaded.read()
    record = hit.record
    assert (record.probe, record.major, record.minor, record.hit) == (0, 7, 9, 1)
    assert (record.exit, list(record.exception)) == (0, [0, 0, 0])
    assert (record.pid, record.tid, record.uid, record.cpu) == (1, 1, 0, 1)
    assert bytes(record.comm) == b"init".ljust(16, b"\0")
    comm = int.from_bytes(b"init", "little")
    words, number = decode_log(hit.log, hit.raw)
    assert words == {"words": [1, 1, comm, 0]}
    # At its entry a system call's number is where its result will be.
    assert number["name"] == "number"
    query = loaded.query()
    assert record.address == query.address
    assert (query.state, query.hits, query.runs) == (State.ACTIVE, 1, 1)
    loaded.close()


def test_records_are_counted_and_none_is_lost(machine: Machine, device: Device) -> None:
    loaded = device.load(kernel_program("push procid\nlog 1"))
    loaded.attach(PLACE)
    check(machine.call(GETPPID, count=300))
    assert [hit.record.hit for hit in loaded.read()] == list(range(1, 301))
    stats = loaded.stats()
    assert (stats.written, stats.lost) == (300, 0)
    loaded.close()


def test_kernel_memory_is_read_and_a_bad_address_is_an_exception(
    machine: Machine, device: Device
) -> None:
    loaded = device.load(kernel_program("push task\npush mem,u8\nlog 1\npush 0xdead00000000\n"
                                        "push 8\nxchg\nlog mrf"))  # fmt: skip
    loaded.attach(PLACE)
    check(machine.call(GETPPID))
    (hit,) = loaded.read()
    assert list(hit.record.exception) == [1, 0xDEAD00000000, 0]
    items = decode_log(hit.log, hit.raw)
    assert [next(iter(item)) for item in items] == ["words", "fault"]
    assert hit.log[8] == ItemToken.MEMORY_FAULT & 0xFF
    loaded.close()


def _attach_within(loaded: KernelProgram) -> None:
    """Place it on an instruction behind the first one."""
    for offset in range(5, 32):
        argument = attaching(PLACE, offset=offset)
        if ioctl(loaded.machine, loaded.fd, "DPROBES_ATTACH", argument) == 0:
            return
    raise AssertionError("no second instruction")


@pytest.mark.parametrize("within", [False, True])
def test_rip_is_the_probed_instruction(machine: Machine, device: Device, within: bool) -> None:
    """Not what is behind the breakpoint that is there, at the entry of a function and elsewhere."""
    loaded = device.load(kernel_program("push r,rip\nlog 1"))
    if within:
        _attach_within(loaded)
    else:
        loaded.attach(PLACE)
    check(machine.call(GETPPID, count=3))
    hits = loaded.read()
    assert [hit.record.address for hit in hits] == [loaded.query().address] * 3
    for hit in hits:
        assert decode_log(hit.log, hit.raw)[0]["words"] == [hit.record.address]
    loaded.close()
