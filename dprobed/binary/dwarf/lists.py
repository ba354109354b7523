"""Ranges of code and location lists (DWARF 5, sections 2.17.3, 2.6.2, 7.25 and 7.29; version 4's;
and those of GNU's split files)."""

from __future__ import annotations

from typing import Final

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.units import LISTS, DebugEntry, DebugUnit, Value
from dprobed.binary.leb128 import uleb

#: A list with more entries is damage.
_LONGEST: Final = 1 << 16
_BASE: Final = (1 << 64) - 1
_MASK: Final = _BASE

#: From which address up to which.
Range = tuple[int, int]


def ranges(entry: DebugEntry) -> list[Range]:
    """The code of an entry; raises LocationError."""
    low = entry.address(dw.LOW_PC)
    high = entry.attributes.get(dw.HIGH_PC)
    if low is not None and high is not None:
        if entry.is_constant(dw.HIGH_PC):
            return [(low, low + entry.number(dw.HIGH_PC, 0))]
        end = entry.address(dw.HIGH_PC)
        return [(low, end)] if end is not None else []
    listed = entry.attributes.get(dw.RANGES)
    if listed is None or isinstance(listed[1], bytes) or listed[0] not in LISTS:
        return []
    unit = entry.unit
    try:
        if unit.version >= 5:
            return _ranges(unit, _offset(unit, listed, "rnglists", dw.RNGLISTS_BASE))
        return _old_ranges(unit, listed[1])
    except IndexError as error:
        raise unit.debug.damaged("its ranges of code") from error


def _offset(unit: DebugUnit, listed: Value, section: str, base_name: int) -> int:
    """Where a list is in its section, of version 5."""
    form, number = listed
    assert isinstance(number, int)
    if form not in (dw.LOCLISTX, dw.RNGLISTX):
        return number
    width = unit.header.width
    base = unit.base(base_name)
    if base is None:
        base = 20 if width == 8 else 12
    at = base + number * width
    raw = unit.debug.content(section)[at : at + width]
    if len(raw) < width:
        raise IndexError
    return base + int.from_bytes(raw, "little")


def _ranges(unit: DebugUnit, at: int) -> list[Range]:
    data = unit.debug.content("rnglists")
    base: int | None = None
    found: list[Range] = []
    for _ in range(_LONGEST):
        kind = data[at]
        at += 1
        if kind == 0:
            return found
        if kind == 5:
            base, at = _word(data, at)
            continue
        first, at = _word(data, at) if kind in (6, 7) else uleb(data, at)
        if kind == 1:
            base = unit.address(first)
            continue
        second, at = _word(data, at) if kind == 6 else uleb(data, at)
        if kind == 2:
            found.append((unit.address(first), unit.address(second)))
        elif kind == 3:
            start = unit.address(first)
            found.append((start, start + second))
        elif kind == 4:
            base = unit.low if base is None else base
            found.append((base + first, base + second))
        elif kind in (6, 7):
            found.append((first, second if kind == 6 else first + second))
        else:
            raise IndexError
    raise IndexError


def _old_ranges(unit: DebugUnit, at: int) -> list[Range]:
    linked = unit.skeleton or unit
    if unit.skeleton is not None:
        at += linked.base(dw.GNU_RANGES_BASE) or 0
    data = linked.debug.content("ranges")
    base = unit.low
    found: list[Range] = []
    for _ in range(_LONGEST):
        first, at = _word(data, at)
        second, at = _word(data, at)
        if not first and not second:
            return found
        if first == _BASE:
            base = second
        else:
            found.append((base + first & _MASK, base + second & _MASK))
    raise IndexError


def _word(data: bytes, at: int) -> tuple[int, int]:
    if at + 8 > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + 8], "little"), at + 8


