"""Values that a script prints, decoded: what they are, not yet how they look.

An integer, a boolean and a text are Python's own; a tuple is one, an array a list, a struct (or a
record) a dictionary by member. What looks otherwise than these has a class here.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

#: What a stack's lines begin with, as a value.
STACK_INDENT: Final = " " * 8


class Address(msgspec.Struct, frozen=True):
    """A pointer: hexadecimal as text."""

    value: int


class NamedNumber(msgspec.Struct, frozen=True):
    """A number with a name: that of an enumeration."""

    value: int
    name: str


class Buffer(msgspec.Struct, frozen=True):
    """Bytes."""

    data: bytes


class StackText(msgspec.Struct, frozen=True):
    """A stack, a line for each frame, innermost first. ``tabbed``: as ``perf`` shows it."""

    lines: tuple[str, ...]
    tabbed: bool = False

    def text(self, indent: str = STACK_INDENT) -> str:
        """As it is printed, with this before each line."""
        before = "\t" if self.tabbed else indent
        return "\n" + "".join(f"{before}{line}\n" for line in self.lines)


Shown: TypeAlias = (
    int
    | float
    | str
    | Address
    | NamedNumber
    | Buffer
    | StackText
    | tuple["Shown", ...]
    | list["Shown"]
    | dict[str, "Shown"]
    | None
)


class BucketCounts(msgspec.Struct, frozen=True):
    """A histogram: how many in each bucket, by its number (``program.maps.bounds``)."""

    buckets: dict[int, int]


class Average(msgspec.Struct, frozen=True):
    """How many words were added, and their sum."""

    count: int
    total: int

    @property
    def average(self) -> int:
        """Towards zero, as C divides."""
        return quotient(self.total, self.count) if self.count else 0


class Series(msgspec.Struct, frozen=True):
    """A time series: the value of each interval, by its number since the clock began."""

    values: dict[int, int]


#: What a map has at a key.
MapValue: TypeAlias = Shown | BucketCounts | Average | Series


class MapEntry(msgspec.Struct, frozen=True):
    """What a map has at a key."""

    key: tuple[Shown, ...]
    value: MapValue


class ShownMap(msgspec.Struct, frozen=True):
    """A map as it is printed. ``name``: with its @; ``keyed``: it has keys; ``kind`` and
    ``arguments`` as in ``program.maps``."""

    name: str
    kind: str
    entries: list[MapEntry]
    keyed: bool = False
    arguments: tuple[int, ...] = ()


def quotient(number: int, divisor: int) -> int:
    """Divided towards zero, as C does."""
    result = abs(number) // abs(divisor)
    return result if (number < 0) == (divisor < 0) else -result
