"""Requests that cannot be right: the exact error for each field, and nothing has changed."""

from __future__ import annotations

import ctypes
import errno

import pytest

from dprobed.kernel.abi import ARRAYS, REQUESTS, Attach, Kind, Load, Query, Refusal, State, Vars
from dprobed.program.isa import BY_KEY, encode_one
from dprobed.program.registers import REGISTER_INDEX
from tests.kernel.device import (
    CLOSE,
    GETPPID,
    IOCTL,
    O_RDWR,
    READ,
    RING,
    Device,
    KernelProgram,
    RefusedError,
    address_of,
    attaching,
    check,
    ioctl,
    loading,
    path,
    text_of,
)
from tests.kernel.machine import AREA, Machine, called, written
from tests.kernel.test_bridge import PLACE, kernel_program

#: Not an address of the agent.
BAD = 0xDEAD000
SETRESUID, CHMOD = 117, 90
NOBODY = (1 << 64) - 1
#: Where a watchpoint could be: the direct map of all memory begins there, wherever it does.
DATA = 0xFFFF888000000000
#: Fixed (Documentation/x86/x86_64/mm.rst).
CPU_ENTRY_AREA = 0xFFFFFE0000000000

GOOD = kernel_program("push 1\nlog i32 x\nexit mine", "vars = 2\ngvars = 3\nmap = n, count")
FACILITIES = {"mine": 9}


def _references(machine: Machine) -> str:
    """How often the module is used."""
    return text_of(machine, "/sys/module/dprobes/refcnt")


HEADER = {
    "flags": 2, "major": 0, "vars": 257, "gvars": 257, "jmpmax": 1 << 31, "logmax": 65537,
    "ex_logmax": 65537, "code_size": 65537, "probe_count": 10001, "facility_count": 257,
    "name_count": 257, "map_count": 17,
}  # fmt: skip
LOADS = [
    *((field, value, errno.EBADMSG, Refusal.BAD_HEADER) for field, value in HEADER.items()),
    *((field, 0, errno.EBADMSG, Refusal.BAD_HEADER) for field in ("code_size", "probe_count")),
    *(("modtype", value, errno.EBADMSG, Refusal.BAD_MODTYPE) for value in (0, 1, 3, 8)),
    *(("ring", value, errno.EINVAL, None) for value in (0, 2048, 6000, 32 << 20)),
    *((field, BAD, errno.EFAULT, None) for field in ARRAYS),
]


@pytest.mark.parametrize(("field", "value", "error", "reason"), LOADS)
def test_load(
    machine: Machine,
    device: Device,
    field: str,
    value: int,
    error: int,
    reason: Refusal | None,
) -> None:
    before = _references(machine)
    load, behind = loading(GOOD, FACILITIES, ())
    setattr(load, field, value)
    assert ioctl(machine, device.fd, "DPROBES_LOAD", load, behind) == -error
    if reason is not None:
        where = value if field == "modtype" else getattr(Load, field).offset
        assert (Refusal(load.refused), load.where) == (reason, where)
    assert _references(machine) == before


def refused(device: Device, code: bytes, **probe: int) -> tuple[Refusal, int]:
    """How a program with that code is refused; ``probe``: fields of its probe."""
    load, behind = loading(GOOD, FACILITIES, ())
    at = ctypes.sizeof(load) + len(behind)
    load.code, load.code_size = AREA + at, len(code)
    fields = {"entry": 0, "end": len(code), "minor": 1, **probe}
    words = [fields.get(name, 0) for name in ("entry", "end", "heap", "pass_count", "max_hits")]
    data = b"".join(word.to_bytes(4, "little") for word in words)
    data += fields["minor"].to_bytes(2, "little") + b"\xff\x0f"
    data += fields.get("split", 0).to_bytes(4, "little")
    place = load.probes - AREA - ctypes.sizeof(load)
    behind = behind[:place] + data + behind[place + len(data) :]
    result = ioctl(device.machine, device.fd, "DPROBES_LOAD", load, behind, code)
    assert result == -errno.EBADMSG
    return Refusal(load.refused), load.where


