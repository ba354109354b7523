"""Places in files that processes execute: every process is caught, from its first instruction."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dprobed.kernel.abi import Kind, State
from dprobed.program.exits import EXCEPTION
from dprobed.record.log import decode_log
from tests.kernel.device import (
    CLOSE,
    O_WRONLY,
    WRITE,
    Device,
    KernelProgram,
    address_of,
    check,
    path,
)
from tests.kernel.machine import AREA, Machine, called, result_of, written
from tests.kernel.test_bridge import kernel_program

NAME: Final = "/tmp/brief"
O_CREAT, UNLINK = 0o100, 87
#: It ends with its second instruction but one, and has no time for anything else.
SOURCE: Final = """
.globl _start
_start: mov $60, %eax
 mov $7, %edi
 syscall
"""
TIMES: Final = 20


def entry_of(elf: bytes) -> int:
    """Where in the file the first instruction is that the program executes."""
    (entry, table) = struct.unpack_from("<2Q", elf, 24)
    size, count = struct.unpack_from("<2H", elf, 54)
    for n in range(count):
        kind, _, offset, start, _, length = struct.unpack_from("<2I4Q", elf, table + n * size)
        if kind == 1 and start <= entry < start + length:
            return int(offset + entry - start)
    raise AssertionError("it has no entry")


def assembled(source: str, to: Path) -> Path:
    """An executable of that, and nothing else."""
    command = ["gcc", "-nostdlib", "-static", "-x", "assembler", "-", "-o", str(to)]
    subprocess.run(command, input=source, text=True, check=True)
    return to


@pytest.fixture
def entry(machine: Machine, tmp_path: Path) -> Iterator[int]:
    """A program in the machine that ends at once: where its entry is in its file."""
    data = assembled(SOURCE, tmp_path / "brief").read_bytes()
    machine.write(AREA, NAME.encode() + b"\0")
    fd = check(machine.call(2, AREA, O_CREAT | O_WRONLY, 0o755))
    writing = called(WRITE, fd, AREA, len(data))
    assert result_of(machine.exchange(written(AREA, data), writing)) == len(data)
    check(machine.call(CLOSE, fd))
    yield entry_of(data)
    machine.write(AREA, NAME.encode() + b"\0")
    check(machine.call(UNLINK, AREA))


def _placed(device: Device, entry: int, text: str, probe: str = "") -> KernelProgram:
    loaded = device.load(kernel_program(text, probe=probe))
    fd = check(path(device.machine, NAME, 0))
    loaded.attach("", kind=Kind.FILE, offset=entry, length=fd)
    # The descriptor is needed for that only.
    check(device.machine.call(CLOSE, fd))
    return loaded


def test_every_process_is_caught(machine: Machine, device: Device, entry: int) -> None:
    loaded = _placed(device, entry, "push pid\nlog 1")
    assert loaded.query().address == entry
    for _ in range(TIMES):
        assert machine.run(NAME) == (7, "")
    query = loaded.query()
    assert (query.state, query.hits, query.runs, query.missed) == (State.ACTIVE, TIMES, TIMES, 0)
    found = loaded.read()
    pids = [decode_log(hit.log, hit.raw)[0]["words"] for hit in found]
    assert [[hit.record.pid] for hit in found] == pids
    assert len({hit.record.pid for hit in found}) == TIMES
    assert {bytes(hit.record.comm).rstrip(b"\0") for hit in found} == {b"brief"}
    loaded.close()
    assert machine.run(NAME) == (7, "")


def test_its_registers_and_memory(machine: Machine, device: Device, entry: int) -> None:
    # The stack of a process that begins: how many arguments it has.
    loaded = _placed(device, entry, "push r,rsp\npush mem,u64\npush r,rip\npush 4095\nand\nlog 2")
    assert machine.run(NAME, "one", "two") == (7, "")
    (hit,) = loaded.read()
    assert decode_log(hit.log, hit.raw) == [{"words": [entry & 4095, 3]}]
    loaded.close()


@pytest.mark.parametrize("text", ["push {}\npush mem,u8\nlog 1", "push 4\npush {}\nlog mrf"])
def test_the_memory_of_the_kernel_is_not_its(
    machine: Machine, device: Device, entry: int, text: str
) -> None:
    address = address_of(machine, "linux_banner")
    loaded = _placed(device, entry, text.format(address))
    assert machine.run(NAME) == (7, "")
    (hit,) = loaded.read()
    assert hit.record.exit == EXCEPTION
    assert b"Linu" not in hit.log
    loaded.close()


@pytest.mark.parametrize(
    ("text", "probe", "ended", "runs"),
    [("exit", "max_hits = 2", State.DISABLED, 2), ("rem", "", State.REMOVED, 1)],
)
def test_one_that_ends(
    machine: Machine,
    device: Device,
    entry: int,
    text: str,
    probe: str,
    ended: State,
    runs: int,
) -> None:
    loaded = _placed(device, entry, text, probe)
    for _ in range(3):
        assert machine.run(NAME) == (7, "")
    while loaded.query().address:
        pass
    query = loaded.query()
    assert (query.state, query.runs) == (ended, runs)
    loaded.close()
