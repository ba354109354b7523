"""What is shown of values: text and JSON, and what a hostile target cannot do."""

from __future__ import annotations

import json
import struct

import pytest

from dprobed.program.showing.nodes import json_of_shown, quoted, text_of_shown
from dprobed.program.showing.values import Viewer
from dprobed.program.showing.viewing import ShowLimits
from dprobed.program.types import (
    AliasType,
    ArrayType,
    EnumType,
    FloatType,
    IntegerType,
    Member,
    PointerType,
    StructType,
    Type,
    size_of,
    type_name,
)

INT = IntegerType("int", 4, signed=True)
CHAR = IntegerType("char", 1, signed=True, character=True)


def viewer(*types: Type, memory: bytes = b"", limits: ShowLimits = ShowLimits()) -> Viewer:  # noqa: B008
    """Memory is one page, from 0x1000 on."""
    memory = memory.ljust(4096, b"\0")

    def read(address: int, size: int) -> bytes | None:
        at = address - 0x1000
        return memory[at : at + size] if at >= 0 and at + size <= len(memory) else None

    return Viewer(types, read, limits)


def shown(raw: bytes, *types: Type, memory: bytes = b"") -> tuple[str, object]:
    """The text and the JSON of a value of the last of these types."""
    found = viewer(*types, memory=memory).of(len(types) - 1, raw)
    data = json.loads(json.dumps(json_of_shown(found)))
    return text_of_shown(found), data


COLOR = EnumType("color", 4, False, (("NONE", 0), ("RED", 1), ("BLUE", 2), ("HIGH", 8)))


@pytest.mark.parametrize(
    ("kind", "raw", "text", "data"),
    [
        (INT, b"\xfe\xff\xff\xff", "-2", -2),
        (IntegerType("bool", 1, boolean=True), b"\1", "true", "true"),
        (IntegerType("bool", 1, boolean=True), b"\7", "7", 7),
        (IntegerType("char", 4, character=True), "é".encode("utf-32-le"), "'é'", "é"),
        (COLOR, b"\1\0\0\0", "RED", "RED"),
        (COLOR, b"\3\0\0\0", "RED | BLUE", "RED | BLUE"),
        (COLOR, b"\5\0\0\0", "5", 5),
        (FloatType("double", 8), struct.pack("<d", 0.1), "0.1", 0.1),
        (FloatType("double", 8), struct.pack("<d", float("inf")), "inf", "inf"),
        (FloatType("long double", 16), bytes.fromhex("00000000000000c0ff3f000000000000"),
         "1.5", 1.5),
    ],
)  # fmt: skip
def test_numbers(kind: Type, raw: bytes, text: str, data: object) -> None:
    assert shown(raw, kind) == (text, data)


def test_strings() -> None:
    pointer = struct.pack("<Q", 0x1000)
    assert shown(pointer, CHAR, PointerType(0), memory=b'a"\n\x1b\xffz\0rest')[0] == (
        '0x1000 "a\\"\\n\\x1b\\xffz"'
    )
    assert shown(b"ab\0cdefg", CHAR, ArrayType(0, 8)) == ('"ab"', "ab")
    assert shown(struct.pack("<Q", 0x9000), CHAR, PointerType(0)) == ("0x9000", "0x9000")
    assert shown(bytes(8), CHAR, PointerType(0)) == ("NULL", "0x0")
    long = viewer(CHAR, PointerType(0), memory=b"x" * 300, limits=ShowLimits(string=4))
    assert text_of_shown(long.of(1, pointer)) == '0x1000 "xxxx"...'
    assert quoted("a\u202eb") == '"a\\u202eb"'


def test_a_struct_with_bit_fields_and_what_has_no_name() -> None:
    inner = StructType("struct", "", 4, (Member("x", 0, 0), Member("y", 0, 2)))
    short = IntegerType("short", 2, signed=True)
    outer = StructType(
        "struct",
        "s",
        8,
        (Member("low", 0, 0, 0, 3), Member("high", 0, 0, 3, 5), Member("", 1, 4)),
    )
    raw = bytes([0b10110_101, 0, 0, 0]) + struct.pack("<hh", -1, 7)
    text, data = shown(raw, short, inner, outer)
    assert text == "{ .low = -3, .high = -10, { .x = -1, .y = 7 } }"
    assert data == {"low": -3, "high": -10, "_2": {"x": -1, "y": 7}}


def test_a_list_that_is_a_circle_ends_at_the_depth() -> None:
    node = StructType("struct", "node", 16, (Member("next", 1, 0), Member("n", 2, 8)))
    memory = struct.pack("<QQ", 0x1000, 5)
    text, _ = shown(memory, node, PointerType(0), INT, AliasType("node_t", 0), memory=memory)
    assert text.count("0x1000") == 4 and text.endswith(".n = 5 }, .n = 5 }, .n = 5 }, .n = 5 }")


def test_widths() -> None:
    limits = ShowLimits(width=2)
    found = viewer(INT, ArrayType(0, 5), limits=limits).of(1, struct.pack("<5i", *range(5)))
    assert text_of_shown(found) == "[0, 1, ... 3 more]"
    assert json_of_shown(found) == [0, 1, {"...": 3}]


def _container(name: str, *members: Member, arguments: tuple[int, ...] = ()) -> StructType:
    return StructType("class", name, 64, members, "c++", True, (), None, arguments)


def test_a_string_of_a_hostile_target() -> None:
    """Its length is what the target says; so much is never read."""
    types = (
        CHAR,
        PointerType(0),
        StructType("struct", "hider", 8, (Member("_M_p", 1, 0),), "c++"),
        IntegerType("unsigned long", 8),
        _container(
            "std::__cxx11::basic_string<char>",
            Member("_M_dataplus", 2, 0),
            Member("_M_string_length", 3, 8),
        ),
    )
    for length in (1 << 63, 1 << 39, 3):
        raw = struct.pack("<QQ", 0x1000, length).ljust(64, b"\0")
        text, _ = shown(raw, *types, memory=b"abcdef")
        assert len(text) < 600


def test_too_many_reads_end() -> None:
    """Elements that are pointers to lists of pointers to lists…"""
    node = StructType("struct", "n", 160, tuple(Member(f"m{i}", 1, 8 * i) for i in range(20)))
    memory = struct.pack("<20Q", *[0x1000] * 20)
    found = viewer(node, PointerType(0), memory=memory, limits=ShowLimits(depth=8))
    assert text_of_shown(found.at(0, 0x1000)) == "<it is too much to look at>"


def test_circles_of_types_end() -> None:
    base = StructType("struct", "base", 8, (Member("", 4, 0, base=True), Member("", 4, 0)))
    types = (AliasType("a", 1), AliasType("b", 0), ArrayType(2, 3), PointerType(3), base)
    for index in range(5):
        assert size_of(types, index) in (0, 8)
        assert type_name(types, index)
        assert text_of_shown(viewer(*types).of(index, bytes(8)))