def code_of(*instructions: tuple[str, int] | str) -> bytes:
    """The code of these instructions, each with its operand if it has one."""
    pairs = [(each, ()) if isinstance(each, str) else (each[0], each[1:]) for each in instructions]
    return b"".join(encode_one(BY_KEY[key], operands) for key, operands in pairs)


CODES = [
    (b"\x0d\xff", Refusal.UNKNOWN_OPCODE, 1),
    (b"\x00\x4c\x00", Refusal.CUT_SHORT, 1),
    (code_of(("push lv,index", 2), "exit"), Refusal.BAD_OPERAND, 0),
    (code_of("nop", ("push gv,index", 3), "exit"), Refusal.BAD_OPERAND, 1),
    (code_of(("exit facility", 1)), Refusal.BAD_OPERAND, 0),
    (code_of(("push addr,symbol", 1), "exit"), Refusal.BAD_OPERAND, 0),
    (code_of(("jmp label", 2)), Refusal.BAD_JUMP, 0),
    (code_of(("jmp label", 500)), Refusal.BAD_JUMP, 0),
    (code_of("exit", "nop"), Refusal.RUNS_PAST_END, 1),
    (code_of("suspend", "exit"), Refusal.NO_HOLD, 0),
    (code_of(("push tls,symbol", 0), "exit"), Refusal.NO_TLS, 0),
    (code_of("vfy rw", "exit"), Refusal.NO_WRITE_CHECK, 0),
    (code_of("callk", "exit"), Refusal.NO_ALTER, 0),
    (code_of("log ustack", "exit"), Refusal.NO_USTACK, 0),
    (code_of("key ustack", ("minc map", 0), "exit"), Refusal.NO_USTACK, 0),
    (code_of(("log kstack,depth", 0), "exit"), Refusal.BAD_OPERAND, 0),
    (code_of(("minc map", 1), "exit"), Refusal.BAD_OPERAND, 0),
    (code_of(("push word", 1), ("key count", 1), "exit"), Refusal.BAD_KEY, 11),
    (code_of("push io,u8", "exit"), Refusal.NO_ALTER, 0),
    (code_of("pop io,u32", "exit"), Refusal.NO_ALTER, 0),
    (code_of(("push u,register", REGISTER_INDEX["cr0"]), "exit"), Refusal.BAD_OPERAND, 0),
    (code_of("pop mem,u8", "exit"), Refusal.NO_ALTER, 0),
    (code_of(("pop r,register", 0), "exit"), Refusal.NO_ALTER, 0),
]


@pytest.mark.parametrize(("code", "reason", "where"), CODES)
def testcode_of(device: Device, code: bytes, reason: Refusal, where: int) -> None:
    assert refused(device, code) == (reason, where)


@pytest.mark.parametrize(
    "fields",
    [
        {"entry": 1},
        {"end": 3},
        {"end": 0},
        {"minor": 0},
        {"heap": (1 << 20) + 1},
        {"pass_count": 1 << 31},
        {"max_hits": 1 << 31},
        # of what returns: behind its end
        {"split": 2},
    ],
)
def test_probe(device: Device, fields: dict[str, int]) -> None:
    assert refused(device, code_of("exit"), **fields) == (Refusal.BAD_PROBE, 0)


@pytest.mark.parametrize(
    ("array", "data", "reason"),
    [
        ("facilities", b"\0\0", Refusal.BAD_FACILITY),
        # no letter first, a longer one than there is room for
        ("names", b"\x01" + b"1".ljust(63, b"\0"), Refusal.BAD_NAME),
        ("names", b"\x40" + b"x" * 63, Refusal.BAD_NAME),
    ],
)
def test_what_the_addresses_lead_to(
    device: Device, array: str, data: bytes, reason: Refusal
) -> None:
    load, behind = loading(GOOD, FACILITIES, ())
    place = getattr(load, array) - AREA - ctypes.sizeof(load)
    behind = behind[:place] + data + behind[place + len(data) :]
    assert ioctl(device.machine, device.fd, "DPROBES_LOAD", load, behind) == -errno.EBADMSG
    assert (Refusal(load.refused), load.where) == (reason, 0)


