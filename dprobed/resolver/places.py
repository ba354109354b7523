"""What to ask for the place of a probe, and whether a probe can be at what is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from dprobed.arch.x86_64.debug_registers import is_length_valid
from dprobed.proc.maps import Module
from dprobed.resolver.errors import LocationError, number_of

#: What a debug register can watch.
WATCHED: Final = "a watchpoint has 1, 2, 4 or 8 bytes (x: 1), aligned to its length"


class Watched(Protocol):
    """The data in a file that a watchpoint is for, as the resolver tells of it."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def vaddr(self) -> int:
        """Its address in the file."""

    @property
    def size(self) -> int:
        """Bytes that it has, or that were asked for."""


def watched_length(place: Watched, address: str, kind: str) -> int:
    """How many bytes a watchpoint of this kind watches; ``address``: as the probe has it."""
    if kind == "x":
        return 1
    return place.size if ":" in address else min(place.size or 1, 8)


def check_watched(place: Watched, address: str, kind: str) -> None:
    """Raises LocationError where no debug register can watch that, wherever the file is mapped."""
    length = watched_length(place, address, kind)
    if not is_length_valid(kind, place.vaddr, length):
        raise LocationError(
            f"{place.name} has {length} bytes at {place.vaddr:#x} of the file, and {WATCHED}",
            "write it as symbol:length; watchpoint = x for code that is executed",
        )


class Found(Protocol):
    """A place in a file, as the resolver tells of it."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def symbol_offset(self) -> int:
        """How far into the symbol it is; 0 where there is none."""

    @property
    def boundary(self) -> str:
        """``ok`` where an instruction is known to begin there, else ``unknown``."""

    @property
    def arguments(self) -> Sequence[object]:
        """Of a static probe: where each of them is; a text: why that is not known."""


class Needed(Protocol):
    """What a probe needs of its place (``program.parts``)."""

    @property
    def entry(self) -> bool:
        """Whether a function has to begin there."""

    @property
    def arguments(self) -> int:
        """How many arguments of a static probe."""


def code_spec(module: Module, address: str) -> str:
    """The file's name for a code probe's ``address``: a symbol, or an address in memory as it is
    now, of which it is the offset in the file.

    Raises LocationError where the module has no code at that address.
    """
    if not address[:1].isdigit():
        return address
    number = number_of(address)
    for mapping in module.mappings:
        if mapping.executable and mapping.start <= number < mapping.end:
            return hex(number - mapping.start + mapping.offset)
    raise LocationError(f"{address} is not in the code of {module.path}")


def check_boundary(place: Found, *, asserted: bool) -> None:
    """Raises LocationError where perhaps no instruction begins, unless the user says which."""
    if place.boundary == "unknown" and not asserted:
        raise LocationError(
            f"nothing tells whether an instruction begins at {place.name}",
            "it may be data among the code; give the expected bytes with 'opcode ='",
        )


def check_needs(place: Found, needs: Needed) -> None:
    """Raises LocationError where a place lacks what a probe needs of it."""
    if needs.entry and place.symbol_offset:
        # Nothing returns from elsewhere, nor are arguments there any more.
        raise LocationError(
            f"{place.name} is no function's entry",
            "only a function has arguments, and is left: name it alone",
        )
    found, asked = place.arguments, needs.arguments
    if asked > len(found):
        has = f"a,0 to a,{len(found) - 1}" if found else "none"
        message = f"push a,{asked - 1}: {place.name} has no such argument"
        raise LocationError(message, f"it has {has}")
    for number, each in enumerate(found[:asked]):
        if isinstance(each, str):
            raise LocationError(f"push a,{number} at {place.name}: {each}")
