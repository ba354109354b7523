"""Tracepoints of the kernel: their arguments, and what ends a probe at one."""

from __future__ import annotations

import pytest

from dprobed.kernel.abi import Kind, State
from dprobed.record.log import decode_log
from tests.kernel.device import GETPPID, KILL, Device, KernelProgram, address_of, check
from tests.kernel.machine import AREA, Machine, called, result_of, written
from tests.kernel.test_bridge import kernel_program

PRCTL, PR_SET_NAME = 157, 15
WAIT4, SIGKILL = 61, 9


def _placed(device: Device, name: str, text: str, probe: str = "") -> KernelProgram:
    loaded = device.load(kernel_program(text, probe=probe))
    loaded.attach(name, kind=Kind.TRACEPOINT)
    return loaded


def _rename(machine: Machine, name: str = "init", count: int = 1) -> None:
    """The agent takes another name: ``task_rename(task, comm)``."""
    calling = called(PRCTL, PR_SET_NAME, AREA, count=count)
    check(result_of(machine.exchange(written(AREA, name.encode() + b"\0"), calling)))


def test_its_arguments(machine: Machine, device: Device) -> None:
    text = "push task\npush r,rdi\nsub\nlog i64 same\npush r,rsi\npush 8\nxchg\nlog mrf"
    loaded = _placed(device, "task_rename", text)
    assert loaded.query().address == address_of(machine, "__tracepoint_task_rename")
    _rename(machine, "another")
    _rename(machine)
    first, second = loaded.read()
    assert decode_log(first.log, first.raw)[0]["value"] == 0
    assert b"another" in first.log
    assert b"init" in second.log
    query = loaded.query()
    assert (query.state, query.hits, query.runs) == (State.ACTIVE, 2, 2)
    loaded.close()
    _rename(machine)


@pytest.mark.parametrize(
    ("text", "probe", "ended", "runs"),
    [("exit", "max_hits = 2", State.DISABLED, 2), ("rem", "", State.REMOVED, 1)],
)
def test_one_that_ends(
    machine: Machine, device: Device, text: str, probe: str, ended: State, runs: int
) -> None:
    loaded = _placed(device, "task_rename", text, probe)
    _rename(machine, count=10)
    assert len(loaded.read()) == runs
    # As soon as it can, it is not called any more.
    while loaded.query().address:
        pass
    _rename(machine, count=10)
    query = loaded.query()
    assert (query.state, query.hits, query.runs) == (ended, runs, runs)
    loaded.close()


def test_several_at_one(machine: Machine, device: Device) -> None:
    three = [_placed(device, "task_rename", "abort") for _ in range(3)]
    _rename(machine)
    three.pop(1).close()
    _rename(machine)
    assert [loaded.query().runs for loaded in three] == [2, 2]
    for loaded in three:
        loaded.close()


def test_busy_ones_closed_under_fire(machine: Machine, device: Device) -> None:
    """The last of them are in what makes a record known."""
    names = ("sys_enter", "sched_switch", "kmem_cache_alloc", "irq_work_entry", "sched_wakeup")
    machine.run_on(1)
    pid = check(machine.for_ever(GETPPID))
    machine.run_on(0)
    for _ in range(3):
        running = [_placed(device, name, "push task\npush mem,u8\nlog 1") for name in names]
        assert running[0].ready(60_000)
        for loaded in running:
            loaded.close()
    check(machine.call(KILL, pid, SIGKILL))
    check(machine.call(WAIT4, pid, 0, 0, 0))
