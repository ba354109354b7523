"""What is counted of a probe: the one list, and sums over places, probes and processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self

import msgspec


class Counters(msgspec.Struct, frozen=True):
    """Counters of one probe, or of several together: see ``protocol.ProbeStatus``, whose fields of
    these names they are, and those of all messages about probes."""

    hits: int = 0
    ran: int = 0
    missed: int = 0
    dropped: int = 0
    faulted: int = 0
    unwound: int = 0
    asleep_ns: int = 0
    present_ns: int = 0
    uncounted_ns: int = 0
    dumped: int = 0
    spent_ns: int = 0

    @classmethod
    def of(cls, *counted: object) -> Self:
        """The sums of what has fields of these names."""
        return cls(*[sum(getattr(each, name) for each in counted) for name in NAMES])

    @classmethod
    def named(cls, counts: Mapping[str, int]) -> Self:
        """Those of these names; others are left alone."""
        return cls(*[counts.get(name, 0) for name in NAMES])

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return {name: getattr(self, name) for name in NAMES}

    def __add__(self, other: Counters) -> Self:
        return type(self).of(self, other)

    def lacking(self, before: Counters) -> dict[str, int]:
        """By how much each has fallen that is less than ``before``."""
        return {
            name: count - now
            for name in NAMES
            if (count := getattr(before, name)) > (now := getattr(self, name))
        }


#: Their names.
NAMES: Final = Counters.__struct_fields__
