"""Returns of functions of the kernel: kretprobes, and what the entry part keeps for them."""

from __future__ import annotations

import struct

import pytest

from dprobed.kernel.abi import Kind, State
from dprobed.program.exceptions import ExCode
from dprobed.program.exits import EXCEPTION
from tests.kernel import sample
from tests.kernel.device import (
    GETPPID,
    KILL,
    Device,
    KernelProgram,
    address_of,
    check,
)
from tests.kernel.machine import Machine
from tests.kernel.test_bridge import PLACE, kernel_program

GETPGID, WAIT4, SIGKILL = 121, 61, 9
GETPGID_PLACE = "__x64_sys_getpgid"
#: The number of the process, from the registers that a system call gets: rdi is the 15th of them.
KEEPS = """\
entry:
push a,0
push 112
add
push mem,u64
pop e,0
return:
push r,rax
push e,7
push e,0
log 3
"""


def _placed(device: Device, text: str, place: str = PLACE, probe: str = "") -> KernelProgram:
    loaded = device.load(kernel_program(text, probe=f"at = return\n{probe}"))
    loaded.attach(place, kind=Kind.LEAVE)
    return loaded


def _logged(loaded: KernelProgram) -> list[tuple[int, ...]]:
    """The words that each hit has logged."""
    return [struct.unpack(f"<{len(hit.log) // 8}Q", hit.log) for hit in loaded.read()]


def test_what_it_returned_and_what_was_kept(machine: Machine, device: Device) -> None:
    loaded = _placed(device, KEEPS, GETPGID_PLACE)
    assert loaded.query().address == address_of(machine, GETPGID_PLACE)
    group = check(machine.call(GETPGID, 1))
    assert machine.call(GETPGID, 12345) == -3
    # Each call has words of its own, and what was not kept is 0.
    assert _logged(loaded) == [(1, 0, group), (12345, 0, (1 << 64) - 3)]
    query = loaded.query()
    assert (query.state, query.hits, query.runs, query.missed) == (State.ACTIVE, 2, 2, 0)
    loaded.close()
    assert machine.call(GETPGID, 12345) == -3


def test_without_an_entry_part(machine: Machine, device: Device) -> None:
    loaded = _placed(device, "push r,rax\npush e,0\nlog 2")
    assert machine.call(GETPPID) == 0
    assert _logged(loaded) == [(0, 0)]
    loaded.close()


def test_calls_that_are_passed_over(machine: Machine, device: Device) -> None:
    text = KEEPS.replace("pop e,0\n", "pop e,0\npush e,0\npush 7\nsub\njz over\nexit\n"
                         "over:\nabort\n")  # fmt: skip
    loaded = _placed(device, text, GETPGID_PLACE)
    for pid in (1, 7, 8):
        machine.call(GETPGID, pid)
    assert [words[0] for words in _logged(loaded)] == [1, 8]
    query = loaded.query()
    assert (query.hits, query.runs, query.missed) == (2, 2, 0)
    loaded.close()


def test_an_entry_part_that_fails(machine: Machine, device: Device) -> None:
    loaded = _placed(device, "entry:\npush 1\npush mem,u8\npop e,0\nreturn:\nexit")
    machine.call(GETPPID)
    (hit,) = loaded.read()
    record = hit.record
    assert (record.exit, record.exception[0], record.exception[1]) == (
        EXCEPTION,
        ExCode.INVALID_ADDR,
        1,
    )
    query = loaded.query()
    assert (query.hits, query.runs, query.missed) == (0, 0, 1)
    loaded.close()


@pytest.mark.parametrize(
    ("text", "probe", "ended", "runs"),
    [
        ("exit", "max_hits = 2", State.DISABLED, 2),
        ("exit", "pass_count = 1\nmax_hits = 1", State.DISABLED, 1),
        ("rem", "", State.REMOVED, 1),
    ],
)
def test_one_that_ends(
    machine: Machine, device: Device, text: str, probe: str, ended: State, runs: int
) -> None:
    loaded = _placed(device, text, probe=probe)
    machine.call(GETPPID, count=10)
    while loaded.query().address:
        pass
    query = loaded.query()
    assert (query.state, query.runs) == (ended, runs)
    assert len(loaded.read()) == runs
    loaded.close()


def test_calls_inside_of_calls(machine: Machine, device: Device) -> None:
    """A process that waits for another one is in the function all the time."""
    text = "entry:\npush tid\npop e,0\nreturn:\npush tid\npush e,0\nlog 2"
    loaded = _placed(device, text, "kernel_wait4")
    machine.run_on(1)
    pid = check(machine.for_ever(GETPPID))
    machine.run_on(0)
    check(machine.call(KILL, pid, SIGKILL))
    assert check(machine.call(WAIT4, pid, 0, 0, 0)) == pid
    assert all(kept == now for kept, now in _logged(loaded))
    loaded.close()


def test_a_function_of_a_module(machine: Machine, device: Device) -> None:
    text = "entry:\npush a,0\npop e,0\nreturn:\npush r,rax\npush e,0\nlog 2"
    loaded = _placed(device, text, "dpsample:dpsample_step")
    assert loaded.state() is State.PENDING
    for _ in range(2):
        with sample.loaded(machine):
            assert loaded.state() is State.ACTIVE
            sample.step(machine, 20)
        assert (loaded.state(), loaded.query().address) == (State.PENDING, 0)
    calls = [[1, 1], [20, 20], [0xFFFFFFFF, 0xFFFFFFFF]]
    assert [[word & 0xFFFFFFFF for word in words] for words in _logged(loaded)] == calls * 2
    loaded.close()


def test_closed_under_fire(machine: Machine, device: Device) -> None:
    """Also while functions are running that will return."""
    machine.run_on(1)
    pid = check(machine.for_ever(GETPPID))
    machine.run_on(0)
    for _ in range(3):
        loaded = _placed(device, "entry:\npush tid\npop e,0\nreturn:\npush tid\npush e,0\nlog 2")
        schedule = _placed(device, "exit", "schedule")
        assert loaded.ready(60_000)
        assert all(kept == now for kept, now in _logged(loaded))
        loaded.close()
        schedule.close()
    check(machine.call(KILL, pid, SIGKILL))
    check(machine.call(WAIT4, pid, 0, 0, 0))


def test_where_there_can_be_none(device: Device) -> None:
    loaded = device.load(kernel_program("exit", probe="at = return"))
    for place, reason in {
        "no_such_function": "ENOENT",
        "dpb_hit": "EADDRNOTAVAIL",
        "dpb_load": "EACCES",
        "exc_page_fault": "EADDRNOTAVAIL",
    }.items():
        with pytest.raises(OSError, match=reason):
            loaded.attach(place, kind=Kind.LEAVE)
    assert loaded.state() is State.COMPILED
    loaded.close()
