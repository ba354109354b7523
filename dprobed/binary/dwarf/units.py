"""Units of debug information and their entries (DWARF 5, section 7.5).

A unit is gone through once to know where its entries are and which is within which; the attributes
of an entry are read when they are asked for. So nothing depends on what an entry says of its
neighbours (DW_AT_sibling), and no damage makes a loop.

Not pyelftools (``tests/unit/binary/dwarf/test_units`` compares the two), which reads 14,000 entries
a second: 0.4 s for one of libpython's 200 units; these are 8 ms. A damaged DW_AT_sibling makes it
run for ever.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import Final, Protocol

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.abbreviations import (
    BLOCK,
    BLOCKS,
    FIXED,
    INDIRECT,
    LEB,
    NUMBERS,
    OFFSETS,
    TEXT,
    Abbreviation,
    UnknownForm,
)
from dprobed.binary.elf import ElfFile, string_at, text_of
from dprobed.binary.errors import LocationError
from dprobed.binary.leb128 import sleb, uleb

_REFERENCES: Final = frozenset((dw.REF1, dw.REF2, dw.REF4, dw.REF8, dw.REF_UDATA))
_ALT_REFERENCES: Final = frozenset((dw.GNU_REF_ALT, dw.REF_SUP4, dw.REF_SUP8))
_INDICES: Final = frozenset((dw.STRX, dw.STRX1, dw.STRX2, dw.STRX3, dw.STRX4, dw.GNU_STR_INDEX))
_ADDRESS_INDICES: Final = frozenset((dw.ADDRX, dw.ADDRX1, dw.ADDRX2, dw.ADDRX3, dw.ADDRX4,
                                     dw.GNU_ADDR_INDEX))  # fmt: skip
_CONSTANTS: Final = frozenset((dw.DATA1, dw.DATA2, dw.DATA4, dw.DATA8, dw.DATA16, dw.UDATA,
                               dw.SDATA, dw.IMPLICIT_CONST))  # fmt: skip
#: Forms of offsets into lists; before DWARF 4 they were constants.
LISTS: Final = frozenset((dw.SEC_OFFSET, dw.LOCLISTX, dw.RNGLISTX, dw.DATA4, dw.DATA8))

#: How deep entries may be within each other, and how far a name is followed.
_DEEPEST: Final = 256
_FARTHEST: Final = 8

#: The form and value of an attribute.
Value = tuple[int, "int | bytes"]


class DebugSource(Protocol):
    """What units need of the file that they are in: ``debug.DebugFile``."""

    @property
    def elf(self) -> ElfFile:
        """The file."""

    @property
    def supplement(self) -> DebugSource | None:
        """The file with what ``dwz`` found in several."""

    def content(self, name: str) -> bytes:
        """The content of .debug_NAME."""

    def damaged(self, what: str) -> LocationError:
        """The error that says that it is not sound."""

    def spend(self, entries: int) -> None:
        """Count entries that are gone through."""

    def abbreviations(self, header: UnitHeader) -> dict[int, Abbreviation]:
        """The abbreviations of a unit."""

    def headers(self, *, types: bool = False) -> list[UnitHeader]:
        """The headers of all units."""

    def unit(self, header: UnitHeader, *, types: bool = False) -> DebugUnit:
        """The unit of a header."""

    def entry_at(self, offset: int) -> DebugEntry:
        """The entry at an offset of .debug_info."""

    def type_by_signature(self, signature: int) -> DebugEntry | None:
        """The type that a type unit describes."""

    def text(self, unit: DebugUnit, value: Value) -> bytes:
        """The string that an attribute is."""


class UnitHeader:
    """The header of a unit: where it lies, and what kind it is."""

    __slots__ = ("abbreviations", "end", "first", "identity", "kind", "start", "type_at", "version",
                 "width")  # fmt: skip

    def __init__(self, data: bytes, start: int, *, types: bool) -> None:
        """Read it; raises IndexError where it is cut off."""
        length = int.from_bytes(data[start : start + 4], "little")
        at = start + 4
        self.width = 4
        if length == 0xFFFF_FFFF:
            length = int.from_bytes(data[at : at + 8], "little")
            at += 8
            self.width = 8
        self.start = start
        self.end = at + length
        if self.end > len(data) or length < 7:
            raise IndexError
        self.version = int.from_bytes(data[at : at + 2], "little")
        at += 2
        self.kind = dw.UT_TYPE if types else dw.UT_COMPILE
        if self.version >= 5:
            self.kind = data[at]
            at += 2
        self.abbreviations = int.from_bytes(data[at : at + self.width], "little")
        at += self.width
        if self.version < 5:
            at += 1
        #: Signature of a type, or what says that a split unit belongs to this one.
        self.identity = 0
        self.type_at = 0
        if self.kind in (dw.UT_SKELETON, dw.UT_SPLIT_COMPILE, dw.UT_TYPE, dw.UT_SPLIT_TYPE):
            self.identity = int.from_bytes(data[at : at + 8], "little")
            at += 8
        if self.kind in (dw.UT_TYPE, dw.UT_SPLIT_TYPE):
            self.type_at = start + int.from_bytes(data[at : at + self.width], "little")
            at += self.width
        self.first = at


class DebugUnit:
    """One unit; its entries are found when they are asked for."""

    def __init__(self, debug: DebugSource, header: UnitHeader, *, types: bool) -> None:
        self.debug = debug
        self.header = header
        self.version = header.version
        self.in_types = types
        self.data = debug.content("types" if types else "info")
        #: The unit of the linked file that this one, of a split file, belongs to.
        self.skeleton: DebugUnit | None = None
        self._offsets: array[int] = array("Q")
        self._kinds: list[Abbreviation] = []
        self._parents: array[int] = array("L")
        self._base: dict[int, int] = {}
        self.remembered: dict[str, object] = {}

    def __repr__(self) -> str:
        return f"<DebugUnit at {self.header.start:#x} of {self.debug.elf.path}>"

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return 500 + 24 * len(self._offsets)

    @cached_property
    def abbreviations(self) -> dict[int, Abbreviation]:
        """Its kinds of entries by their codes; raises LocationError."""
        return self.debug.abbreviations(self.header)

    # -- entries -------------------------------------------------------------------------------

    @property
    def top(self) -> DebugEntry:
        """The entry of the unit itself."""
        return DebugEntry(self, self.header.first)

    @property
    def is_indexed(self) -> bool:
        """Whether it is known where all of its entries are."""
        return bool(self._offsets)

    def index(self) -> None:
        """Find where all entries are; raises LocationError."""
        if self._offsets:
            return
        try:
            self._index()
        except (IndexError, KeyError, ValueError, UnknownForm) as error:
            raise self.debug.damaged(f"the unit at {self.header.start:#x}") from error

    def _index(self) -> None:
        data, at, end = self.data, self.header.first, self.header.end
        kinds = self.abbreviations
        offsets, found, parents = array("Q"), [], array("L")
        within: list[int] = []
        above = count = 0
        self.debug.spend((end - at) // 8)
        while at < end:
            start = at
            code = data[at]
            at += 1
            if not code:
                if within:
                    above = within.pop()
                continue
            if code >= 0x80:
                code, at = uleb(data, start)
            kind = kinds[code]
            offsets.append(start)
            found.append(kind)
            parents.append(above)
            size = kind.size
            at = at + size if size >= 0 else self._over(kind, at)
            if kind.children:
                within.append(above)
                above = count
                if len(within) > _DEEPEST:
                    raise IndexError
            count += 1
        if at > end:
            raise IndexError
        self._offsets, self._kinds, self._parents = offsets, found, parents

    def _over(self, kind: Abbreviation, at: int) -> int:
        """The offset behind an entry whose length varies; raises IndexError, ValueError."""
        data = self.data
        for step in kind.steps:
            if step >= 0:
                at += step
            elif step == LEB:
                while data[at] >= 0x80:
                    at += 1
                at += 1
            elif step == TEXT:
                at = data.index(b"\0", at) + 1
            elif step == INDIRECT:
                form, at = uleb(data, at)
                _, at = self._value(form, 0, at)
            elif step == BLOCK:
                size, at = uleb(data, at)
                at += size
            else:
                width = BLOCK - step
                at += width + int.from_bytes(data[at : at + width], "little")
        return at

    def entry_at(self, offset: int) -> DebugEntry:
        """The entry at an offset of the section; raises LocationError."""
        if not self.header.first <= offset < self.header.end:
            raise self.debug.damaged(f"a reference to {offset:#x}, outside of its unit")
        return DebugEntry(self, offset)

    def is_entry(self, offset: int) -> bool:
        """Whether an entry begins there; raises LocationError."""
        self.index()
        index = bisect_left(self._offsets, offset)
        return index < len(self._offsets) and self._offsets[index] == offset

    def around(self, at: int, tags: tuple[int, ...]) -> int | None:
        """The offset of the entry that has the byte at ``at``, if it has one of the tags."""
        self.index()
        index = bisect_right(self._offsets, at) - 1
        return self._offsets[index] if index >= 0 and self._kinds[index].tag in tags else None

    def entries(self, *tags: int) -> Iterator[DebugEntry]:
        """All entries that have one of the tags."""
        self.index()
        wanted = frozenset(tags)
        offsets = self._offsets
        for index, kind in enumerate(self._kinds):
            if kind.tag in wanted:
                yield DebugEntry(self, offsets[index])

    def kind_at(self, offset: int) -> tuple[Abbreviation, int]:
        """The kind of the entry at an offset, and where its attributes begin; raises
        LocationError."""
        try:
            code, at = uleb(self.data, offset)
            return self.abbreviations[code], at
        except (IndexError, KeyError) as error:
            raise self.debug.damaged(f"the entry at {offset:#x}") from error

    def parent_of(self, offset: int) -> int | None:
        """The offset of the entry that an entry is within; raises LocationError."""
        if offset == self.header.first:
            return None
        self.index()
        index = bisect_left(self._offsets, offset)
        if index >= len(self._offsets) or self._offsets[index] != offset:
            raise self.debug.damaged(f"a reference to {offset:#x}, where no entry begins")
        return self._offsets[self._parents[index]]

    def children_of(self, offset: int) -> Iterator[int]:
        """The offsets of the entries directly within an entry; raises LocationError."""
        kind, at = self.kind_at(offset)
        if not kind.children:
            return
        data, end, kinds = self.data, self.header.end, self.abbreviations
        depth = count = 0
        try:
            at = at + kind.size if kind.size >= 0 else self._over(kind, at)
            while at < end:
                start = at
                code, at = uleb(data, at)
                if not code:
                    if not depth:
                        break
                    depth -= 1
                    continue
                kind = kinds[code]
                if not depth:
                    yield start
                at = at + kind.size if kind.size >= 0 else self._over(kind, at)
                if kind.children:
                    depth += 1
                count += 1
        except (IndexError, KeyError, ValueError, UnknownForm) as error:
            raise self.debug.damaged(f"what is within the entry at {offset:#x}") from error
        finally:
            self.debug.spend(count)

    # -- attributes ----------------------------------------------------------------------------

    def attributes(self, offset: int) -> dict[int, Value]:
        """The attributes of an entry; raises LocationError."""
        kind, at = self.kind_at(offset)
        found: dict[int, Value] = {}
        try:
            for name, form, constant in kind.attributes:
                value, at = self._value(form, constant, at)
                found.setdefault(name, value)
        except (IndexError, UnknownForm) as error:
            raise self.debug.damaged(f"an entry at {at:#x}") from error
        if at > self.header.end:
            raise self.debug.damaged(f"an entry at {at:#x} is cut off")
        return found

    def _value(self, form: int, constant: int, at: int) -> tuple[Value, int]:
        """Form and value of an attribute, and the offset behind it."""
        data = self.data
        size = self.header.width if form in OFFSETS else FIXED.get(form)
        if size is not None:
            if form == dw.IMPLICIT_CONST:
                return (form, constant), at
            if form == dw.FLAG_PRESENT:
                return (form, 1), at
            if form == dw.REF_ADDR and self.version <= 2:
                size = 8
            return (form, int.from_bytes(data[at : at + size], "little")), at + size
        if form in NUMBERS:
            number, at = sleb(data, at) if form == dw.SDATA else uleb(data, at)
            return (form, number), at
        if form in BLOCKS:
            width = BLOCKS[form]
            if width:
                size, at = int.from_bytes(data[at : at + width], "little"), at + width
            else:
                size, at = uleb(data, at)
            return (form, data[at : at + size]), at + size
        if form == dw.STRING:
            raw = string_at(data, at)
            return (form, raw), at + len(raw) + 1
        if form == dw.INDIRECT:
            form, at = uleb(data, at)
            if form in (dw.INDIRECT, dw.IMPLICIT_CONST):
                raise UnknownForm("a form that names itself")
            return self._value(form, 0, at)
        raise UnknownForm(f"form {form:#x}")

    # -- tables that attributes point into -------------------------------------------------------

    def base(self, name: int, *others: int) -> int | None:
        """An attribute of the unit that says where its part of a section begins."""
        if name not in self._base:
            attributes = self.attributes(self.header.first)
            at = next((attributes[each][1] for each in (name, *others) if each in attributes), -1)
            self._base[name] = at if isinstance(at, int) else -1
        return self._base[name] if self._base[name] >= 0 else None

    def string(self, index: int) -> bytes:
        """A string by its number in .debug_str_offsets."""
        base = self.base(dw.STR_OFFSETS_BASE)
        width = self.header.width
        if base is None:
            base = 0 if self.version < 5 else 2 * width if width == 8 else 8
        table = self.debug.content("str_offsets")
        at = base + index * width
        return string_at(
            self.debug.content("str"), int.from_bytes(table[at : at + width], "little")
        )

    def address(self, index: int) -> int:
        """An address by its number in .debug_addr, which only the linked file has."""
        linked = self.skeleton or self
        base = linked.base(dw.ADDR_BASE, dw.GNU_ADDR_BASE)
        if base is None:
            base = 0 if linked.version < 5 else 8
        at = base + index * 8
        raw = linked.debug.content("addr")[at : at + 8]
        if len(raw) < 8:
            raise self.debug.damaged(f"address {index} of a unit")
        return int.from_bytes(raw, "little")

    @property
    def low(self) -> int:
        """The address that its lists are relative to."""
        for unit in (self.skeleton, self):
            address = unit.top.address(dw.LOW_PC) if unit is not None else None
            if address is not None:
                return address
        return 0

    @property
    def language(self) -> str:
        """The language of its source: ``c``, ``c++``, ``rust``, or another."""
        return dw.LANGUAGES.get(self.top.number(dw.LANGUAGE, 0), "other")


class DebugEntry:
    """One entry of a unit."""

    __slots__ = ("_attributes", "_parent", "offset", "unit")

    def __init__(self, unit: DebugUnit, offset: int, parent: DebugEntry | None = None) -> None:
        self.unit = unit
        self.offset = offset
        self._parent = parent
        self._attributes: dict[int, Value] | None = None

    def __repr__(self) -> str:
        return f"<DebugEntry {self.tag:#x} at {self.offset:#x}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DebugEntry) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> tuple[int, int, int]:
        """What tells it from every other entry."""
        return id(self.unit.debug), self.unit.in_types, self.offset

    @property
    def tag(self) -> int:
        """What it is."""
        return self.unit.kind_at(self.offset)[0].tag

    @property
    def attributes(self) -> dict[int, Value]:
        """Its own attributes."""
        if self._attributes is None:
            self._attributes = self.unit.attributes(self.offset)
        return self._attributes

    @property
    def parent(self) -> DebugEntry | None:
        """The entry that it is within; raises LocationError."""
        if self._parent is None:
            offset = self.unit.parent_of(self.offset)
            self._parent = DebugEntry(self.unit, offset) if offset is not None else None
        return self._parent

    def children(self) -> Iterator[DebugEntry]:
        """The entries directly within it; raises LocationError."""
        for offset in self.unit.children_of(self.offset):
            yield DebugEntry(self.unit, offset, self)

    def find(self, name: int) -> Value | None:
        """An attribute of this entry, or of what it completes or is a copy of."""
        return self.where(name)[1]

    def where(self, name: int) -> tuple[DebugEntry, Value | None]:
        """The same, with the entry that has it."""
        entry: DebugEntry | None = self
        for _ in range(_FARTHEST):
            if entry is None:
                break
            value = entry.attributes.get(name)
            if value is not None:
                return entry, value
            entry = entry.origin
        return self, None

    @property
    def origin(self) -> DebugEntry | None:
        """What it completes (a declaration) or is a copy of."""
        for name in (dw.ABSTRACT_ORIGIN, dw.SPECIFICATION):
            if name in self.attributes:
                return self.reference(name)
        return None

    def number(self, name: int, default: int) -> int:
        """A constant of its own."""
        value = self.attributes.get(name)
        if value is None or value[0] not in _CONSTANTS or isinstance(value[1], bytes):
            return default
        return value[1]

    def flag(self, name: int) -> bool:
        """Whether it, or what it completes, says so."""
        value = self.find(name)
        return value is not None and bool(value[1])

    def text(self, *names: int) -> str:
        """A name: of the attributes that are there the first, also of what it completes."""
        return text_of(self.raw_text(*names))

    def raw_text(self, *names: int) -> bytes:
        """The same as it is in the file."""
        for name in names:
            entry, value = self.where(name)
            if value is not None:
                return entry.unit.debug.text(entry.unit, value)
        return b""

    def own_text(self, name: int) -> bytes:
        """A name that it has itself; empty where it has none."""
        value = self.attributes.get(name)
        return self.unit.debug.text(self.unit, value) if value is not None else b""

    def reference(self, name: int) -> DebugEntry | None:
        """The entry that an attribute of its own refers to; raises LocationError."""
        value = self.attributes.get(name)
        return self.referred(value) if value is not None else None

    def referred(self, value: Value) -> DebugEntry | None:
        """The entry that a value refers to."""
        form, number = value
        unit = self.unit
        if isinstance(number, bytes):
            return None
        if form in _REFERENCES:
            return unit.entry_at(unit.header.start + number)
        if form == dw.REF_ADDR:
            return unit.debug.entry_at(number)
        if form == dw.REF_SIG8:
            return unit.debug.type_by_signature(number)
        if form in _ALT_REFERENCES:
            other = unit.debug.supplement
            return other.entry_at(number) if other is not None else None
        return None

    def address(self, name: int) -> int | None:
        """An address that it has itself."""
        value = self.attributes.get(name)
        if value is None or isinstance(value[1], bytes):
            return None
        if value[0] in _ADDRESS_INDICES:
            return self.unit.address(value[1])
        return value[1] if value[0] == dw.ADDR else None

    def is_constant(self, name: int) -> bool:
        """Whether an attribute of its own is a plain number."""
        value = self.attributes.get(name)
        return value is not None and value[0] in _CONSTANTS


def is_string_index(form: int) -> bool:
    """Whether a form is the number of a string."""
    return form in _INDICES