@pytest.fixture
def loaded(device: Device) -> KernelProgram:
    """A program that is loaded, and not placed."""
    return device.load(GOOD, facilities=FACILITIES)


def _watching(**fields: int) -> Attach:
    return Attach(**{"kind": Kind.WATCH_W, "address": DATA, "length": 8, **fields})


def _unterminated() -> Attach:
    return attaching("x" * 128)


ATTACHES = [
    (attaching(PLACE, probe=1), errno.EINVAL),
    (attaching(PLACE, pad=1), errno.EINVAL),
    (attaching(PLACE, kind=len(Kind)), errno.EINVAL),
    (attaching(PLACE, kind=Kind.HOOK, offset=1), errno.EINVAL),
    (attaching(PLACE, kind=Kind.HOOK, address=DATA), errno.EINVAL),
    (attaching(PLACE, kind=Kind.HOOK, length=1), errno.EINVAL),
    (attaching("x" * 128, kind=Kind.HOOK), errno.EINVAL),
    (attaching("", kind=Kind.HOOK), errno.EINVAL),
    (attaching("no_such_hook", kind=Kind.HOOK), errno.ENOENT),
    (attaching(PLACE, kind=Kind.FILE, offset=1), errno.EINVAL),
    (attaching("", kind=Kind.FILE), errno.EINVAL),
    (attaching("", kind=Kind.FILE, offset=1, address=DATA), errno.EINVAL),
    (attaching("", kind=Kind.FILE, offset=1, length=1000), errno.EBADF),
    # That is the serial line of the tests.
    (attaching("", kind=Kind.FILE, offset=1, length=3), errno.EINVAL),
    (attaching(PLACE, kind=Kind.LEAVE, offset=1), errno.EINVAL),
    (attaching(PLACE, kind=Kind.LEAVE, address=DATA), errno.EINVAL),
    (attaching(PLACE, kind=Kind.LEAVE, length=1), errno.EINVAL),
    (attaching("", kind=Kind.LEAVE), errno.EINVAL),
    (attaching("x" * 128, kind=Kind.LEAVE), errno.EINVAL),
    (attaching("no_such_function", kind=Kind.LEAVE), errno.ENOENT),
    (attaching("exc_page_fault", kind=Kind.LEAVE), errno.EADDRNOTAVAIL),
    (attaching("dprobes:dpb_load", kind=Kind.LEAVE), errno.EACCES),
    (attaching("task_rename", kind=Kind.TRACEPOINT, offset=1), errno.EINVAL),
    (attaching("task_rename", kind=Kind.TRACEPOINT, address=DATA), errno.EINVAL),
    (attaching("task_rename", kind=Kind.TRACEPOINT, length=1), errno.EINVAL),
    (attaching("", kind=Kind.TRACEPOINT), errno.EINVAL),
    (attaching("x" * 128, kind=Kind.TRACEPOINT), errno.EINVAL),
    (attaching("no_such_tracepoint", kind=Kind.TRACEPOINT), errno.ENOENT),
    (attaching("dpsample:task_rename", kind=Kind.TRACEPOINT), errno.ENOENT),
    (attaching(PLACE, kind=Kind.WATCH_W), errno.EINVAL),
    (attaching(PLACE, address=DATA), errno.EINVAL),
    (attaching(PLACE, length=1), errno.EINVAL),
    (attaching(PLACE, offset=1 << 32), errno.EINVAL),
    (attaching(""), errno.EINVAL),
    (_unterminated(), errno.EINVAL),
    (attaching(PLACE, offset=1), errno.EILSEQ),
    (attaching("no_such_function"), errno.ENOENT),
    (attaching("dprobes:no_such_function"), errno.ENOENT),
    # no module can come that is called so, no function be called so
    (attaching(":function"), errno.ENOENT),
    (attaching(f"{'m' * 56}:function"), errno.ENOENT),
    (attaching("no_such_module:"), errno.ENOENT),
    # what the kernel itself excludes, and what we do
    (attaching("exc_page_fault"), errno.EADDRNOTAVAIL),
    (attaching("dprobes:dp_run"), errno.EADDRNOTAVAIL),
    (attaching("dprobes:dpb_load"), errno.EACCES),
    (_watching(probe=1), errno.EINVAL),
    (_watching(pad=1), errno.EINVAL),
    (_watching(offset=1), errno.EINVAL),
    *((_watching(length=length), errno.EINVAL) for length in (0, 3, 16, 0xFFFFFFFF)),
    (_watching(kind=Kind.WATCH_X, length=8), errno.EINVAL),
    (_watching(address=DATA + 4), errno.EINVAL),
    # of a process, and nobody's
    (_watching(address=AREA), errno.EINVAL),
    (_watching(address=0x7FFFFFFFF000), errno.EINVAL),
    (_watching(address=0x8000000000000000), errno.EINVAL),
    # what the kernel needs to serve one
    (_watching(address=CPU_ENTRY_AREA), errno.EADDRNOTAVAIL),
]


