"""The symbols of one file, as packed arrays sorted by name.

A table is one block of bytes: it is what the cache keeps on disk, and what is searched in memory,
without an object for each symbol (libc with its debug file has 10,000, others a million). To read
and sort libc's dynamic symbols takes 13 ms so and 125 with pyelftools' symbol objects; those of its
debug file 48 and 415 ms.

    header   magic 8, count u32, code count u32, blob size u32, reserved u32
    values   u64 * count         sorted by (name, value)
    sizes    u64 * count
    names    u32 * count         offsets in the blob
    versions u32 * count         offsets in the blob, 0 is none
    sources  u32 * count         offsets in the blob, 0 is none
    by_code  u32 * code count    indices of code symbols, sorted by value
    types    u8 * count          STT_*
    ranks    u8 * count          Rank
    blob     NUL-terminated strings, the first one empty
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, Literal

import msgspec

from dprobed.binary.elf import (
    DT_GNU_HASH,
    DT_HASH,
    DT_STRSZ,
    DT_STRTAB,
    DT_SYMTAB,
    ElfFile,
    name_bytes,
    text_of,
)
from dprobed.binary.headers import (
    SHT_DYNSYM,
    SHT_GNU_VERDEF,
    SHT_GNU_VERSYM,
    SHT_NOBITS,
    SHT_SYMTAB,
)

STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_FILE, STT_TLS, STT_GNU_IFUNC = 0, 1, 2, 4, 6, 10
CODE_TYPES: Final = frozenset((STT_NOTYPE, STT_FUNC, STT_GNU_IFUNC))
_KEPT_TYPES: Final = frozenset((STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_TLS, STT_GNU_IFUNC))

_SHN_LORESERVE, _SHN_XINDEX = 0xFF00, 0xFFFF
_VERSION_HIDDEN: Final = 0x8000
_DT_VERSYM, _DT_VERDEF, _DT_VERDEFNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD

SYMBOL: Final = struct.Struct("<IBBHQQ")
_HEADER: Final = struct.Struct("<8sIIII")
_MAGIC: Final = b"DPSYMS\0\1"
#: How many symbols that begin before an address are looked at for one that covers it: assembler
#: labels inside a function are the reason why the nearest is not always the one.
_LOOK_BACK: Final = 64


class Rank(IntEnum):
    """Which of several symbols of one name is chosen: the lowest."""

    GLOBAL = 0  # global or weak, without version or of the default version
    LOCAL = 1
    OLD_VERSION = 2  # a version that new programs are not linked with


class Symbol(msgspec.Struct, frozen=True):
    """One defined symbol. ``version`` and ``source`` (of STT_FILE) are empty if unknown."""

    name: str
    value: int
    size: int
    type: int
    rank: int
    version: str
    source: str


class SymbolTable:
    """A packed table; raises ValueError if ``data`` is not one."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEADER.size:
            raise ValueError("a symbol table without its header")
        magic, count, code, blob, _ = _HEADER.unpack_from(data)
        if magic != _MAGIC or len(data) != _HEADER.size + count * 30 + code * 4 + blob:
            raise ValueError("not a symbol table of this version")
        self.data = data
        view = memoryview(data)
        position = _HEADER.size

        def column(letter: Literal["Q", "I", "B"], width: int, length: int) -> memoryview:
            nonlocal position
            start = position
            position += width * length
            return view[start:position].cast(letter)

        self._values = column("Q", 8, count)
        self._sizes = column("Q", 8, count)
        self._names = column("I", 4, count)
        self._versions = column("I", 4, count)
        self._sources = column("I", 4, count)
        self._by_code = column("I", 4, code)
        self._types = column("B", 1, count)
        self._ranks = column("B", 1, count)
        self._blob = position

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Symbol:
        return Symbol(
            text_of(self._string(self._names[index])),
            self._values[index],
            self._sizes[index],
            self._types[index],
            self._ranks[index],
            text_of(self._string(self._versions[index])),
            text_of(self._string(self._sources[index])),
        )

    def _string(self, offset: int) -> bytes:
        start = self._blob + offset
        return self.data[start : self.data.index(b"\0", start)]

    def find(self, name: str) -> list[Symbol]:
        """All symbols of exactly this name, sorted by address."""
        raw = name_bytes(name)
        index = bisect_left(self._names, raw, key=self._string)
        found = []
        while index < len(self._names) and self._string(self._names[index]) == raw:
            found.append(self[index])
            index += 1
        return found

    def names(self) -> list[str]:
        """All names, sorted, each once."""
        return [text_of(raw) for raw in dict.fromkeys(map(self._string, self._names))]

    def code(self) -> Iterator[Symbol]:
        """All code symbols by address; several symbols of one address follow each other."""
        return (self[index] for index in self._by_code)

    def variables(self) -> list[Symbol]:
        """All data symbols that are the same in every thread, by address."""
        found = (self[index] for index in range(len(self)))
        return sorted(
            (symbol for symbol in found if symbol.type == STT_OBJECT),
            key=lambda symbol: (symbol.value, symbol.name),
        )

    def code_at(self, vaddr: int) -> Symbol | None:
        """The symbol that the code at ``vaddr`` belongs to.

        One whose size covers it, else the nearest one of size 0 before it; of several at one
        address the one with the plainest name.
        """
        position = bisect_right(self._by_code, vaddr, key=self._values.__getitem__)
        label: Symbol | None = None
        best: Symbol | None = None
        for index in reversed(self._by_code[max(0, position - _LOOK_BACK) : position]):
            value, size = self._values[index], self._sizes[index]
            if best is not None and value != best.value:
                break
            if vaddr < value + size:
                symbol = self[index]
                if best is None or _plainness(symbol) < _plainness(best):
                    best = symbol
            elif not size and best is None and (label is None or label.value == value):
                symbol = self[index]
                if label is None or _plainness(symbol) < _plainness(label):
                    label = symbol
        return best or label


