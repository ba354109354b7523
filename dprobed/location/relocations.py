"""Which words of a module the dynamic linker fills with the address of a function.

For IFUNC symbols: the file has only the resolver; which function it chose is seen in the live
process, in a word that the dynamic linker (or the start-up code of a static program) has filled.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from dprobed.location.elf import DT_JMPREL, DT_PLTRELSZ, DT_RELA, DT_RELASZ, ElfFile
from dprobed.location.symbols import SYMBOL, RawSymbols, raw_tables

_RELA: Final = struct.Struct("<QQq")
_SHT_RELA: Final = 4
_SHT_DYNSYM: Final = 11
_R_GLOB_DAT, _R_JUMP_SLOT, _R_IRELATIVE = 6, 7, 37


def _relocations(elf: ElfFile) -> Iterator[tuple[int, int, int]]:
    blocks = []
    if elf.dynamic:
        for start, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
            if start in elf.dynamic and elf.dynamic.get(size):
                blocks.append(elf.read_vaddr(elf.dynamic[start], elf.dynamic[size]))
    else:
        # A static program has no dynamic section; its start-up code applies .rela.plt itself.
        blocks += [
            elf.content(s) for s in elf.sections if s.type == _SHT_RELA and s.flags & 2 and s.size
        ]
    for block in blocks:
        yield from _RELA.iter_unpack(block[: len(block) // _RELA.size * _RELA.size])


def ifunc_slots(elf: ElfFile, resolver_vaddr: int) -> list[int]:
    """The words in this module that hold what the resolver at ``resolver_vaddr`` chose."""
    return [
        where
        for where, info, addend in _relocations(elf)
        if info & 0xFFFF_FFFF == _R_IRELATIVE and addend == resolver_vaddr
    ]


def import_slots(elf: ElfFile, symbol: str, version: str = "") -> list[int]:
    """The words by which this module refers to ``symbol``, wherever that is defined.

    With lazy binding a word may still lead into this module's own procedure linkage table.
    ``version`` tells symbols of one name apart, where the module says which it wants.
    """
    wanted: set[int] = set()
    for table in raw_tables(elf, (_SHT_DYNSYM,)):
        needed = _needed_versions(elf, table) if version else {}
        for number in _numbers_of(table, symbol):
            index = _version_index(table, number)
            name = needed.get(index) or table.version_names.get(index, b"")
            if not version or not name or name == version.encode():
                wanted.add(number)
    return [
        where
        for where, info, _ in _relocations(elf)
        if info & 0xFFFF_FFFF in (_R_GLOB_DAT, _R_JUMP_SLOT) and info >> 32 in wanted
    ]


def _numbers_of(table: RawSymbols, symbol: str) -> Iterator[int]:
    raw = symbol.encode("utf-8", "surrogateescape")
    length = len(raw)
    for number, entry in enumerate(SYMBOL.iter_unpack(table.symbols)):
        end = entry[0] + length
        if table.strings[entry[0] : end] == raw and table.strings[end : end + 1] == b"\0":
            yield number


def _version_index(table: RawSymbols, number: int) -> int:
    entry = table.versions[number * 2 : number * 2 + 2]
    return int.from_bytes(entry, "little") & 0x7FFF


def _needed_versions(elf: ElfFile, table: RawSymbols) -> dict[int, bytes]:
    """Version index → name, from .gnu.version_r."""
    section = next((s for s in elf.sections if s.type == 0x6FFFFFFE), None)
    names: dict[int, bytes] = {}
    if section is None:
        return names
    raw = elf.content(section)
    position = 0
    while position + 16 <= len(raw):
        _, count, _, auxiliary, step = struct.unpack_from("<HHIII", raw, position)
        where = position + auxiliary
        for _ in range(count):
            if where + 16 > len(raw):
                break
            _, _, index, name, next_one = struct.unpack_from("<IHHII", raw, where)
            end = table.strings.find(b"\0", name)
            names[index & 0x7FFF] = table.strings[name:end] if end >= 0 else b""
            if not next_one:
                break
            where += next_one
        if not step:
            break
        position += step
    return names


def imports(elf: ElfFile) -> set[str]:
    """The names that the file takes from other modules."""
    found: set[str] = set()
    for table in raw_tables(elf, (_SHT_DYNSYM,)):
        for offset, _, _, section, _, _ in SYMBOL.iter_unpack(table.symbols):
            if not section:
                end = table.strings.find(b"\0", offset)
                found.add(table.strings[offset : max(end, offset)].decode("utf-8", "replace"))
    return found