@pytest.mark.parametrize(("argument", "error"), ATTACHES)
def test_attach(machine: Machine, loaded: KernelProgram, argument: Attach, error: int) -> None:
    assert ioctl(machine, loaded.fd, "DPROBES_ATTACH", argument) == -error
    assert loaded.query().address == 0
    assert loaded.state() is State.COMPILED
    loaded.attach(PLACE)
    assert loaded.state() is State.ACTIVE
    loaded.close()


def test_attach_twice(machine: Machine, loaded: KernelProgram) -> None:
    loaded.attach(PLACE)
    assert ioctl(machine, loaded.fd, "DPROBES_ATTACH", attaching(PLACE)) == -errno.EBUSY
    assert loaded.state() is State.ACTIVE
    loaded.close()


def test_a_place_behind_the_end_of_a_file(machine: Machine, loaded: KernelProgram) -> None:
    fd = check(path(machine, "/init", 0))
    # The last one is negative for the kernel, which would place it before the beginning.
    for offset, error in ((1 << 40, errno.EADDRNOTAVAIL), ((1 << 64) - 1, errno.EINVAL)):
        argument = attaching("", kind=Kind.FILE, offset=offset, length=fd)
        assert ioctl(machine, loaded.fd, "DPROBES_ATTACH", argument) == -error
        assert (loaded.state(), loaded.query().address) == (State.COMPILED, 0)
    check(machine.call(CLOSE, fd))
    loaded.close()


@pytest.mark.parametrize(
    ("vars_", "error"),
    [
        (Vars(2, 0, 1, 0, AREA), errno.EINVAL),
        (Vars(0, 0, 1, 1, AREA), errno.EINVAL),
        (Vars(0, 3, 0, 0, AREA), errno.EINVAL),
        (Vars(0, 1, 2, 0, AREA), errno.EINVAL),
        (Vars(0, 1, 0xFFFFFFFF, 0, AREA), errno.EINVAL),
        (Vars(1, 3, 1, 0, AREA), errno.EINVAL),
        (Vars(0, 0, 2, 0, BAD), errno.EFAULT),
    ],
)
def test_vars(machine: Machine, loaded: KernelProgram, vars_: Vars, error: int) -> None:
    loaded.set_vars(0, [5, 6])
    assert ioctl(machine, loaded.fd, "DPROBES_GETVARS", vars_) == -error
    assert ioctl(machine, loaded.fd, "DPROBES_SETVARS", vars_) == -error
    assert loaded.get_vars(0, 2) == [5, 6]
    assert loaded.get_vars(0, 3, global_=True) == [0, 0, 0]
    loaded.close()