def _plainness(symbol: Symbol) -> tuple[int, bool, int, int, str]:
    underscores = len(symbol.name) - len(symbol.name.lstrip("_"))
    return symbol.rank, symbol.type == STT_NOTYPE, underscores, len(symbol.name), symbol.name


# name, value, rank, size, version, source, type: the order in which entries are sorted
_Entry = tuple[bytes, int, int, int, bytes, bytes, int]


class RawSymbols(msgspec.Struct, frozen=True):
    """A symbol table section as it is in the file."""

    file: ElfFile
    symbols: bytes
    strings: bytes
    versions: bytes  # .gnu.version, empty if none
    version_names: dict[int, bytes]


def raw_tables(elf: ElfFile, kinds: tuple[int, ...] = (SHT_SYMTAB, SHT_DYNSYM)) -> list[RawSymbols]:
    """The symbol table sections of a file; those of the dynamic section if it has no sections."""
    tables = []
    for section in elf.sections:
        if section.type not in kinds:  # in a debug file .dynsym is there, but empty (NOBITS)
            continue
        if section.link >= len(elf.sections):
            raise elf.damaged(f"section {section.name} names strings that do not exist")
        strings = elf.content(elf.sections[section.link])
        symbols = elf.content(section)
        versions, names = b"", {}
        if section.type == SHT_DYNSYM:
            versions = _content_of(elf, SHT_GNU_VERSYM)
            names = version_definitions(_content_of(elf, SHT_GNU_VERDEF), strings)
        tables.append(_raw(elf, symbols, strings, versions, names))
    if not elf.sections and DT_SYMTAB in elf.dynamic:
        tables.append(_dynamic_table(elf))
    return tables


def _raw(
    elf: ElfFile, symbols: bytes, strings: bytes, versions: bytes, names: dict[int, bytes]
) -> RawSymbols:
    whole = len(symbols) // SYMBOL.size
    # The NUL at the end makes every search for an end of a string succeed.
    return RawSymbols(elf, symbols[: whole * SYMBOL.size], strings + b"\0", versions, names)


def _content_of(elf: ElfFile, kind: int) -> bytes:
    section = next((s for s in elf.sections if s.type == kind), None)
    return elf.content(section) if section is not None and section.type != SHT_NOBITS else b""


def _dynamic_table(elf: ElfFile) -> RawSymbols:
    tags = elf.dynamic
    count = dynamic_symbol_count(elf)
    symbols = elf.read_vaddr(tags[DT_SYMTAB], count * SYMBOL.size)
    strings = elf.read_vaddr(tags.get(DT_STRTAB, 0), tags.get(DT_STRSZ, 0))
    versions, names = b"", {}
    if _DT_VERSYM in tags:
        versions = elf.read_vaddr(tags[_DT_VERSYM], count * 2)
    if _DT_VERDEF in tags:
        start = elf.vaddr_to_offset(tags[_DT_VERDEF])
        if start is not None:
            size = min(elf.size - start, 64 * tags.get(_DT_VERDEFNUM, 0))
            names = version_definitions(elf.read(start, size), strings)
    return _raw(elf, symbols, strings, versions, names)


def dynamic_symbol_count(elf: ElfFile) -> int:
    """How many dynamic symbols there are, from the hash tables: nothing else tells it."""
    tags = elf.dynamic
    if DT_HASH in tags:
        return int(struct.unpack("<I", elf.read_vaddr(tags[DT_HASH] + 4, 4))[0])
    if DT_GNU_HASH not in tags:
        return 0
    start = tags[DT_GNU_HASH]
    buckets, first, bloom = memoryview(elf.read_vaddr(start, 12)).cast("I")
    table = start + 16 + bloom * 8
    last = max(array("I", elf.read_vaddr(table, buckets * 4)), default=0)
    if last < first:
        return first
    chain = elf.vaddr_to_offset(table + buckets * 4)
    if chain is None:
        raise elf.damaged("its symbol hash table is cut off")
    # The last symbol of a chain has the lowest bit of its hash set.
    while not elf.read(chain + (last - first) * 4, 1)[0] & 1:
        last += 1
    return last + 1


