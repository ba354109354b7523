"""Registers as a debugger numbers them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from dprobed.arch.x86_64.gdb_registers import Layout
from dprobed.program.registers import USER_REGS

GENERAL = b"".join((0x1111_0000_0000_0000 + n).to_bytes(8, "little") for n in range(27))


def area(avx: bool) -> bytearray:
    data = bytearray(832 if avx else 576)
    data[0:2] = (0x37F).to_bytes(2, "little")
    data[24:28] = (0x1F80).to_bytes(4, "little")
    return data


def word(layout: Layout, name: str, xsave: bytearray) -> int:
    return int.from_bytes(layout.read(layout.numbers[name], GENERAL, xsave), "little")


@pytest.mark.parametrize("avx", [False, True])
def test_description_is_of_the_packet(avx: bool) -> None:
    layout = Layout(avx)
    root = ElementTree.fromstring(layout.description)
    registers = [each for feature in root.iter("feature") for each in feature.iter("reg")]
    assert [each.get("name") for each in registers] == [each.name for each in layout.table]
    assert [int(each.get("regnum", "")) for each in registers] == list(range(len(registers)))
    size = sum(int(each.get("bitsize", "0")) for each in registers) // 8
    assert len(layout.read_all(GENERAL, area(avx))) == size
    assert ("ymm15h" in layout.numbers) == avx
    known = {
        "int8", "int32", "int64", "uint128", "data_ptr", "code_ptr", "i387_ext",
        *(each.get("id") for each in root.iter() if each.get("id")),
    }  # fmt: skip
    assert {each.get("type") for each in registers} <= known


def test_general_registers() -> None:
    layout = Layout(True)
    for name in ("rax", "rip", "fs_base", "orig_rax"):
        assert word(layout, name, area(True)) == 0x1111_0000_0000_0000 + USER_REGS.index(name)
    assert word(layout, "eflags", area(True)) == USER_REGS.index("eflags")


def test_all_comes_back() -> None:
    layout = Layout(True)
    xsave = area(True)
    xsave[160:416] = bytes(range(256))
    xsave[576:832] = bytes(reversed(range(256)))
    packet = layout.read_all(GENERAL, xsave)
    general, copy = bytearray(len(GENERAL)), area(True)
    layout.write_all(packet, general, copy)
    assert layout.read_all(general, copy) == packet
    # SSE and AVX are in use now; the x87 was left as it is at first.
    assert copy[512] == 6


def test_a_part_in_its_initial_state_is_taken_into_use() -> None:
    layout = Layout(True)
    xsave = area(True)
    layout.write(layout.numbers["ymm3h"], b"\1" * 16, bytearray(GENERAL), xsave)
    assert xsave[512] == 4
    assert xsave[576 + 48 : 576 + 64] == b"\1" * 16
    layout.write(layout.numbers["st0"], b"\2" * 10, bytearray(GENERAL), xsave)
    assert xsave[512] == 5


def test_tag_word() -> None:
    layout = Layout(False)
    xsave = area(False)
    assert word(layout, "ftag", xsave) == 0xFFFF
    # One value pushed (1.0), top is 7: physical register 7 is st0 and valid.
    xsave[2:4] = (7 << 11).to_bytes(2, "little")
    xsave[4] = 0x80
    xsave[32:42] = bytes.fromhex("0000000000000080ff3f")
    assert word(layout, "ftag", xsave) == 0x3FFF
    xsave[32:42] = bytes(10)
    assert word(layout, "ftag", xsave) == 0x7FFF
    xsave[32:42] = b"\xff" * 10
    assert word(layout, "ftag", xsave) == 0xBFFF
    layout.write(layout.numbers["ftag"], b"\xfc\xff\0\0", bytearray(GENERAL), xsave)
    assert xsave[4] == 1


def test_no_such_register() -> None:
    with pytest.raises(IndexError):
        Layout(False).read(200, GENERAL, area(False))
