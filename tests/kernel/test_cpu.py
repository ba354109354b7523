"""The processor itself: its registers, segments and ports."""

from __future__ import annotations

import pytest

from dprobed.program.exceptions import OPERAND_PORT, OPERAND_REGISTER, ExCode
from dprobed.record.log import decode_log
from tests.kernel.device import GETPPID, Device, Hit, address_of, check
from tests.kernel.test_bridge import PLACE, kernel_program

#: A register of the first serial line that is for nothing but what is written to it.
SCRATCH = 0x3FF
#: Where an address and a word of the configuration of PCI devices are.
PCI_ADDRESS, PCI_WORD = 0xCF8, 0xCFC


def _hit(device: Device, text: str) -> Hit:
    loaded = device.load(kernel_program(text, probe="ex_mask = 0xffff"))
    loaded.attach(PLACE)
    check(device.machine.call(GETPPID))
    (hit,) = loaded.read()
    loaded.close()
    return hit


def _words(device: Device, text: str, count: int = 1) -> list[int]:
    """What the program has on its stack, TOS first."""
    hit = _hit(device, f"{text}\nlog {count}")
    assert list(hit.record.exception) == [0, 0, 0]
    words = decode_log(hit.log, hit.raw)[0]["words"]
    assert isinstance(words, list)
    return [int(str(word)) for word in words]


def test_control_and_debug_registers(device: Device) -> None:
    names = ("cr0", "cr3", "cr4", "dr6", "dr7", "dr5")
    found = _words(device, "\n".join(f"push r,{name}" for name in reversed(names)), len(names))
    cr0, cr3, cr4, dr6, dr7, dr5 = found
    # Protected, paged, write-protected; with physical addresses of more than 32 bits.
    assert cr0 & 0x80010001 == 0x80010001
    assert cr3 >> 12
    assert cr4 & 0x20
    # Bits that are always 1.
    assert dr6 & 0xFF0 == 0xFF0
    assert dr7 & 0x400 == 0x400
    assert dr5 == dr7


def test_tables_and_selectors(device: Device) -> None:
    names = ("gdtr", "idtr", "ldtr", "tr")
    found = _words(device, "\n".join(f"push r,{name}" for name in reversed(names)), 6)
    gdt, gdt_limit, idt, idt_limit, ldt, task = found
    assert (gdt_limit, idt_limit) == (0x7F, 0xFFF)
    assert gdt >> 47 == idt >> 47 == 0x1FFFF
    assert (ldt, task) == (0, 0x40)


def test_model_specific_registers_and_cpuid(device: Device) -> None:
    lstar, efer = 0xC0000082, 0xC0000080
    entry = address_of(device.machine, "entry_SYSCALL_64")
    text = f"push {efer:#x}\npush r,msr\npush {lstar:#x}\npush r,msr"
    found = _words(device, text, 2)
    assert found[0] == entry
    # Long mode is enabled and active, and there is `syscall`.
    assert found[1] & 0x501 == 0x501
    most, ebx, ecx, edx = _words(device, "push 0\npush r,cpuid", 4)
    assert most > 0
    vendor = b"".join(word.to_bytes(4, "little") for word in (ebx, edx, ecx))
    assert vendor in {b"AuthenticAMD", b"GenuineIntel"}


def test_a_model_specific_register_that_cannot_be(device: Device) -> None:
    hit = _hit(device, f"push {1 << 32:#x}\npush r,msr\nlog 1")
    assert list(hit.record.exception) == [ExCode.INVALID_OPERAND, OPERAND_REGISTER, 1 << 32]


def test_segments(device: Device) -> None:
    kernel_code, task = 0x10, 0x40
    assert _words(device, f"push {kernel_code}\npush 0x1234\nseg2lin") == [0x1234]
    # That of the task segment has 64 bits: it is beside the table itself.
    state, gdt = _words(device, f"push r,gdtr\npush {task}\npush 0\nseg2lin", 2)
    assert 0 < state - gdt < 1 << 20


@pytest.mark.parametrize("selector", [0, 3, 4, 0x0C, 0x80, 0xFFF8, 0x10010])
def test_selectors_that_have_no_segment(device: Device, selector: int) -> None:
    hit = _hit(device, f"push {selector:#x}\npush 5\nseg2lin\nlog 1")
    assert list(hit.record.exception) == [ExCode.SEG_FAULT, selector, 5]


def test_ports(allowed: Device) -> None:
    text = f"push {SCRATCH:#x}\npush {{:#x}}\npop io,u8\npush {SCRATCH:#x}\npush io,u8"
    assert _words(allowed, text.format(0x5A)) == [0x5A]
    assert _words(allowed, text.format(0x1A5)) == [0xA5]
    text = f"push {PCI_ADDRESS:#x}\npush 0x80000000\npop io,u32\npush {PCI_WORD:#x}\npush io,{{}}"
    (whole,) = _words(allowed, text.format("u32"))
    assert whole not in {0, 0xFFFFFFFF}
    assert _words(allowed, text.format("u16")) == [whole & 0xFFFF]
    assert _words(allowed, text.format("u8")) == [whole & 0xFF]


@pytest.mark.parametrize("text", ["push io,u16", "push 1\npop io,u16"])
def test_a_port_that_cannot_be(allowed: Device, text: str) -> None:
    hit = _hit(allowed, f"push 0x10000\n{text}\npush 1\nlog 1")
    assert list(hit.record.exception) == [ExCode.INVALID_OPERAND, OPERAND_PORT, 0x10000]