class LocationList:
    """The expressions of a location list, each for a range; ``default``: for what is in none."""

    def __init__(self, unit: DebugUnit, listed: Value) -> None:
        """Read it; raises LocationError."""
        self.default: bytes | None = None
        self.entries: list[tuple[int, int, bytes]] = []
        self._unit = unit
        number = listed[1]
        assert isinstance(number, int)
        try:
            if unit.version >= 5:
                self._read(_offset(unit, listed, "loclists", dw.LOCLISTS_BASE))
            elif unit.skeleton is not None:
                self._read_split(number)
            else:
                self._read_old(number)
        except IndexError as error:
            raise unit.debug.damaged("its location lists") from error

    def _add(self, start: int, end: int, data: bytes, at: int, size: int) -> int:
        if at + size > len(data):
            raise IndexError
        if start <= end:
            self.entries.append((start, end, data[at : at + size]))
        return at + size

    def _read(self, at: int) -> None:
        unit = self._unit
        data = unit.debug.content("loclists")
        base: int | None = None
        for _ in range(_LONGEST):
            kind = data[at]
            at += 1
            if kind == 0:
                return
            if kind == 6:
                base, at = _word(data, at)
                continue
            start = end = 0
            if kind == 5:
                size, at = uleb(data, at)
                self.default = data[at : at + size]
                at += size
                continue
            first, at = _word(data, at) if kind in (7, 8) else uleb(data, at)
            if kind == 1:
                base = unit.address(first)
                continue
            second, at = _word(data, at) if kind == 7 else uleb(data, at)
            if kind == 9:  # GNU's view numbers
                continue
            if kind == 2:
                start, end = unit.address(first), unit.address(second)
            elif kind == 3:
                start = unit.address(first)
                end = start + second
            elif kind == 4:
                base = unit.low if base is None else base
                start, end = base + first, base + second
            elif kind in (7, 8):
                start, end = first, second if kind == 7 else first + second
            else:
                raise IndexError
            size, at = uleb(data, at)
            at = self._add(start, end, data, at, size)
        raise IndexError

    def _read_old(self, at: int) -> None:
        data = self._unit.debug.content("loc")
        base = self._unit.low
        for _ in range(_LONGEST):
            first, at = _word(data, at)
            second, at = _word(data, at)
            if not first and not second:
                return
            if first == _BASE:
                base = second
                continue
            size = int.from_bytes(data[at : at + 2], "little")
            at = self._add(base + first & _MASK, base + second & _MASK, data, at + 2, size)
        raise IndexError

    def _read_split(self, at: int) -> None:
        """GNU's lists of version 4's split files."""
        unit = self._unit
        data = unit.debug.content("loc")
        base = unit.low
        for _ in range(_LONGEST):
            kind = data[at]
            at += 1
            if kind == 0:
                return
            if kind == 1:
                index, at = uleb(data, at)
                base = unit.address(index)
                continue
            if kind == 2:
                first, at = uleb(data, at)
                second, at = uleb(data, at)
                start, end = unit.address(first), unit.address(second)
            elif kind == 3:
                first, at = uleb(data, at)
                start = unit.address(first)
                end = start + int.from_bytes(data[at : at + 4], "little")
                at += 4
            elif kind == 4:
                start = base + int.from_bytes(data[at : at + 4], "little")
                end = base + int.from_bytes(data[at + 4 : at + 8], "little")
                at += 8
            else:
                raise IndexError
            size = int.from_bytes(data[at : at + 2], "little")
            at = self._add(start, end, data, at + 2, size)
        raise IndexError

    def at(self, address: int, *, entry: bool = False) -> bytes | None:
        """The expression for an address; None: it is nowhere there. ``entry``: it is that of the
        function's first instruction, for which alone a range without bytes holds."""
        for start, end, expression in self.entries:
            if start <= address < end or (entry and start == end == address):
                return expression
        return self.default

    def there(self) -> tuple[Range, ...]:
        """Where it is somewhere; neighbours are joined."""
        found: list[Range] = []
        for start, end, expression in sorted(self.entries):
            if not expression or start == end:
                continue
            if found and found[-1][1] >= start:
                found[-1] = found[-1][0], max(end, found[-1][1])
            else:
                found.append((start, end))
        return tuple(found)
