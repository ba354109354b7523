"""What the debug information of a file says of places in it, for commands and scripts.

Files are read in this process, as ``mapped`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from dprobed.binary.errors import LocationError
from dprobed.binary.places import list_places, resolve
from dprobed.program.variables import Functions, Visible

if TYPE_CHECKING:
    from dprobed.binary.file import Binary
    from dprobed.binary.variables.information import DebugInformation

#: Functions that a pattern may mean.
_MOST: Final = 200


class Told(msgspec.Struct, frozen=True):
    """What is known of a place that was asked for: functions, or what is visible in code."""

    functions: Functions | None = None
    visible: tuple[tuple[str, Visible], ...] = ()


def debug_information(elf: Binary) -> DebugInformation:
    """The debug information of a file; raises LocationError where it has none."""
    # Here: few commands come to need it.
    from dprobed.binary.variables.information import DebugInformation

    return DebugInformation(elf)


def told(elf: Binary, spec: str) -> list[Told]:
    """What is known of a function (also one that is only inlined), of functions by a pattern, or of
    a place (``file.c:line``, ``symbol+n``, ``usdt:provider:name``); raises LocationError."""
    known = debug_information(elf)
    if any(letter in spec for letter in "*?["):
        return _by_pattern(elf, known, spec)
    unknown: LocationError
    try:
        return [Told(known.functions_named(spec))]
    except LocationError as error:
        unknown = error
    try:
        places = resolve(elf, spec)
    except LocationError as error:
        # Of a name that is nowhere, what was nearly meant is said once.
        raise error if error.candidates or ":" in spec else unknown from None
    if all(place.kind == "code" and place.symbol and not place.symbol_offset for place in places):
        return [Told(known.function_at(place.vaddr)) for place in places]
    return [Told(visible=tuple((each.name, known.visible(each.vaddr)) for each in places))]


def _by_pattern(elf: Binary, known: DebugInformation, pattern: str) -> list[Told]:
    found: list[Told] = []
    seen: set[int] = set()
    for place in list_places(elf, pattern):
        if place.kind != "code" or place.vaddr in seen:
            continue
        seen.add(place.vaddr)
        try:
            found.append(Told(known.function_at(place.vaddr)))
        except LocationError:
            continue  # assembler's, or of an object without debug information
        if len(found) >= _MOST:
            raise LocationError(f"{elf.path}: more than {_MOST} functions match {pattern}")
    return found
