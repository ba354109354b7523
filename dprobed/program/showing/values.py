"""From bytes and a type to what is shown: by members, to a depth; strings, enums by name; what the
standard libraries have (``libstdcxx``, ``rust``) as the values that they stand for.

Memory is read through one function, and nothing that it answers is trusted: counts are limited,
circles end at the depth, and a value that is damaged is shown as its members.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Final

from dprobed.program.showing import libstdcxx, rust
from dprobed.program.showing.nodes import (
    Shown,
    ShownList,
    ShownNothing,
    ShownNumber,
    ShownPointer,
    ShownStruct,
    ShownText,
)
from dprobed.program.showing.viewing import ShowLimits
from dprobed.program.types import (
    ArrayType,
    EnumType,
    FloatType,
    FunctionType,
    IntegerType,
    Member,
    PointerType,
    StructType,
    Type,
    Types,
    plain,
    size_of,
)

#: From address and size to bytes; None where they cannot be read.
ReadMemory = Callable[[int, int], "bytes | None"]

#: Bytes of a value that are looked at, and parts of it and reads that it may cost.
_LARGEST: Final = 1 << 20
_MOST_PARTS: Final = 20_000
#: Values within each other, whatever the limits are: types may be within themselves.
_DEEPEST: Final = 64


class _TooMuch(Exception):
    """A value that has too many parts."""


class Viewer:
    """Shows values of one target. ``follow``: whether pointers to structs are followed."""

    def __init__(
        self,
        types: Types,
        memory: ReadMemory,
        limits: ShowLimits = ShowLimits(),  # noqa: B008 (it is frozen)
        *,
        follow: bool = True,
    ) -> None:
        self.types = types
        self.limits = limits
        self.follow = follow
        self._memory = memory
        self._spent = 0
        self._nested = 0

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes of the target; raises _TooMuch."""
        self._spend()
        if not 0 < size <= _LARGEST or not 0 < address < 1 << 64:
            return b"" if not size else None
        raw = self._memory(address, size)
        return raw if raw is not None and len(raw) == size else None

    def _spend(self) -> None:
        self._spent += 1
        if self._spent > _MOST_PARTS:
            raise _TooMuch

    def word(self, address: int) -> int | None:
        """A word of the target."""
        raw = self.read(address, 8)
        return int.from_bytes(raw, "little") if raw is not None else None

    # -- values --------------------------------------------------------------------------------

    def at(self, index: int, address: int) -> Shown:
        """The value of a type at an address."""
        self._spent = 0
        try:
            return self.value_at(index, address, 0)
        except _TooMuch:
            return ShownNothing("it is too much to look at")

    def of(self, index: int, raw: bytes, address: int | None = None) -> Shown:
        """The value that these bytes are; ``address``: where they are, if they are in memory."""
        self._spent = 0
        try:
            return self.value(index, raw, address, 0)
        except _TooMuch:
            return ShownNothing("it is too much to look at")

    def value_at(self, index: int, address: int, depth: int) -> Shown:
        """The value of a type at an address, within another."""
        kind = plain(self.types, index)
        if isinstance(kind, ArrayType) and size_of(self.types, index) > _LARGEST:
            return ShownNothing("too large")
        size = size_of(self.types, index)
        raw = self.read(address, size)
        if raw is None:
            return ShownNothing("cannot be read")
        return self.value(index, raw, address, depth)

    def value(self, index: int, raw: bytes, address: int | None, depth: int) -> Shown:
        """The value that bytes are, within another."""
        if self._nested >= _DEEPEST:
            return ShownNothing("deeper")
        self._spend()
        self._nested += 1
        try:
            return self._value(index, raw, address, depth)
        finally:
            self._nested -= 1

    def _value(self, index: int, raw: bytes, address: int | None, depth: int) -> Shown:
        kind = plain(self.types, index)
        match kind:
            case IntegerType() | FloatType() | EnumType():
                return scalar(kind, raw)
            case PointerType():
                return self._pointer(kind, int.from_bytes(raw[:8], "little"), depth)
            case ArrayType():
                return self._array(kind, raw, address, depth)
            case StructType():
                return self._struct(kind, raw, address, depth)
            case FunctionType():
                return ShownNothing("a function")
            case _:
                return ShownNothing("its type is not known")

    def _pointer(self, kind: PointerType, address: int, depth: int) -> Shown:
        to = plain(self.types, kind.to)
        if not address:
            return ShownPointer(0)
        if isinstance(to, IntegerType) and to.character and to.size == 1 and not kind.reference:
            text = self.string(address)
            return ShownPointer(address, text) if text is not None else ShownPointer(address)
        if kind.reference:
            if depth > self.limits.depth:
                return ShownPointer(address)
            return self.value_at(kind.to, address, depth)
        if not self.follow or depth >= self.limits.depth or not isinstance(to, StructType):
            return ShownPointer(address)
        if not to.complete or not to.size:
            return ShownPointer(address)
        return ShownPointer(address, self.value_at(kind.to, address, depth + 1))

    def string(self, address: int, length: int | None = None) -> ShownText | None:
        """The text at an address, up to a zero or of a length; None where it cannot be read."""
        most = self.limits.string
        wanted = most + 1 if length is None else min(length, most)
        found = b""
        while len(found) < wanted:
            # Pages are read for themselves: the next may not be there.
            size = min(wanted - len(found), 4096 - (address + len(found)) % 4096)
            part = self.read(address + len(found), size)
            if part is None:
                if not found:
                    return None
                return shown_text(found, cut=True)
            end = part.find(b"\0") if length is None else -1
            if end >= 0:
                found += part[:end]
                return shown_text(found[:most], cut=len(found) > most)
            found += part
        return shown_text(found[:most], cut=length is None or length > most)

    def _array(self, kind: ArrayType, raw: bytes, address: int | None, depth: int) -> Shown:
        of = plain(self.types, kind.of)
        if kind.count is None:
            return ShownNothing("its length is not known")
        if isinstance(of, IntegerType) and of.character and of.size == 1:
            text = raw[: kind.count]
            end = text.find(b"\0")
            text = text[:end] if end >= 0 else text
            most = self.limits.string
            return shown_text(text[:most], cut=len(text) > most)
        return self.elements(kind.of, kind.count, raw, address, depth)

    def elements(
        self, of: int, count: int, raw: bytes, address: int | None, depth: int
    ) -> ShownList:
        """Elements one after the other."""
        size = size_of(self.types, of)
        shown = min(count, self.limits.width) if size else 0
        found = tuple(
            self.value(
                of,
                raw[at * size : (at + 1) * size],
                None if address is None else address + at * size,
                depth,
            )
            for at in range(shown)
        )
        return ShownList(found, count - shown)

    def _struct(self, kind: StructType, raw: bytes, address: int | None, depth: int) -> Shown:
        if not kind.complete:
            return ShownNothing("its members are not known")
        if depth > self.limits.depth:
            return ShownNothing("deeper")
        if kind.kind == "complex":
            real, imaginary = (_float(raw[each.offset :][: kind.size // 2])
                               for each in kind.members)  # fmt: skip
            return ShownNumber(real, f"{real:g} + {imaginary:g}i")
        if kind.language == "rust":
            known = rust.shown(self, kind, raw, address, depth)
            if known is not None:
                return known
        elif kind.name.startswith("std::"):
            known = libstdcxx.shown(self, kind, raw, address, depth)
            if known is not None:
                return known
        return self.members(kind, raw, address, depth)

    def members(
        self, kind: StructType, raw: bytes, address: int | None, depth: int, name: str = ""
    ) -> ShownStruct:
        """A struct by its members; base classes by their names."""
        found: list[tuple[str, Shown]] = []
        shown = [each for each in kind.members if not each.name.startswith("_vptr")]
        for member in shown[: self.limits.width]:
            each = self.member(member, raw, address, depth)
            if member.base and isinstance(each, ShownStruct) and not each.members:
                continue  # a base class that has nothing
            found.append((self._called(member), each))
        # Rust calls what has no name by its number.
        is_tuple = bool(found) and all(
            each.startswith("__") and each[2:].isdigit() for each, _ in found
        )
        more = max(len(shown) - self.limits.width, 0)
        return ShownStruct(tuple(found), name, more, is_tuple and kind.language == "rust")

    def _called(self, member: Member) -> str:
        if member.base:
            base = plain(self.types, member.type)
            return base.name if isinstance(base, StructType) else ""
        return member.name

    def member(self, member: Member, raw: bytes, address: int | None, depth: int) -> Shown:
        """The value of a member."""
        if member.virtual:
            return self._virtual(member, raw, address, depth)
        if member.bits:
            return self._bits(member, raw)
        size = size_of(self.types, member.type)
        kind = plain(self.types, member.type)
        at = None if address is None else address + member.offset
        part = raw[member.offset : member.offset + size]
        if len(part) < size:
            return ShownNothing("cannot be read")
        deeper = depth + (isinstance(kind, StructType) and not member.base and bool(member.name))
        return self.value(member.type, part, at, deeper)

    def _virtual(self, member: Member, raw: bytes, address: int | None, depth: int) -> Shown:
        table = int.from_bytes(raw[:8], "little")
        told = self.word(table + member.offset & (1 << 64) - 1) if table else None
        if told is None or address is None:
            return ShownNothing("cannot be read")
        offset = told - (1 << 64) if told >> 63 else told
        if abs(offset) > _LARGEST:
            return ShownNothing("cannot be read")
        return self.value_at(member.type, address + offset, depth)

    def _bits(self, member: Member, raw: bytes) -> Shown:
        bits = member.bits
        last = (member.bit + bits + 7) // 8
        number = int.from_bytes(raw[member.offset : member.offset + last], "little") >> member.bit
        number &= (1 << bits) - 1
        kind = plain(self.types, member.type)
        if not isinstance(kind, IntegerType | EnumType):
            return ShownNumber(number)
        if kind.signed and number >> (bits - 1):
            number -= 1 << bits
        return scalar(kind, number.to_bytes(16, "little", signed=number < 0)[: kind.size])


def shown_text(raw: bytes, *, cut: bool = False) -> ShownText:
    """Bytes as text: UTF-8, and what is not is escaped."""
    return ShownText(raw.decode("utf-8", "surrogateescape"), cut)


def scalar(kind: Type, raw: bytes) -> Shown:
    """A number, boolean, character or enum."""
    match kind:
        case FloatType(size=size):
            return ShownNumber(_float(raw[:size]))
        case EnumType(size=size, signed=signed, values=values):
            number = int.from_bytes(raw[:size], "little", signed=signed)
            return ShownNumber(number, _enum(values, number))
        case IntegerType(size=size, signed=signed):
            number = int.from_bytes(raw[:size], "little", signed=signed)
            if kind.boolean and number in (0, 1):
                return ShownNumber(number, "true" if number else "false")
            if kind.character and size == 4 and 0 <= number < 0x110000:
                return ShownText(chr(number), letter=True)
            return ShownNumber(number)
        case _:
            return ShownNothing("its type is not known")


def _enum(values: tuple[tuple[str, int], ...], number: int) -> str:
    """The name of a value, or of the flags that it is made of; empty where it has none."""
    for name, value in values:
        if value == number:
            return name
    if number <= 0:
        return ""
    found = [(name, value) for name, value in values if value > 0 and not value & (value - 1)]
    named = [name for name, value in found if number & value]
    left = number
    for _, value in found:
        left &= ~value
    return " | ".join(named) if named and not left else ""


def _float(raw: bytes) -> float:
    if len(raw) in (4, 8):
        (value,) = struct.unpack("<f" if len(raw) == 4 else "<d", raw)
        return float(value)
    if len(raw) < 10:
        return math.nan
    mantissa, head = struct.unpack("<QH", raw[:10])
    exponent, sign = head & 0x7FFF, -1.0 if head & 0x8000 else 1.0
    if exponent == 0x7FFF:
        return math.nan if mantissa << 1 & (1 << 64) - 1 else sign * math.inf
    try:
        return sign * math.ldexp(mantissa, exponent - 16383 - 63)
    except OverflowError:
        return sign * math.inf