@pytest.mark.parametrize("query", [Query(probe=1), Query(pad=1)])
def test_query(machine: Machine, loaded: KernelProgram, query: Query) -> None:
    assert ioctl(machine, loaded.fd, "DPROBES_QUERY", query) == -errno.EINVAL
    loaded.close()


@pytest.mark.parametrize(
    ("place", "kind"),
    [("dpb_device", Kind.WATCH_W), ("dpb_load", Kind.WATCH_X), ("exc_page_fault", Kind.WATCH_X)],
)
def test_watching_what_serves_watchpoints(
    machine: Machine, loaded: KernelProgram, place: str, kind: Kind
) -> None:
    error = errno.EADDRNOTAVAIL if place == "exc_page_fault" else errno.EACCES
    watch = _watching(kind=kind, address=address_of(machine, place), length=1)
    assert ioctl(machine, loaded.fd, "DPROBES_ATTACH", watch) == -error
    assert (loaded.state(), loaded.query().address) == (State.COMPILED, 0)
    loaded.close()


def test_a_watchpoint_with_a_symbol(machine: Machine, loaded: KernelProgram) -> None:
    for at in (0, 127):
        watch = _watching()
        watch.symbol[at] = 1
        assert ioctl(machine, loaded.fd, "DPROBES_ATTACH", watch) == -errno.EINVAL
    loaded.close()


def test_addresses_and_requests_that_are_none(machine: Machine, loaded: KernelProgram) -> None:
    device = check(path(machine, "/dev/dprobes", O_RDWR))
    for name, number in REQUESTS.items():
        own = name in ("DPROBES_VERSION", "DPROBES_LOAD")
        here, there = (device, loaded.fd) if own else (loaded.fd, device)
        if name != "DPROBES_DETACH":  # It takes no address.
            assert machine.call(IOCTL, here, number, BAD) == -errno.EFAULT, name
        assert machine.call(IOCTL, there, number, AREA) == -errno.ENOTTY, name
    assert machine.call(IOCTL, loaded.fd, 0x5401, AREA) == -errno.ENOTTY
    check(machine.call(CLOSE, device))
    loaded.close()


def test_who_is_not_root_may_do_nothing(machine: Machine, loaded: KernelProgram) -> None:
    loaded.attach(PLACE)
    machine.exchange(written(AREA, b"/dev/dprobes\0"), called(CHMOD, AREA, 0o666))
    check(machine.call(SETRESUID, NOBODY, 1000, NOBODY))
    try:
        assert path(machine, "/dev/dprobes", O_RDWR) == -errno.EPERM
        for number in REQUESTS.values():
            assert machine.call(IOCTL, loaded.fd, number, AREA) == -errno.EPERM
    finally:
        check(machine.call(SETRESUID, NOBODY, 0, NOBODY))
    machine.exchange(written(AREA, b"/dev/dprobes\0"), called(CHMOD, AREA, 0o600))
    loaded.close()


def test_a_read_without_room_takes_nothing(machine: Machine, loaded: KernelProgram) -> None:
    loaded.attach(PLACE)
    check(machine.call(GETPPID))
    assert machine.call(READ, loaded.fd, AREA, 100) == -errno.EMSGSIZE
    assert machine.call(READ, loaded.fd, BAD, RING) == -errno.EFAULT
    assert len(loaded.read()) == 1
    loaded.close()


def test_a_refused_program_says_why(device: Device) -> None:
    program = kernel_program("nop\npush r,xmm0\nlog 2")
    with pytest.raises(RefusedError) as caught:
        device.load(program)
    assert (caught.value.reason, caught.value.where) == (Refusal.NO_FPU, 1)
