"""The variables of the blocks around a place, as a debugger sees them.

Those of a copy of a function (inlined, or made out of line) are what the copy itself has, and what
the function has that the copy does not name: that was optimized out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from dprobed.binary.dwarf import constants as dw
from dprobed.binary.dwarf.expressions import OPTIMIZED_OUT, FramePlace, absent, location
from dprobed.binary.dwarf.lists import LocationList
from dprobed.binary.dwarf.units import LISTS, DebugEntry
from dprobed.program.variables import VariableLocation

_VARIABLES: Final = (dw.FORMAL_PARAMETER, dw.VARIABLE)
_DEEPEST: Final = 32
_MOST: Final = 10_000


class Scoped(NamedTuple):
    """An entry that is a variable, and how deep in its function."""

    entry: DebugEntry
    frame: int
    depth: int


def variables(scopes: list[DebugEntry]) -> Iterator[Scoped]:
    """The variables of nested blocks, innermost block first, within a block in their order."""
    frames = sum(scope.tag == dw.INLINED_SUBROUTINE for scope in scopes)
    frame, depth = frames, 0
    listed: list[tuple[DebugEntry, int, int]] = []
    for scope in scopes:
        if scope.tag == dw.INLINED_SUBROUTINE:
            frame, depth = frame - 1, 0
        else:
            depth += 1
        listed.append((scope, frame, depth))
    for scope, its_frame, its_depth in reversed(listed):
        for entry in of_scope(scope):
            yield Scoped(entry, its_frame, its_depth)


def of_scope(scope: DebugEntry) -> Iterator[DebugEntry]:
    """The variables of one block: its own, then what it does not name of what it is a copy of."""
    named: set[tuple[int, int, int]] = set()
    yield from _own(scope, named)
    origin = scope.reference(dw.ABSTRACT_ORIGIN)
    for _ in range(_DEEPEST):
        if origin is None:
            return
        yield from _unnamed(origin, named)
        origin = origin.reference(dw.ABSTRACT_ORIGIN)


def _own(
    scope: DebugEntry, named: set[tuple[int, int, int]], depth: int = 0
) -> Iterator[DebugEntry]:
    for child in scope.children():
        origin = child.attributes.get(dw.ABSTRACT_ORIGIN)
        if origin is not None:
            referred: DebugEntry | None = child
            for _ in range(_DEEPEST):
                referred = referred.reference(dw.ABSTRACT_ORIGIN) if referred is not None else None
                if referred is None:
                    break
                named.add(referred.key)
        if child.tag in _VARIABLES:
            yield child
        elif child.tag == dw.GNU_FORMAL_PARAMETER_PACK:
            yield from (each for each in child.children() if each.tag == dw.FORMAL_PARAMETER)
        elif child.tag == dw.LEXICAL_BLOCK and depth < _DEEPEST and not _has_code(child):
            yield from _own(child, named, depth + 1)


def _has_code(block: DebugEntry) -> bool:
    return dw.LOW_PC in block.attributes or dw.RANGES in block.attributes


def _unnamed(
    origin: DebugEntry, named: set[tuple[int, int, int]], depth: int = 0
) -> Iterator[DebugEntry]:
    for child in origin.children():
        if child.key in named:
            continue
        if child.tag in _VARIABLES:
            named.add(child.key)
            yield child
        elif child.tag == dw.LEXICAL_BLOCK and depth < _DEEPEST and not _has_code(child):
            yield from _unnamed(child, named, depth + 1)


def location_of(entry: DebugEntry, place: FramePlace, size: int) -> VariableLocation:
    """Where a variable is at a place; ``size``: the bytes of its type. Raises LocationError."""
    where, value = entry.where(dw.LOCATION)
    if value is None:
        where, value = entry.where(dw.CONST_VALUE)
        if value is None:
            return absent(OPTIMIZED_OUT)
        if isinstance(value[1], bytes):
            return VariableLocation("bytes", data=value[1])
        constant = value[1] & (1 << 128) - 1
        if value[0] in (dw.STRP, dw.LINE_STRP, dw.STRX1, dw.STRX2, dw.STRX4, dw.STRX, dw.ADDR):
            return absent("its value is of a form that is not known here")
        return VariableLocation("bytes", data=constant.to_bytes(16, "little")[: size or 8])
    unit = where.unit
    if isinstance(value[1], bytes):
        return location(value[1], unit, place) if value[1] else absent(OPTIMIZED_OUT)
    if value[0] not in LISTS:
        return absent("its location is of a form that is not known here")
    listed = LocationList(unit, value)
    expression = listed.at(place.address, entry=place.entry)
    if not expression:
        return absent(OPTIMIZED_OUT, listed.there())
    found = location(expression, unit, place)
    if found.kind == "absent" and not found.there:
        there = listed.there()
        return absent(
            found.reason,
            tuple(each for each in there if not each[0] <= place.address < each[1]),
        )
    return found


def globals_of(top: DebugEntry) -> Iterator[DebugEntry]:
    """The variables of a unit that are outside of functions, its namespaces' and classes' too."""
    count = 0
    waiting = [top]
    while waiting:
        for child in waiting.pop().children():
            if child.tag == dw.VARIABLE:
                yield child
                count += 1
                if count >= _MOST:
                    return
            elif child.tag == dw.NAMESPACE:
                waiting.append(child)
