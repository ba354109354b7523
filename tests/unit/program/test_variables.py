"""The machine that computes where variables are."""

from __future__ import annotations

import struct

import pytest

from dprobed.program.variables import (
    STEPS,
    LocationPiece,
    LocationStep,
    StoppedThread,
    Unreadable,
    VariableLocation,
    bytes_of,
    register_name,
    run,
)

MEMORY = {0x1000: bytes(range(1, 17)), 0x2000: (-5).to_bytes(4, "little", signed=True)}


def memory(address: int, size: int) -> bytes | None:
    for start, data in MEMORY.items():
        if start <= address and address + size <= start + len(data):
            return data[address - start : address - start + size]
    return None


def registers(number: int) -> int | None:
    return {0: 0x1000, 6: 0xFFFF_FFFF_FFFF_FFFE, 17: 0xAABB << 64 | 0x11}.get(number)


THREAD = StoppedThread(registers, memory, 0x10_0000, lambda offset: 0x7000 + offset)


def computed(*steps: tuple[str, int] | str) -> int:
    made = tuple(LocationStep(each) if isinstance(each, str) else LocationStep(*each)
                 for each in steps)  # fmt: skip
    assert {each.op for each in made} <= STEPS
    return run(made, THREAD)


@pytest.mark.parametrize(
    ("steps", "value"),
    [
        ([("register", 0), ("plus", -8)], 0xFF8),
        ([("register", 6), ("plus", 3)], 1),
        ([("address", 0x40)], 0x10_0040),
        ([("thread", 8)], 0x7008),
        ([("register", 0), ("load", 2)], 0x0201),
        ([("constant", 0x2000), ("load", 4)], 0xFFFF_FFFB),
        ([("constant", 0x2000), ("load_signed", 4)], (1 << 64) - 5),
        ([("constant", 0x1FF), ("low", 8)], 0xFF),
        ([("constant", 0x1FF), ("low_signed", 8)], (1 << 64) - 1),
        ([("constant", 1), ("constant", 2), ("pick", 1), "sub"], 1),
        ([("constant", 7), ("constant", 2), "swap", "sub"], (1 << 64) - 5),
        ([("constant", 1), ("constant", 2), ("constant", 3), "rotate", "sub"], (1 << 64) - 1),
        ([("constant", -7), ("constant", 2), "div"], (1 << 64) - 3),
        ([("constant", -7), "absolute"], 7),
        ([("constant", -8), ("constant", 1), "sar"], (1 << 64) - 4),
        ([("constant", 1), ("constant", 64), "shl"], 0),
        ([("constant", -1), ("constant", 1), "lt"], 1),
        ([("constant", 5), ("to_float", 8)], struct.unpack("<Q", struct.pack("<d", 5.0))[0]),
        ([("constant", 5), ("to_float", 4), ("truncate", 4)], 5),
        ([("constant", -5), ("to_float", 8), ("truncate", 8)], (1 << 64) - 5),
    ],
)
def test_steps(steps: list[tuple[str, int] | str], value: int) -> None:
    assert computed(*steps) == value


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (["add"], "damaged"),
        ([], "damaged"),
        ([("constant", 1), ("constant", 0), "div"], "divides by zero"),
        ([("constant", 0x9999), ("load", 8)], "memory at 0x9999 cannot be read"),
        ([("register", 12)], "r12 is not known"),
    ],
)
def test_what_cannot_be_computed(steps: list[tuple[str, int] | str], reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        computed(*steps)


def test_pieces_of_registers_and_memory() -> None:
    in_register = VariableLocation("register", (LocationStep("register", 17),))
    in_memory = VariableLocation("memory", (LocationStep("register", 0),))
    whole = VariableLocation(
        "pieces",
        pieces=(
            LocationPiece(32, 64, in_register),
            LocationPiece(12, 4, in_memory),
            LocationPiece(20, 0, VariableLocation("bytes", data=b"\xff\xff\x0f")),
        ),
    )
    expected = 0xAABB | (0x0201 >> 4) << 32 | 0xFFFFF << 44
    assert bytes_of(whole, 8, THREAD) == expected.to_bytes(8, "little")
    gone = VariableLocation("absent", reason="optimized out")
    with pytest.raises(Unreadable, match="optimized out"):
        bytes_of(VariableLocation("pieces", pieces=(LocationPiece(8, 0, gone),)), 1, THREAD)


def test_names_of_registers() -> None:
    assert [register_name(number) for number in (0, 4, 16, 17, 32, 40)] == [
        "rax", "rsi", "rip", "xmm0", "xmm15", "register 40",
    ]  # fmt: skip
