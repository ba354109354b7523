"""Altering: only where the module was told so, and never what cannot be written."""

from __future__ import annotations

import pytest

from dprobed.kernel.abi import Refusal
from dprobed.program.exits import EXCEPTION
from dprobed.program.registers import REGISTER_INDEX
from tests.kernel.device import (
    GETPPID,
    Device,
    KernelProgram,
    RefusedError,
    address_of,
    check,
    text_of,
)
from tests.kernel.machine import AREA, Machine
from tests.kernel.test_bridge import PLACE, kernel_program
from tests.kernel.test_requests import code_of, refused

UMASK = 95


def _hit(device: Device, text: str) -> KernelProgram:
    loaded = device.load(kernel_program(text))
    loaded.attach(PLACE)
    check(device.machine.call(GETPPID))
    return loaded


@pytest.mark.parametrize("text", ["push 1\npush 2\npop mem,u8", "push 1\npop u,rdi"])
def test_not_unless_it_is_allowed(device: Device, text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        device.load(kernel_program(text))
    assert caught.value.reason is Refusal.NO_ALTER


def test_memory_of_kernel_and_task(machine: Machine, allowed: Device) -> None:
    timeout = address_of(machine, "panic_timeout")
    before = text_of(machine, "/proc/sys/kernel/panic").strip()
    text = f"push {timeout:#x}\npush {{}}\npop mem,u32\npush {AREA:#x}\npush 0x77\npop mem,u8"
    machine.write(AREA, b"\0")
    _hit(allowed, text.format(4321)).close()
    assert machine.read(AREA, 1) == b"\x77"
    assert text_of(machine, "/proc/sys/kernel/panic") == "4321\n"
    _hit(allowed, text.format(int(before) % 2**32)).close()
    assert text_of(machine, "/proc/sys/kernel/panic").strip() == before


@pytest.mark.parametrize("width", ["u8", "u64"])
def test_what_cannot_be_written_is_an_exception(
    machine: Machine, allowed: Device, width: str
) -> None:
    code = address_of(machine, PLACE)
    for address in (code, 0xDEAD << 48, 0xFFFFFFFFFFFFFFFF, 0x1000):
        loaded = _hit(allowed, f"push {address:#x}\npush 0x90\npop mem,{width}")
        (hit,) = loaded.read()
        assert (hit.record.exit, list(hit.record.exception)) == (EXCEPTION, [1, address, 0])
        loaded.close()


def test_registers_of_the_task(machine: Machine, allowed: Device) -> None:
    before = check(machine.call(UMASK, 0o22))
    loaded = allowed.load(kernel_program("push 077\npop u,rdi"))
    loaded.attach("__x64_sys_umask")
    assert machine.call(UMASK, 0) == 0o22
    loaded.close()
    assert machine.call(UMASK, before) == 0o77


@pytest.mark.parametrize("which", ["pop r,register", "pop u,register"])
@pytest.mark.parametrize("name", ["rip", "rsp", "eflags", "cs"])
def test_what_the_kernel_would_not_survive_is_not_altered(
    allowed: Device, which: str, name: str
) -> None:
    """The module does not trust who has verified the program: a kprobe goes on where it was."""
    code = code_of(("push word", 0), (which, REGISTER_INDEX[name]), "exit")
    assert refused(allowed, code) == (Refusal.BAD_OPERAND, 9)
