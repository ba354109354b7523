"""``/dev/dprobes`` of a virtual machine, as the tests use it."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from dprobed.kernel.abi import (
    ARRAYS,
    REQUESTS,
    Attach,
    Kind,
    Load,
    Query,
    Record,
    Refusal,
    State,
    Stats,
    Vars,
    load_arrays,
    load_header,
)
from dprobed.program.exec.lowering import facility_numbers
from dprobed.program.model import Program
from tests.kernel.machine import AREA, Machine, called, drained, fetched, result_of, written

#: System calls of x86-64.
READ, WRITE, OPEN, CLOSE, POLL, IOCTL, GETPPID, KILL = 0, 1, 2, 3, 7, 16, 110, 62
FINIT_MODULE, DELETE_MODULE = 313, 176
O_WRONLY, O_RDWR, O_NONBLOCK = 1, 2, 0o4000
RING: Final = 1 << 16

_Struct = TypeVar("_Struct", bound=ctypes.Structure)


@dataclass
class Hit:
    """A record, taken apart."""

    record: Record
    raw: tuple[int, ...]
    log: bytes


class RefusedError(Exception):
    """The module has refused the program."""

    def __init__(self, reason: Refusal, where: int) -> None:
        super().__init__(reason, where)
        self.reason = reason
        self.where = where


def path(machine: Machine, name: str, flags: int) -> int:
    """Open a file of the machine."""
    opening = called(OPEN, AREA, flags)
    return result_of(machine.exchange(written(AREA, name.encode() + b"\0"), opening))


def check(result: int) -> int:
    """The result of a system call; raises OSError where it failed."""
    if result < 0:
        raise OSError(-result, errno.errorcode.get(-result, "?"))
    return result


def ioctl(machine: Machine, fd: int, name: str, argument: _Struct, *behind: bytes) -> int:
    """Make the request with ``argument``, which is read back; ``behind`` it lie other bytes."""
    data = b"".join((bytes(argument), *behind))
    size = ctypes.sizeof(argument)
    answer = machine.exchange(
        written(AREA, data),
        called(IOCTL, fd, REQUESTS[name], AREA),
        fetched(AREA, size),
    )
    ctypes.memmove(ctypes.addressof(argument), answer[8 : 8 + size], size)
    return result_of(answer)


def loading(
    program: Program,
    facilities: dict[str, int],
    symbols: Sequence[int],
    ring: int = RING,
) -> tuple[Load, bytes]:
    """The argument of DPROBES_LOAD, and what has to lie behind it in memory."""
    load = load_header(program, ring)
    arrays = load_arrays(
        program,
        facility_numbers(program, facilities),
        symbols or [0] * len(program.names),
    )
    at = AREA + ctypes.sizeof(load)
    behind = b""
    for name, data in zip(ARRAYS, arrays, strict=True):
        behind += bytes(-len(behind) % 8)
        setattr(load, name, at + len(behind))
        behind += data
    return load, behind


class KernelProgram:
    """A program that is loaded."""

    def __init__(self, machine: Machine, fd: int) -> None:
        self.machine = machine
        self.fd = fd

    def ioctl(self, name: str, argument: _Struct, *behind: bytes) -> _Struct:
        """Make a request; raises OSError."""
        check(ioctl(self.machine, self.fd, name, argument, *behind))
        return argument

    def attach(
        self,
        symbol: str,
        *,
        probe: int = 0,
        offset: int = 0,
        kind: Kind = Kind.CODE,
        length: int = 0,
    ) -> None:
        """Place a probe."""
        argument = attaching(symbol, probe=probe, offset=offset, kind=kind, length=length)
        self.ioctl("DPROBES_ATTACH", argument)

    def watch(self, kind: Kind, address: int, length: int, *, probe: int = 0) -> None:
        """Place a watchpoint."""
        argument = Attach(probe=probe, kind=kind, address=address, length=length)
        self.ioctl("DPROBES_ATTACH", argument)

    def query(self, probe: int = 0) -> Query:
        """State and counts of a probe."""
        return self.ioctl("DPROBES_QUERY", Query(probe=probe))

    def state(self, probe: int = 0) -> State:
        """Its state."""
        return State(self.query(probe).state)

    def stats(self) -> Stats:
        """Counts of its records."""
        return self.ioctl("DPROBES_STATS", Stats())

    def get_vars(self, first: int, count: int, *, global_: bool = False) -> list[int]:
        """Variables."""
        at = AREA + ctypes.sizeof(Vars)
        self.ioctl("DPROBES_GETVARS", Vars(global_, first, count, 0, at))
        return list(struct.unpack(f"<{count}Q", self.machine.read(at, 8 * count)))

    def set_vars(self, first: int, words: Sequence[int], *, global_: bool = False) -> None:
        """Set variables."""
        at = AREA + ctypes.sizeof(Vars)
        data = struct.pack(f"<{len(words)}Q", *words)
        self.ioctl("DPROBES_SETVARS", Vars(global_, first, len(words), 0, at), data)

    def read(self, room: int = RING) -> list[Hit]:
        """The records that are there; waits for the first one."""
        answer = self.machine.exchange(drained(self.fd, room))
        return list(hits(answer[8 : 8 + check(result_of(answer))]))

    def ready(self, milliseconds: int = 0) -> bool:
        """Whether there is a record, at the latest after that time."""
        answer = self.machine.exchange(
            written(AREA, struct.pack("<iHH", self.fd, 1, 0)), called(POLL, AREA, 1, milliseconds)
        )
        return check(result_of(answer)) > 0

    def close(self) -> None:
        """Close its descriptor."""
        check(self.machine.call(CLOSE, self.fd))


def attaching(symbol: str, **fields: int) -> Attach:
    """The argument of DPROBES_ATTACH."""
    argument = Attach(**fields)
    data = symbol.encode()
    ctypes.memmove(ctypes.addressof(argument) + Attach.symbol.offset, data, len(data))
    return argument


def hits(data: bytes) -> list[Hit]:
    """The records in what was read."""
    found = []
    while data:
        record = Record.from_buffer_copy(data)
        at = ctypes.sizeof(Record)
        raw_end = at + 4 * record.raw_count
        raw = struct.unpack(f"<{2 * record.raw_count}H", data[at:raw_end])
        assert record.size % 8 == 0
        assert not any(data[raw_end + record.log_size : record.size])
        found.append(Hit(record, raw, data[raw_end : raw_end + record.log_size]))
        data = data[record.size :]
    return found


def insert_module(machine: Machine, options: str = "", name: str = "dprobes") -> None:
    """Load a module; raises OSError."""
    fd = check(path(machine, f"/{name}.ko", 0))
    text = written(AREA, options.encode() + b"\0")
    result = result_of(machine.exchange(text, called(FINIT_MODULE, fd, AREA, 0)))
    check(machine.call(CLOSE, fd))
    check(result)


def remove_module(machine: Machine, name: str = "dprobes") -> int:
    """Remove it, if nobody uses it."""
    removing = called(DELETE_MODULE, AREA, O_NONBLOCK)
    return result_of(machine.exchange(written(AREA, name.encode() + b"\0"), removing))


def write_text(machine: Machine, name: str, text: str) -> None:
    """Write a file of the machine."""
    fd = check(path(machine, name, O_WRONLY))
    data = text.encode()
    writing = called(WRITE, fd, AREA, len(data))
    check(result_of(machine.exchange(written(AREA, data), writing)))
    check(machine.call(CLOSE, fd))


def address_of(machine: Machine, symbol: str) -> int:
    """Where a symbol is; raises where there is none of that name, or several."""
    count, line = machine.look_for("/proc/kallsyms", f" {symbol}\n")
    if count == 0:
        count, line = machine.look_for("/proc/kallsyms", f" {symbol}\t")
    assert count == 1, (symbol, count)
    return int(line, 16)


def text_of(machine: Machine, name: str) -> str:
    """What is in a file of the machine."""
    fd = check(path(machine, name, 0))
    text = b""
    while True:
        answer = machine.exchange(drained(fd, 65536))
        size = check(result_of(answer))
        if not size:
            break
        text += answer[8 : 8 + size]
    check(machine.call(CLOSE, fd))
    return text.decode()


class Device:
    """An open ``/dev/dprobes``."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.fd = check(path(machine, "/dev/dprobes", O_RDWR))

    def load(self, program: Program, ring: int = RING, **more: Any) -> KernelProgram:
        """Load a program; raises RefusedError, OSError."""
        load, behind = loading(
            program, more.get("facilities", {}), more.get("symbols", ()), ring=ring
        )
        result = ioctl(self.machine, self.fd, "DPROBES_LOAD", load, behind)
        if result == -errno.EBADMSG:
            raise RefusedError(Refusal(load.refused), load.where)
        return KernelProgram(self.machine, check(result))

    def close(self) -> None:
        """Close it."""
        check(self.machine.call(CLOSE, self.fd))
