"""`exit dump` in the kernel: registers and stack behind the log; or a crash, where allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dprobed.kernel.abi import Kind
from dprobed.program.exits import DUMP
from dprobed.record.log import decode_log
from tests.kernel.device import (
    GETPPID,
    Device,
    Hit,
    KernelProgram,
    attaching,
    check,
    insert_module,
    ioctl,
)
from tests.kernel.machine import AREA, Machine, called, result_of, written
from tests.kernel.test_bridge import PLACE, kernel_program

PRCTL, PR_SET_NAME = 157, 15
TEXT = "push 7\nlog i32 own\nexit dump"


def _loaded(device: Device, text: str = TEXT, *header: str) -> KernelProgram:
    return device.load(kernel_program(text, *header), facilities={"dump": DUMP})


def _taken_apart(hit: Hit) -> tuple[dict[str, Any], list[str]]:
    """The values of a record by their names, and its strings."""
    items = decode_log(hit.log, hit.raw)
    assert all("name" in item or "string" in item for item in items), items
    values = {str(item["name"]): item["value"] for item in items if "name" in item}
    return values, [str(item["string"]) for item in items if "string" in item]


def _is_on_the_way_of_a_system_call(frames: list[str]) -> None:
    # The same function has two names.
    assert frames[0].startswith((f"{PLACE}+0x", "__do_sys_getppid+0x")), frames
    assert any(frame.startswith("do_syscall_64+0x") for frame in frames[1:]), frames
    assert frames[-1].startswith("entry_SYSCALL_64"), frames


@pytest.mark.parametrize("within", [False, True])
def test_registers_and_stack(machine: Machine, device: Device, within: bool) -> None:
    loaded = _loaded(device)
    offsets = range(5, 32) if within else range(1)
    arguments = (attaching(PLACE, offset=offset) for offset in offsets)
    assert any(ioctl(machine, loaded.fd, "DPROBES_ATTACH", each) == 0 for each in arguments)
    check(machine.call(GETPPID, count=2))
    one, two = loaded.read()
    for hit in (one, two):
        assert hit.record.exit == DUMP
        values, frames = _taken_apart(hit)
        assert values["own"] == 7
        assert values["rip"] == hit.record.address == loaded.query().address
        # What the function is called with lies on the stack that it runs on.
        assert values["rsp"] < values["rdi"] < values["rsp"] + 4096
        assert values["cs"] == 0x10
        _is_on_the_way_of_a_system_call(frames)
    assert len(_taken_apart(one)[0]) == 22
    loaded.close()


def test_a_program_that_dumps_now_and_then(machine: Machine, device: Device) -> None:
    """The records between have nothing behind their log."""
    text = "inc lv,0\npush lv,0\nlog 1\npush lv,0\npush 1\nand\njz even\nexit dump\neven:\nexit"
    loaded = _loaded(device, text, "vars = 1")
    loaded.attach(PLACE)
    check(machine.call(GETPPID, count=4))
    hits = loaded.read()
    assert [hit.record.exit for hit in hits] == [DUMP, 0, DUMP, 0]
    assert [len(hit.log) > 8 for hit in hits] == [True, False, True, False]
    loaded.close()


def test_at_a_tracepoint_there_is_a_stack_only(machine: Machine, device: Device) -> None:
    loaded = _loaded(device)
    loaded.attach("task_rename", kind=Kind.TRACEPOINT)
    calling = called(PRCTL, PR_SET_NAME, AREA)
    check(result_of(machine.exchange(written(AREA, b"init\0"), calling)))
    (hit,) = loaded.read()
    values, frames = _taken_apart(hit)
    assert values == {"own": 7}
    assert any(frame.startswith("__set_task_comm+0x") for frame in frames[:3]), frames
    assert frames[-1].startswith("entry_SYSCALL_64"), frames
    loaded.close()


def test_where_a_function_is_left(machine: Machine, device: Device) -> None:
    loaded = _loaded(device)
    loaded.attach(PLACE, kind=Kind.LEAVE)
    check(machine.call(GETPPID))
    (hit,) = loaded.read()
    values, frames = _taken_apart(hit)
    assert values["rax"] == 0
    assert any(frame.startswith("do_syscall_64+0x") for frame in frames), frames
    loaded.close()


def test_a_crash_where_it_is_allowed(release: str, modules: list[Path], tmp_path: Path) -> None:
    """The machine panics, and says by which probe: with kdump a crash dump is written then."""
    machine = Machine(tmp_path, release, modules)
    try:
        insert_module(machine, "allow_crash=1")
        loaded = _loaded(Device(machine), TEXT, "major = 7")
        loaded.attach(PLACE)
        with pytest.raises(AssertionError, match="the machine ended"):
            machine.call(GETPPID)
        said = f"Kernel panic - not syncing: dprobes: `exit dump` of program 7.1 at {PLACE}+0x0"
        assert said in machine.console()
    finally:
        machine.close()
