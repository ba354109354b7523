"""Probes in kernel modules that come and go."""

from __future__ import annotations

import errno

import pytest

from dprobed.kernel.abi import State
from dprobed.record.log import decode_log
from tests.kernel import sample
from tests.kernel.device import (
    CLOSE,
    DELETE_MODULE,
    FINIT_MODULE,
    KILL,
    O_NONBLOCK,
    Device,
    KernelProgram,
    check,
    path,
    remove_module,
    write_text,
)
from tests.kernel.machine import AREA, Machine
from tests.kernel.test_bridge import kernel_program

WAIT4, SIGKILL = 61, 9
STEP = "dpsample:dpsample_step"
BY = kernel_program("push r,rdi\nlog i32 by")


def _placed(device: Device, place: str = STEP, probe: str = "") -> KernelProgram:
    loaded = device.load(kernel_program("push r,rdi\nlog i32 by", probe=probe))
    loaded.attach(place)
    return loaded


def _state(loaded: KernelProgram) -> tuple[State, int, int, bool]:
    """Its state, why, its hits, and whether it is anywhere."""
    query = loaded.query()
    return State(query.state), query.error, query.hits, bool(query.address)


def _logged(loaded: KernelProgram) -> list[object]:
    return [decode_log(hit.log, hit.raw)[0]["value"] for hit in loaded.read()]


def test_placed_before_its_init_runs_and_taken_out_when_it_goes(
    machine: Machine, device: Device
) -> None:
    loaded = _placed(device)
    assert _state(loaded) == (State.PENDING, 0, 0, False)
    sample.load(machine)
    assert _state(loaded) == (State.ACTIVE, 0, 1, True)
    sample.step(machine, 20)
    sample.unload(machine)
    assert _state(loaded) == (State.PENDING, 0, 3, False)
    assert _logged(loaded) == [1, 20, -1]
    with sample.loaded(machine):
        assert _state(loaded) == (State.ACTIVE, 0, 4, True)
    assert _state(loaded) == (State.PENDING, 0, 5, False)
    loaded.close()


def test_one_in_what_is_there_for_init_only(machine: Machine, device: Device) -> None:
    loaded = _placed(device, "dpsample:dpsample_begin")
    for times in (1, 2):
        with sample.loaded(machine):
            assert _state(loaded) == (State.PENDING, 0, times, False)
    loaded.close()


def test_a_module_whose_init_fails(machine: Machine, device: Device) -> None:
    loaded = _placed(device)
    with pytest.raises(OSError, match="ENXIO"):
        sample.load(machine, "fail=1")
    assert _state(loaded) == (State.PENDING, 0, 1, False)
    loaded.close()


def test_one_without_such_a_function(machine: Machine, device: Device) -> None:
    loaded = _placed(device, "dpsample:no_such_function")
    assert _state(loaded) == (State.PENDING, 0, 0, False)
    with sample.loaded(machine):
        assert _state(loaded) == (State.FAILED, errno.ENOENT, 0, False)
        with pytest.raises(OSError, match="EBUSY"):
            loaded.attach(STEP)
        second = device.load(BY)
        with pytest.raises(OSError, match="ENOENT"):
            second.attach("dpsample:no_such_function")
        assert _state(second) == (State.COMPILED, 0, 0, False)
        second.attach(STEP)
        second.close()
    loaded.close()


@pytest.mark.parametrize("other", ["dpsampl:dpsample_step", "dpsample2:dpsample_step"])
def test_only_the_module_that_is_named(machine: Machine, device: Device, other: str) -> None:
    loaded = _placed(device, other)
    with sample.loaded(machine):
        assert _state(loaded) == (State.PENDING, 0, 0, False)
    loaded.close()


def test_what_is_part_of_the_kernel_itself_does_not_come(device: Device) -> None:
    loaded = device.load(BY)
    with pytest.raises(OSError, match="ENOENT"):
        loaded.attach("printk:dpsample_step")
    loaded.close()


def test_a_function_without_its_modules_name(machine: Machine, device: Device) -> None:
    loaded = device.load(BY)
    with pytest.raises(OSError, match="ENOENT"):
        loaded.attach("dpsample_step")
    with sample.loaded(machine):
        loaded.attach("dpsample_step")
        assert _state(loaded) == (State.ACTIVE, 0, 0, True)
    assert _state(loaded) == (State.PENDING, 0, 1, False)
    with sample.loaded(machine):
        assert _state(loaded) == (State.ACTIVE, 0, 2, True)
    loaded.close()


def test_one_that_has_ended_stays_so(machine: Machine, device: Device) -> None:
    loaded = _placed(device, probe="max_hits = 1")
    for _ in range(2):
        with sample.loaded(machine):
            assert _state(loaded)[0] is State.DISABLED
        assert _state(loaded) == (State.DISABLED, 0, 1, False)
    assert _logged(loaded) == [1]
    loaded.close()


@pytest.mark.parametrize("step", [1, 2])
def test_placing_that_fails_when_the_module_comes(
    machine: Machine, device: Device, step: int
) -> None:
    loaded = _placed(device)
    write_text(machine, "/sys/module/dprobes/parameters/fail_at", str(step))
    with sample.loaded(machine):
        assert _state(loaded) == (State.FAILED, errno.ENOMEM, 0, False)
        sample.step(machine)
    assert _state(loaded) == (State.FAILED, errno.ENOMEM, 0, False)
    loaded.close()


def test_programs_come_and_go_while_a_module_does(machine: Machine, device: Device) -> None:
    fd = check(path(machine, "/dpsample.ko", 0))
    loops = []
    for cpu, call, text, args in (
        (1, FINIT_MODULE, b"\0", (fd, AREA, 0)),
        (0, DELETE_MODULE, b"dpsample\0", (AREA, O_NONBLOCK)),
    ):
        machine.run_on(cpu)
        machine.write(AREA, text)
        loops.append(check(machine.for_ever(call, *args)))
    machine.run_on(0)
    seen = 0
    while seen < 20:
        loaded = device.load(BY)
        loaded.attach(STEP)
        assert loaded.state() in (State.PENDING, State.ACTIVE)
        seen += loaded.query().hits
        loaded.close()
    for pid in loops:
        check(machine.call(KILL, pid, SIGKILL))
        check(machine.call(WAIT4, pid, 0, 0, 0))
    check(machine.call(CLOSE, fd))
    remove_module(machine, sample.NAME)


def test_programs_closed_while_the_module_is_there_or_awaited(
    machine: Machine, device: Device
) -> None:
    with sample.loaded(machine):
        _placed(device).close()
        sample.step(machine)
        second = _placed(device)
    second.close()
    _placed(device).close()
    with sample.loaded(machine):
        sample.step(machine)