def version_definitions(section: bytes, strings: bytes) -> dict[int, bytes]:
    """Version index → name, from .gnu.version_d; damaged entries end the list."""
    names: dict[int, bytes] = {}
    position = 0
    while position + 20 <= len(section):
        _, _, index, _, _, auxiliary, step = struct.unpack_from("<HHHHIII", section, position)
        where = position + auxiliary
        if where + 8 > len(section):
            break
        (offset,) = struct.unpack_from("<I", section, where)
        end = strings.find(b"\0", offset)
        names[index & ~_VERSION_HIDDEN] = strings[offset : end if end >= 0 else len(strings)]
        if not step:
            break
        position += step
    return names


def _entries(table: RawSymbols, shift: int) -> Iterator[_Entry]:
    """The defined symbols of a table; ``shift`` is added to their addresses."""
    strings = table.strings
    find_end = strings.index
    versions = memoryview(table.versions)[: len(table.versions) & ~1].cast("H")
    versioned = len(versions)
    version_names = table.version_names
    source = b""
    for number, (offset, info, _, section, value, size) in enumerate(
        SYMBOL.iter_unpack(table.symbols)
    ):
        kind = info & 15
        if not section or (kind != STT_FILE and _SHN_LORESERVE <= section != _SHN_XINDEX):
            continue
        if kind not in _KEPT_TYPES and kind != STT_FILE:
            continue
        try:
            name = strings[offset : find_end(b"\0", offset)]
        except ValueError:
            raise table.file.damaged(f"symbol {number} has a name outside the names") from None
        if kind == STT_FILE:
            source = name
            continue
        if not name:
            continue
        version = b""
        rank = Rank.GLOBAL if info >> 4 else Rank.LOCAL
        if number < versioned and rank == Rank.GLOBAL:
            index = versions[number]
            version = version_names.get(index & ~_VERSION_HIDDEN, b"") if index & 0x7FFE else b""
            if index & _VERSION_HIDDEN:
                rank = Rank.OLD_VERSION
        elif b"@" in name:
            # The static linker writes versions into the names of .symtab: name@@DEFAULT, name@OLD.
            name, _, version = name.partition(b"@")
            if version.startswith(b"@"):
                version = version[1:]
            else:
                rank = Rank.OLD_VERSION
        where = value + shift & 0xFFFF_FFFF_FFFF_FFFF
        yield (name, where, int(rank), size, version, source if rank == Rank.LOCAL else b"", kind)


def pack(tables: list[tuple[RawSymbols, int]]) -> SymbolTable:
    """One table of all defined symbols, each once; the numbers are added to their addresses."""
    entries = [entry for table, shift in tables for entry in _entries(table, shift)]
    entries.sort()
    kept: list[_Entry] = []
    for entry in entries:
        if kept and kept[-1] == entry:
            continue  # it is both in .symtab and in .dynsym
        # .symtab of older linkers does not tell the version, .dynsym does: one symbol.
        if kept and kept[-1][:3] == entry[:3] and not kept[-1][4] and entry[2] == Rank.GLOBAL:
            kept.pop()
        kept.append(entry)
    del entries
    blob = bytearray(b"\0")
    interned: dict[bytes, int] = {b"": 0}

    def intern(raw: bytes) -> int:
        offset = interned.get(raw)
        if offset is None:
            offset = interned[raw] = len(blob)
            blob.extend(raw + b"\0")
        return offset

    names = array("I", [intern(entry[0]) for entry in kept])
    versions = array("I", [intern(entry[4]) for entry in kept])
    sources = array("I", [intern(entry[5]) for entry in kept])
    values = array("Q", [entry[1] for entry in kept])
    code = sorted(
        (i for i, entry in enumerate(kept) if entry[6] in CODE_TYPES), key=values.__getitem__
    )
    return SymbolTable(
        b"".join(
            (
                _HEADER.pack(_MAGIC, len(kept), len(code), len(blob), 0),
                values.tobytes(),
                array("Q", [entry[3] for entry in kept]).tobytes(),
                names.tobytes(),
                versions.tobytes(),
                sources.tobytes(),
                array("I", code).tobytes(),
                bytes(entry[6] for entry in kept),
                bytes(entry[2] for entry in kept),
                bytes(blob),
            )
        )
    )


def has_symbol_table(elf: ElfFile) -> bool:
    """Whether the file has a .symtab with something in it."""
    return any(
        section.type == SHT_SYMTAB and section.size > SYMBOL.size for section in elf.sections
    )
