"""From a name to the entries that have it, and from an entry to those that refer to it, without
reading the others.

The names of entries are offsets into .debug_str, and references offsets of entries: the bytes of
such an offset are looked for in .debug_info, and are what is meant where the right code of an entry
stands as far before them as that kind of entry has them. In libpython (11 MB of entries in 1,500
units) that takes 10 ms; a table of all its names would take 2 s to make.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.debug import DebugFile
from dprobed.binary.dwarf.units import DebugEntry, DebugSource, DebugUnit, UnitHeader
from dprobed.binary.errors import LocationError

TYPES: Final = (dw.STRUCTURE_TYPE, dw.CLASS_TYPE, dw.UNION_TYPE, dw.ENUMERATION_TYPE, dw.TYPEDEF,
                dw.BASE_TYPE)  # fmt: skip
FUNCTIONS: Final = (dw.SUBPROGRAM,)
VARIABLES: Final = (dw.VARIABLE,)

_NAMES: Final = (dw.NAME, dw.LINKAGE_NAME, dw.MIPS_LINKAGE_NAME)
_ORIGINS: Final = (dw.ABSTRACT_ORIGIN, dw.SPECIFICATION)
#: A name may be the end of this many other strings; with more every unit is read.
_MOST_STRINGS: Final = 64


def named(
    debug: DebugFile, name: str, tags: tuple[int, ...], *, declared: bool = True
) -> Iterator[DebugEntry]:
    """The entries of these kinds whose name, or linkage name, is ``name``; ``declared``: also what
    is only declared there. Raises LocationError.

    Declared functions of C are left out, which nothing refers to, and many units have.
    """
    raw = name.encode("utf-8", "replace")
    if not raw:
        return
    for source in (debug, debug.supplement):
        if source is not None:
            yield from _named(source, raw, tags, declared)
    for unit in _split(debug):
        if _mentions(unit, raw):
            yield from _in_unit(unit, raw, tags, declared)


def _named(
    debug: DebugSource, raw: bytes, tags: tuple[int, ...], declared: bool
) -> Iterator[DebugEntry]:
    marks = _marks(debug, raw)
    for types in (False, True):
        units = set(_by_index(debug, raw, types=types))
        for unit in units:
            yield from _in_unit(unit, raw, tags, declared)
        if marks is None:
            for header in debug.headers(types=types):
                unit = debug.unit(header, types=types)
                if unit not in units:
                    yield from _in_unit(unit, raw, tags, declared)
            continue
        for mark in marks:
            for entry in _entries_with(debug, mark, tags, _NAMES, types=types, declared=declared):
                if any(entry.own_text(key) == raw for key in _NAMES):
                    yield entry


def _in_unit(
    unit: DebugUnit, name: bytes, tags: tuple[int, ...], declared: bool
) -> Iterator[DebugEntry]:  # fmt: skip
    declared = declared and (tags != FUNCTIONS or unit.language != "c")
    for entry in unit.entries(*tags):
        attributes = entry.attributes
        if not declared and dw.DECLARATION in attributes:
            continue
        if any(key in attributes and entry.own_text(key) == name for key in _NAMES):
            yield entry


def _positions(data: bytes, raw: bytes) -> list[int] | None:
    """Where a string is, also as the end of another; None: too often."""
    found: list[int] = []
    at = data.find(raw + b"\0")
    while at >= 0:
        found.append(at)
        if len(found) > _MOST_STRINGS:
            return None
        at = data.find(raw + b"\0", at + 1)
    return found


def _marks(debug: DebugSource, raw: bytes) -> list[bytes] | None:
    """The bytes of which an entry with this name has one: the name itself, or its offset."""
    marks = [raw + b"\0"]
    for source in (debug, debug.supplement):
        positions = _positions(source.content("str"), raw) if source is not None else []
        if positions is None:
            return None
        marks += [at.to_bytes(4, "little") for at in positions if at < 1 << 32]
    return marks


def _entries_with(
    debug: DebugSource,
    mark: bytes,
    tags: tuple[int, ...],
    keys: tuple[int, ...],
    *,
    types: bool = False,
    declared: bool = True,
) -> Iterator[DebugEntry]:
    """The entries of these kinds that have these bytes as one of these attributes."""
    headers = debug.headers(types=types)
    starts = [header.start for header in headers]
    data = debug.content("types" if types else "info")
    at = data.find(mark)
    while at >= 0:
        index = bisect_right(starts, at) - 1
        if index < 0:
            return
        unit = debug.unit(headers[index], types=types)
        offset = _entry_around(unit, at, tags, keys, declared)
        if offset is not None:
            yield DebugEntry(unit, offset)
        at = data.find(mark, at + 1)


def _entry_around(
    unit: DebugUnit, at: int, tags: tuple[int, ...], keys: tuple[int, ...], declared: bool
) -> int | None:  # fmt: skip
    """The offset of the entry that has one of these attributes at ``at``."""
    data = unit.data
    prefixes, complete = _prefixes(unit, tags, keys, declared)
    for code, distance in prefixes:
        start = at - distance
        if start >= unit.header.first and data.startswith(code, start) and unit.is_entry(start):
            return start
    return None if complete else unit.around(at, tags)


def _prefixes(
    unit: DebugUnit, tags: tuple[int, ...], keys: tuple[int, ...], declared: bool
) -> tuple[list[tuple[bytes, int]], bool]:
    """For each kind of entry that may be meant: its code, and how far that is before the
    attribute; and whether there are none for which that varies."""
    declared = declared and (tags != FUNCTIONS or unit.language != "c")
    name = f"{tags} {keys} {declared}"
    known = unit.remembered.get(name)
    if not isinstance(known, tuple):
        found: list[tuple[bytes, int]] = []
        complete = True
        for code, kind in unit.abbreviations.items():
            if kind.tag not in tags or (not declared and kind.has(dw.DECLARATION)):
                continue
            for key in keys:
                if not kind.has(key):
                    continue
                before = kind.before(key)
                if before is None:
                    complete = False
                else:
                    raw = _uleb(code)
                    found.append((raw, before + len(raw)))
        known = unit.remembered[name] = found, complete
    return known


def _uleb(number: int) -> bytes:
    raw = bytearray()
    while number >= 0x80:
        raw.append(number & 0x7F | 0x80)
        number >>= 7
    raw.append(number)
    return bytes(raw)


def _by_index(debug: DebugSource, raw: bytes, *, types: bool) -> Iterator[DebugUnit]:
    """The units whose part of .debug_str_offsets has this string."""
    table = debug.content("str_offsets")
    positions = _positions(debug.content("str"), raw) if table else None
    bases: list[tuple[int, UnitHeader]] = []
    for header in debug.headers(types=types) if positions else ():
        base = debug.unit(header, types=types).base(dw.STR_OFFSETS_BASE)
        if base is not None:
            bases.append((base, header))
    bases.sort(key=lambda each: each[0])
    starts = [base for base, _ in bases]
    for position in positions or ():
        at = table.find(position.to_bytes(4, "little"))
        while at >= 0:
            index = bisect_right(starts, at) - 1
            # Units may share a table.
            while index >= 0 and starts[index] == starts[bisect_right(starts, at) - 1]:
                yield debug.unit(bases[index][1], types=types)
                index -= 1
            at = table.find(position.to_bytes(4, "little"), at + 1)


def _split(debug: DebugFile) -> Iterator[DebugUnit]:
    """The units in split files."""
    if not debug.content("addr"):
        return  # which the linked file of split ones has
    for header in debug.headers():
        if header.kind not in (dw.UT_COMPILE, dw.UT_SKELETON):
            continue
        unit = debug.unit(header)
        attributes = unit.top.attributes
        if dw.DWO_NAME not in attributes and dw.GNU_DWO_NAME not in attributes:
            continue
        try:
            whole = debug.whole(unit)
        except LocationError:
            continue  # that it is not there is said where its code is asked about
        for each in whole.debug.headers():
            yield whole.debug.unit(each)
        for each in whole.debug.headers(types=True):
            yield whole.debug.unit(each, types=True)


def _mentions(unit: DebugUnit, raw: bytes) -> bool:
    return raw + b"\0" in unit.debug.content("str") or raw + b"\0" in unit.data


def copies(entry: DebugEntry) -> Iterator[DebugEntry]:
    """Functions and inlined copies of which an entry is the declaration or the original."""
    unit = entry.unit
    near = (entry.offset - unit.header.start).to_bytes(4, "little")
    for offset in _within(unit, near):
        yield from _if_copy(DebugEntry(unit, offset), entry)
    # Of other units refer to it by its offset in the section (link-time optimization, dwz).
    far = entry.offset.to_bytes(4, "little")
    if not unit.in_types and entry.offset < 1 << 32:
        for found in _entries_with(unit.debug, far, _COPIES, _ORIGINS):
            if found.unit is not unit:
                yield from _if_copy(found, entry)


_COPIES: Final = (dw.SUBPROGRAM, dw.INLINED_SUBROUTINE)


def _within(unit: DebugUnit, mark: bytes) -> Iterator[int]:
    """The entries of a unit that may refer to one by these bytes."""
    kinds = [kind for kind in unit.abbreviations.values() if kind.tag in _COPIES]
    forms = {form for kind in kinds for name, form, _ in kind.attributes if name in _ORIGINS}
    if forms - {dw.REF4, dw.REF_ADDR, dw.GNU_REF_ALT}:
        yield from (entry.offset for entry in unit.entries(*_COPIES))
        return
    at = unit.data.find(mark, unit.header.first, unit.header.end)
    while at >= 0:
        offset = _entry_around(unit, at, _COPIES, _ORIGINS, declared=True)
        if offset is not None:
            yield offset
        at = unit.data.find(mark, at + 1, unit.header.end)


def _if_copy(found: DebugEntry, entry: DebugEntry) -> Iterator[DebugEntry]:
    for key in _ORIGINS:
        if found.reference(key) == entry:
            yield found
            return


def parts_of(name: str) -> tuple[str, str]:
    """What a name begins with before its last ``::`` that is not within brackets, and the rest
    without the parameters of a function: what an entry is called."""
    depth = 0
    start = 0
    end = len(name)
    index = 0
    while index < len(name):
        letter = name[index]
        if name.startswith("operator", index) and depth == 0 and start in (0, index):
            # Its own brackets are part of the name.
            index += len("operator")
            while index < len(name) and name[index] in "<>=()[]-*&":
                index += 2 if name.startswith("()", index) else 1
            continue
        if letter in "<":
            depth += 1
        elif letter in ">":
            depth -= 1
        elif letter == "(" and depth == 0:
            if name.startswith("(anonymous namespace)", index):
                index += len("(anonymous namespace)")
                continue
            end = index
            break
        elif letter == ":" and depth == 0 and name.startswith("::", index):
            start = index + 2
            index += 1
        index += 1
    return name[:start], name[start:end].strip()
