"""Structs and arrays: their memory as values, by the types that debug information or the script
declares."""

from __future__ import annotations

import struct
from typing import Final

from dprobe.lib.script.values import Address, NamedNumber, Shown
from dprobed.program.types import (
    AliasType,
    ArrayType,
    EnumType,
    FloatType,
    IntegerType,
    Member,
    PointerType,
    StructType,
    Types,
    plain,
    size_of,
)

#: Structs within structs, and elements of an array, that are shown.
_DEPTH: Final = 16
_ELEMENTS: Final = 4096


def typed(types: Types, index: int, data: bytes, depth: int = _DEPTH) -> Shown:
    """A value of a type; None where the memory, or the table, has not all of it."""
    if not 0 <= index < len(types) or not depth:
        return None
    match types[index]:
        case AliasType() as alias:
            return typed(types, alias.to, data, depth - 1)
        case IntegerType() as of:
            return _integer(of, data)
        case EnumType() as of:
            return _enum(of, data)
        case PointerType():
            return Address(int.from_bytes(data[:8], "little")) if len(data) >= 8 else None
        case FloatType() as of if of.size in (4, 8) and len(data) >= of.size:
            number: float = struct.unpack_from("<f" if of.size == 4 else "<d", data)[0]
            return number
        case ArrayType() as of:
            return _array(types, of, data, depth)
        case StructType() as of:
            return {
                member.name: _member(types, member, data, depth)
                for member in of.members
                if member.name
            }
    return None


def _integer(of: IntegerType, data: bytes) -> Shown:
    if len(data) < of.size:
        return None
    number = int.from_bytes(data[: of.size], "little", signed=of.signed)
    return bool(number) if of.boolean else number


def _enum(of: EnumType, data: bytes) -> Shown:
    if len(data) < of.size:
        return None
    number = int.from_bytes(data[: of.size], "little", signed=of.signed)
    name = next((name for name, each in of.values if each == number), None)
    return number if name is None else NamedNumber(number, name)


def _array(types: Types, of: ArrayType, data: bytes, depth: int) -> Shown:
    size = size_of(types, of.of)
    if not size:
        return []
    count = len(data) // size if of.count is None else of.count
    element = plain(types, of.of)
    if isinstance(element, IntegerType) and element.character and size == 1:
        return data[:count].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    found: list[Shown] = [
        typed(types, of.of, data[number * size : (number + 1) * size], depth - 1)
        for number in range(min(count, _ELEMENTS))
    ]
    return found


def _member(types: Types, member: Member, data: bytes, depth: int) -> Shown:
    part = data[member.offset :]
    if not member.bits:
        return typed(types, member.type, part, depth - 1)
    number = int.from_bytes(part[:16], "little") >> member.bit & ((1 << member.bits) - 1)
    of = plain(types, member.type)
    if isinstance(of, IntegerType) and of.signed and number >> (member.bits - 1):
        number -= 1 << member.bits
    return number
