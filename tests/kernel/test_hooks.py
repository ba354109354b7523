"""Hooks and exits: of other modules, and of probe programs."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from dprobed.kernel.abi import Kind, State
from dprobed.program.exceptions import OPERAND_HOOK, ExCode
from dprobed.record.log import decode_log
from tests.kernel.device import (
    CLOSE,
    GETPPID,
    KILL,
    O_WRONLY,
    Device,
    address_of,
    check,
    insert_module,
    path,
    remove_module,
    text_of,
    write_text,
)
from tests.kernel.machine import AREA, Machine
from tests.kernel.test_bridge import kernel_program

HOOKS: Final = "/proc/dprobes/hooks"
#: Beside `RUN`, where one command waits for the other.
FIRE: Final = "/proc/dpexits"
RUN: Final = "/sys/module/dpexits/parameters/run"
PWRITE, WAIT4, SIGKILL = 18, 61, 9
ORDER: Final = "/sys/module/dpexits/parameters/order"
SLOW: Final = "/sys/module/dpexits/parameters/slow"
POST: Final = "/sys/module/dprobes_ledger/parameters/post"
FIRST, LIFO, LAST, PROC = 1, 2, 4, 8
RETURN, CONTINUE, TERMINATE = -1, 0, 1


def hook(machine: Machine, name: str) -> tuple[str, list[str]]:
    """What /proc says of a hook, and of its exits."""
    lines = text_of(machine, HOOKS).splitlines()
    at = next(n for n, line in enumerate(lines) if line.split()[1] == name)
    exits = []
    for line in lines[at + 1 :]:
        if not line.startswith("  "):
            break
        exits.append(line.strip())
    return lines[at], exits


@contextmanager
def ledger(machine: Machine) -> Iterator[None]:
    """The two samples are there."""
    insert_module(machine, name="dprobes_ledger")
    insert_module(machine, name="dprobes_audit")
    try:
        yield
    finally:
        check(remove_module(machine, "dprobes_audit"))
        check(remove_module(machine, "dprobes_ledger"))


@pytest.fixture
def exits(machine: Machine) -> Iterator[Callable[[str], None]]:
    """What gives ``dpexits`` a command; raises OSError."""
    insert_module(machine, name="dpexits")
    yield lambda command: write_text(machine, RUN, command)
    check(remove_module(machine, "dpexits"))
    assert "dpexits" not in text_of(machine, HOOKS)


@contextmanager
def fired(machine: Machine) -> Iterator[None]:
    """The other processor comes to the hooks all the time, commands or not."""
    fd = check(path(machine, FIRE, O_WRONLY))
    machine.run_on(1)
    pid = check(machine.for_ever(PWRITE, fd, AREA + 4096, 1, 0))
    machine.run_on(0)
    yield
    check(machine.call(KILL, pid, SIGKILL))
    check(machine.call(WAIT4, pid, 0, 0, 0))
    check(machine.call(CLOSE, fd))


def ran(machine: Machine, command: str) -> str:
    """The exits that run at a command, in their order."""
    write_text(machine, RUN, command)
    return text_of(machine, ORDER).strip()


def named(machine: Machine, name: str) -> list[str]:
    """The exits of a hook, in their order."""
    return [line.split()[1] for line in hook(machine, name)[1]]


def counts(machine: Machine) -> dict[str, int]:
    """What ``dpexits`` has counted."""
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", text_of(machine, RUN))}


def exit_hits(machine: Machine) -> list[int]:
    """How often each exit of the plain hook was called."""
    lines = hook(machine, "dpexits_plain")[1]
    return [int(line.split("hits=")[1].split()[0]) for line in lines]


def test_an_exit_of_another_module(machine: Machine) -> None:
    with ledger(machine):
        write_text(machine, POST, "1 2 50")
        assert hook(machine, "ledger_posted")[0].split()[1:] == [
            "ledger_posted",
            "hits=0",
            "missed=0",
        ]
        # Its module stays while the exit of the other is there.
        assert remove_module(machine, "dprobes_ledger") == -errno.EAGAIN
        write_text(machine, HOOKS, "1 ledger_post/limit ledger_posted/volume\n")
        write_text(machine, POST, "1 2 50")
        with pytest.raises(OSError, match="EPERM"):
            write_text(machine, POST, "1 2 6000")
        write_text(machine, POST, "2 1 7")
        head, exits = hook(machine, "ledger_posted")
        assert " hits=2 missed=0" in head
        assert exits == ["1 volume armed=1 hits=2 proc"]
        assert text_of(machine, "/sys/module/dprobes_audit/parameters/volume") == "57\n"
        assert hook(machine, "ledger_post")[1] == ["1 limit armed=1 hits=3 first proc"]
        write_text(machine, HOOKS, "0 ledger_post/limit")
        write_text(machine, POST, "1 2 6000")
        assert hook(machine, "ledger_post")[1] == ["1 limit armed=0 hits=3 first proc"]
    assert text_of(machine, HOOKS) == ""


def test_order(machine: Machine, exits: Callable[[str], None]) -> None:
    plain = "dpexits_plain"
    for number, flags in enumerate((0, LAST, 0, FIRST, LIFO, 0, LIFO)):
        exits(f"add {number} {plain} {flags} {CONTINUE} 0")
    assert named(machine, plain) == ["three", "six", "four", "zero", "two", "five", "one"]
    # Registered is not armed.
    assert ran(machine, "fire") == ""
    exits("arm 127")
    assert ran(machine, "fire") == "3640251"
    assert hook(machine, plain)[1][0] == "1 three armed=1 hits=1 first"
    assert hook(machine, plain)[1][6] == "7 one armed=1 hits=1 last"
    exits(f"disarm {1 << 3 | 1 << 0}")
    assert ran(machine, "fire") == "64251"
    exits("del 3")
    exits(f"add 3 {plain} {FIRST} {TERMINATE} 0")
    assert ran(machine, "fire") == "64251"
    exits(f"arm {1 << 3}")
    assert ran(machine, "fire") == "3"


def test_why_one_is_not_registered(machine: Machine, exits: Callable[[str], None]) -> None:
    plain = "dpexits_plain"
    exits(f"add 0 {plain} {FIRST} 0 0")
    exits(f"add 1 {plain} {LAST} 0 0")
    exits("add 2 dpexits_exclusive 0 0 0")
    refused = {
        f"add 3 {plain} {FIRST} 0 0": "EEXIST",
        f"add 3 {plain} {LAST} 0 0": "ENOTUNIQ",
        "add 3 dpexits_exclusive 0 0 0": "EUSERS",
        f"add 3 dpexits_exclusive {LAST} 0 0": "EUSERS",
        "add 3 nobody 0 0 0": "ENOENT",
        f"add 3 {plain} {FIRST | LAST} 0 0": "EINVAL",
        f"add 3 {plain} 16 0 0": "EINVAL",
        f"add 0 {plain} 0 0 0": "EBUSY",
        "del 4": "ENOENT",
        f"arm {1 << 0 | 1 << 4}": "ENOENT",
        "disarm 16": "ENOENT",
        "place nobody_at_all 0 0": "ENOENT",
        "place __x64_sys_getppid 1 0": "EILSEQ",
        f"place __x64_sys_getppid 0 {1 << 5}": "EINVAL",
        "place __x64_sys_getppid 0 4": "EINVAL",
        "place __x64_sys_getppid 4 2": "EINVAL",
        # It would alter what the kernel does.
        "place __x64_sys_getppid 0 2": "EPERM",
        "place dpb_hit 0 0": "EADDRNOTAVAIL",
        "place dpb_load 0 0": "EACCES",
    }
    for command, reason in refused.items():
        with pytest.raises(OSError, match=reason):
            exits(command)
    # Nothing is left of it, and of the set nothing is armed.
    assert hook(machine, plain)[1] == ["1 zero armed=0 hits=0 first", "2 one armed=0 hits=0 last"]
    assert "dpexits_dynamic" not in text_of(machine, HOOKS)
    exits("place __x64_sys_getppid 0 0")
    with pytest.raises(OSError, match="EEXIST"):
        exits("place __x64_sys_getuid 0 0")
    exits("unplace")


def test_the_function_returns(machine: Machine, exits: Callable[[str], None]) -> None:
    exits(f"add 0 dpexits_value 0 {RETURN} -13")
    exits(f"add 1 dpexits_value 0 {CONTINUE} 5")
    exits(f"add 2 dpexits_void 0 {RETURN} 0")
    exits(f"add 3 dpexits_plain 0 {RETURN} 0")
    exits(f"add 4 dpexits_plain 0 {CONTINUE} 0")
    exits("value 0")
    exits("void 10")
    assert counts(machine)["reached"] == 11
    exits("arm 31")
    with pytest.raises(OSError, match="EACCES"):
        ran(machine, "value 0")
    assert text_of(machine, ORDER) == "0\n"
    assert ran(machine, "void 10") == "2"
    assert counts(machine)["reached"] == 11
    # On a hook that was not declared so there are no further exits, and that is all.
    assert ran(machine, "fire") == "3"
    exits("disarm 31")
    exits("value 0")
    assert counts(machine)["reached"] == 12


def test_a_hook_in_an_exit_is_missed(machine: Machine, exits: Callable[[str], None]) -> None:
    exits("add 0 dpexits_plain 0 0 77")
    exits("add 1 dpexits_second 0 0 0")
    exits("arm 3")
    assert ran(machine, "fire") == "0"
    assert hook(machine, "dpexits_second")[0].endswith(" dpexits_second hits=1 missed=1")
    assert hook(machine, "dpexits_second")[1] == ["1 one armed=1 hits=0"]


def test_a_dynamic_hook(machine: Machine, exits: Callable[[str], None]) -> None:
    exits("place __x64_sys_getppid 0 0")
    exits("add 0 dpexits_dynamic 0 0 0")
    machine.call(GETPPID)
    exits("arm 1")
    assert machine.call(GETPPID, count=3) == 0
    head, lines = hook(machine, "dpexits_dynamic")
    assert head.endswith(" dpexits_dynamic hits=3 missed=0 at __x64_sys_getppid+0x0")
    assert lines == ["1 zero armed=1 hits=3"]
    exits("disarm 1")
    machine.call(GETPPID)
    assert hook(machine, "dpexits_dynamic")[1] == ["1 zero armed=0 hits=3"]
    exits("arm 1")
    # Its exits are taken off with it.
    exits("unplace")
    machine.call(GETPPID)
    with pytest.raises(OSError, match="ENOENT"):
        exits("del 0")


@pytest.mark.usefixtures("allowed")
def test_a_function_that_a_dynamic_hook_returns_from(machine: Machine) -> None:
    insert_module(machine, name="dpexits")
    write_text(machine, RUN, "place __x64_sys_getppid 0 2")
    write_text(machine, RUN, f"add 0 dpexits_dynamic 0 {RETURN} 4711")
    assert machine.call(GETPPID) == 0
    write_text(machine, RUN, "arm 1")
    assert machine.call(GETPPID, count=1000) == 4711
    write_text(machine, RUN, "disarm 1")
    assert machine.call(GETPPID) == 0
    write_text(machine, RUN, "del 0")
    write_text(machine, RUN, "unplace")
    # Without a value what the register has stays: here the number of the call.
    write_text(machine, RUN, "place __x64_sys_getppid 0 6")
    write_text(machine, RUN, f"add 0 dpexits_dynamic 0 {RETURN} 4711")
    write_text(machine, RUN, "arm 1")
    assert machine.call(GETPPID) != 4711
    assert hook(machine, "dpexits_dynamic")[1] == ["1 zero armed=1 hits=1"]
    write_text(machine, RUN, "unplace")
    check(remove_module(machine, "dpexits"))


@pytest.mark.parametrize("hook_first", [False, True])
@pytest.mark.parametrize("hook_goes_first", [False, True])
def test_a_program_where_a_function_is_returned_from(
    machine: Machine, allowed: Device, hook_first: bool, hook_goes_first: bool
) -> None:
    insert_module(machine, name="dpexits")
    loaded = allowed.load(kernel_program("abort"))
    if not hook_first:
        loaded.attach("__x64_sys_getppid")
    write_text(machine, RUN, "place __x64_sys_getppid 0 2")
    write_text(machine, RUN, f"add 0 dpexits_dynamic 0 {RETURN} 4711")
    write_text(machine, RUN, "arm 1")
    if hook_first:
        loaded.attach("__x64_sys_getppid")
    assert machine.call(GETPPID, count=3) == 4711
    # The newest is come to first, and whoever was there before it sees no call any more.
    assert loaded.query().hits == (3 if hook_first else 0)
    if hook_goes_first:
        write_text(machine, RUN, "unplace")
        before = loaded.query().hits
        assert machine.call(GETPPID, count=3) == 0
        assert loaded.query().hits == before + 3
        loaded.close()
    else:
        loaded.close()
        assert machine.call(GETPPID, count=3) == 4711
        write_text(machine, RUN, "unplace")
    assert machine.call(GETPPID) == 0
    check(remove_module(machine, "dpexits"))


def test_a_function_that_the_function_tracer_does_not_know(
    machine: Machine, allowed: Device
) -> None:
    """Its breakpoint would be made a jump, which goes on in the function whatever an exit says."""
    insert_module(machine, name="dpexits")
    loaded = allowed.load(kernel_program("abort"))
    loaded.attach("dpexits:dpexits_untraced")
    write_text(machine, RUN, "place dpexits_untraced 0 2")
    write_text(machine, RUN, f"add 0 dpexits_dynamic 0 {RETURN} {-errno.EACCES}")
    write_text(machine, RUN, "untraced 0")
    assert (loaded.query().hits, counts(machine)["reached"]) == (1, 1)
    write_text(machine, RUN, "arm 1")
    for _ in range(3):
        with pytest.raises(OSError, match="EACCES"):
            write_text(machine, RUN, "untraced 0")
    assert counts(machine)["reached"] == 1
    write_text(machine, RUN, "unplace")
    write_text(machine, RUN, "untraced 0")
    assert counts(machine)["reached"] == 2
    loaded.close()
    check(remove_module(machine, "dpexits"))


def test_proc(machine: Machine, exits: Callable[[str], None]) -> None:
    exits(f"add 0 dpexits_plain {PROC} 0 0")
    exits("add 1 dpexits_plain 0 0 0")
    exits(f"add 2 dpexits_exclusive {PROC} 0 0")
    exits(f"add 7 dpexits_second {PROC} 0 0")
    refused = {
        "": "EINVAL",
        "1": "EINVAL",
        "2 dpexits_plain/zero": "EINVAL",
        "1 dpexits_plain": "EINVAL",
        "1 dpexits_plain/none": "ENOENT",
        "1 nobody/zero": "ENOENT",
        "1 dpexits_plain/zero dpexits_plain/one": "EPERM",
        "1 dpexits_plain/zero  dpexits_plain/zero": "EINVAL",
        "1" + " dpexits_plain/zero" * 17: "E2BIG",
        "1" * 5000: "E2BIG",
    }
    for text, reason in refused.items():
        with pytest.raises(OSError, match=reason):
            write_text(machine, HOOKS, text)
    assert "armed=1" not in text_of(machine, HOOKS)
    write_text(machine, HOOKS, "1 dpexits_plain/zero dpexits_plain/zero dpexits_exclusive/two\n")
    assert ran(machine, "fire") == "02"
    write_text(machine, HOOKS, "0 dpexits_plain/zero")
    assert ran(machine, "fire") == "2"
    # One that has no name is called by its address.
    (line,) = hook(machine, "dpexits_second")[1]
    name = line.split()[1]
    assert re.fullmatch("0x[0-9a-f]{16}", name)
    write_text(machine, HOOKS, f"1 dpexits_second/{name}")
    assert hook(machine, "dpexits_second")[1] == [f"1 {name} armed=1 hits=0 proc"]


def test_a_set_is_seen_as_one(machine: Machine, exits: Callable[[str], None]) -> None:
    # One that is armed all the time is between those that are armed together: whoever is in it
    # when they are has passed the one, and comes to the other.
    for number, flags in ((1, 0), (0, 0), (2, 0), (3, LAST)):
        exits(f"add {number} dpexits_plain {flags} 0 0")
    # Wherever a command finds the other processor, that is in an exit.
    write_text(machine, SLOW, "500")
    exits("arm 9")
    with fired(machine):
        for _ in range(15):
            exits("arm 6")
            exits("disarm 6")
        while not exit_hits(machine)[0]:
            exits("arm 6")
            exits("disarm 6")
    assert counts(machine)["torn"] == 0
    one, zero, two, three = exit_hits(machine)
    assert zero == three > 0
    assert one == two
    assert hook(machine, "dpexits_plain")[0].endswith(" missed=0")


def test_taken_off_under_fire(machine: Machine, exits: Callable[[str], None]) -> None:
    write_text(machine, SLOW, "500")
    exits("add 1 dpexits_plain 0 0 0")
    exits("arm 2")
    with fired(machine):
        for _ in range(20):
            exits(f"add 0 dpexits_plain {FIRST} 0 0")
            exits("arm 1")
            exits("del 0")
        # The hook that is left goes on.
        before = hook(machine, "dpexits_plain")[1]
        while hook(machine, "dpexits_plain")[1] == before:
            pass
    assert counts(machine)["late"] == 0


def test_a_program_is_an_exit(machine: Machine, device: Device) -> None:
    text = "push r,rdx\npush r,rsi\npush r,rdi\nlog 3\npush r,rcx\npush mem,u64\nlog i64 first"
    with ledger(machine):
        loaded = device.load(kernel_program(text, "major = 7", "minor = 9\nmax_hits = 2"))
        with pytest.raises(OSError, match="ENOENT"):
            loaded.attach("nobody", kind=Kind.HOOK)
        loaded.attach("ledger_posted", kind=Kind.HOOK)
        assert hook(machine, "ledger_posted")[1][1] == "2 program:7.9 armed=1 hits=0"
        write_text(machine, POST, "0 2 50")
        write_text(machine, POST, "0 3 1")
        one, two = loaded.read()
        assert decode_log(one.log, one.raw) == [
            {"words": [0, 2, 50]},
            {"name": "first", "kind": "i64", "value": -50},
        ]
        assert decode_log(two.log, two.raw)[1]["value"] == -51
        assert remove_module(machine, "dprobes_ledger") == -errno.EAGAIN
        # It has ended, and is taken off.
        while loaded.query().address:
            pass
        assert len(hook(machine, "ledger_posted")[1]) == 1
        query = loaded.query()
        assert (query.state, query.hits, query.runs) == (State.DISABLED, 2, 2)
        loaded.close()


def test_a_program_on_hooks_that_are_taken(
    machine: Machine, device: Device, exits: Callable[[str], None]
) -> None:
    exits("place __x64_sys_getppid 0 0")
    text = "push r,rdi\npush 120\nadd\npush mem,u64\nlog 1\npush r,rip\nlog ptr at"
    loaded = device.load(kernel_program(text))
    exits("add 2 dpexits_exclusive 0 0 0")
    with pytest.raises(OSError, match="EUSERS"):
        loaded.attach("dpexits_exclusive", kind=Kind.HOOK)
    loaded.attach("dpexits_dynamic", kind=Kind.HOOK)
    machine.call(GETPPID)
    (hit,) = loaded.read()
    assert hit.record.address == address_of(machine, "__x64_sys_getppid")
    # The real registers: a system call gets its user's registers, with its number.
    words, at = decode_log(hit.log, hit.raw)
    assert words == {"words": [GETPPID]}
    assert at["value"] == hit.record.address
    # The hook goes, and with it the program's place on it.
    exits("unplace")
    machine.call(GETPPID)
    assert not loaded.ready()
    assert hook(machine, "dpexits_plain")[1] == []
    query = loaded.query()
    assert (query.state, query.error, query.address) == (State.FAILED, errno.ENODEV, 0)
    loaded.close()


def test_callk(machine: Machine, allowed: Device) -> None:
    insert_module(machine, name="dpexits")
    write_text(machine, RUN, f"add 0 dpexits_second 0 {RETURN} 4711")
    write_text(machine, RUN, "arm 1")
    number = int(hook(machine, "dpexits_second")[0].split()[0])
    loaded = allowed.load(kernel_program(f"push 5\npush {number}\ncallk\nlog 2"))
    loaded.attach("__x64_sys_getppid")
    machine.call(GETPPID)
    (hit,) = loaded.read()
    assert decode_log(hit.log, hit.raw) == [{"words": [4711, 5]}]
    assert hook(machine, "dpexits_second")[1] == ["1 zero armed=1 hits=1"]
    loaded.close()
    check(remove_module(machine, "dpexits"))
    wrong = allowed.load(kernel_program(f"push {number}\ncallk", probe="ex_mask = 0xffff"))
    wrong.attach("__x64_sys_getppid")
    machine.call(GETPPID)
    (hit,) = wrong.read()
    assert list(hit.record.exception) == [ExCode.INVALID_OPERAND, OPERAND_HOOK, number]
    wrong.close()
