"""From addresses to units, to functions, and to what was inlined into them."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.debug import DebugFile
from dprobed.binary.dwarf.lists import Range, ranges
from dprobed.binary.dwarf.units import DebugEntry, DebugUnit

_DEEPEST: Final = 128


class UnitCode:
    """The code that the debug information of one file tells of."""

    def __init__(self, debug: DebugFile) -> None:
        self._debug = debug
        self._starts: list[int] | None = None
        self._ranges: list[tuple[int, int, int]] = []

    def unit_at(self, address: int) -> DebugUnit | None:
        """The unit that has the code at an address; raises LocationError."""
        if self._starts is None:
            self._ranges = sorted(self._all_ranges())
            self._starts = [start for start, _, _ in self._ranges]
        index = bisect_right(self._starts, address) - 1
        # A range may be within a longer one; few are.
        for each in range(index, max(index - 8, -1), -1):
            start, end, offset = self._ranges[each]
            if start <= address < end:
                return self._debug.unit_of(offset)
        return None

    def _all_ranges(self) -> list[tuple[int, int, int]]:
        found = _aranges(self._debug)
        known = {offset for _, _, offset in found}
        for header in self._debug.headers():
            if header.kind not in (dw.UT_COMPILE, dw.UT_SKELETON) or header.start in known:
                continue
            top = self._debug.unit(header).top
            if top.tag not in (dw.COMPILE_UNIT, dw.SKELETON_UNIT):
                continue
            listed = ranges(top)
            if not listed and dw.LOW_PC not in top.attributes and dw.RANGES not in top.attributes:
                # A unit that does not say it (assembler's, old compilers'): by its functions.
                listed = [each for entry in self._debug.unit(header).entries(dw.SUBPROGRAM)
                          for each in ranges(entry)]  # fmt: skip
            found += [(start, end, header.start) for start, end in listed if start < end]
        return found


def _aranges(debug: DebugFile) -> list[tuple[int, int, int]]:
    """Start, end and unit of the ranges in .debug_aranges; none where that is damaged."""
    data = debug.content("aranges")
    found: list[tuple[int, int, int]] = []
    at = 0
    while at + 16 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        width, start = 4, at
        at += 4
        if length == 0xFFFF_FFFF:
            length = int.from_bytes(data[at : at + 8], "little")
            width = 8
            at += 8
        end = at + length
        offset = int.from_bytes(data[at + 2 : at + 2 + width], "little")
        sizes = data[at + 2 + width : at + 4 + width]
        if end > len(data) or sizes != b"\x08\0":
            return []
        # Pairs are aligned from the beginning of the table on.
        at += 4 + width
        at = start + (at - start + 15 & ~15)
        while at + 16 <= end:
            first = int.from_bytes(data[at : at + 8], "little")
            size = int.from_bytes(data[at + 8 : at + 16], "little")
            at += 16
            if size:
                found.append((first, first + size, offset))
        at = end
    return found


def functions_of(unit: DebugUnit) -> list[tuple[int, int, int]]:
    """Start, end and entry's offset of the code of each function of a unit, sorted."""
    known = unit.remembered.get("functions")
    if not isinstance(known, list):
        known = sorted(
            (start, end, entry.offset)
            for entry in unit.entries(dw.SUBPROGRAM)
            for start, end in ranges(entry)
            if start < end
        )
        unit.remembered["functions"] = known
    return known


def function_at(unit: DebugUnit, address: int) -> DebugEntry | None:
    """The function whose code is at an address."""
    functions = functions_of(unit)
    index = bisect_right(functions, (address, 1 << 64, 0)) - 1
    for each in range(index, max(index - 16, -1), -1):
        start, end, offset = functions[each]
        if start <= address < end:
            return DebugEntry(unit, offset)
    return None


def scopes_at(function: DebugEntry, address: int) -> list[DebugEntry]:
    """A function, and the blocks and inlined functions within it at an address, outermost first."""
    found = [function]
    inner: DebugEntry | None = function
    while inner is not None and len(found) < _DEEPEST:
        inner = _inner(inner, address)
        if inner is not None:
            found.append(inner)
    return found


def _inner(scope: DebugEntry, address: int, depth: int = 0) -> DebugEntry | None:
    for child in scope.children():
        if child.tag not in (dw.LEXICAL_BLOCK, dw.INLINED_SUBROUTINE):
            continue
        listed = ranges(child)
        if any(start <= address < end for start, end in listed):
            return child
        if not listed and child.tag == dw.LEXICAL_BLOCK and depth < _DEEPEST:
            found = _inner(child, address, depth + 1)  # as if it were not there
            if found is not None:
                return found
    return None


def entry_of(entry: DebugEntry) -> Range | None:
    """Where the code of a function, or of a copy, is entered, and where that part ends."""
    listed = [each for each in ranges(entry) if each[0] < each[1]]
    if not listed:
        return None
    first = entry.address(dw.ENTRY_PC)
    if first is None and entry.is_constant(dw.ENTRY_PC):
        low = entry.address(dw.LOW_PC)
        base = low if low is not None else listed[0][0]
        first = base + entry.number(dw.ENTRY_PC, 0)
    if first is not None:
        for start, end in listed:
            if start <= first < end:
                return first, end
    return listed[0]


def function_around(entry: DebugEntry) -> DebugEntry | None:
    """The function that an entry is within."""
    for _ in range(_DEEPEST):
        parent = entry.parent
        if parent is None or parent.tag in (dw.SUBPROGRAM, dw.INLINED_SUBROUTINE):
            return parent
        entry = parent
    return None
