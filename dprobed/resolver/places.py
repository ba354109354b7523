"""What to ask for the place of a probe, and whether a probe can be at what is found."""

from __future__ import annotations

from typing import Protocol

from dprobed.proc.maps import Module
from dprobed.resolver.errors import LocationError, number_of


class Found(Protocol):
    """A place in a file, as the resolver tells of it."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def boundary(self) -> str:
        """``ok`` where an instruction is known to begin there, else ``unknown``."""


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
