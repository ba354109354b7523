"""Statistics of records: counts, rates and histograms of a logged number, grouped by a field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from dprobed.record.record import Record
from dprobed.trace.choose import value_of

_BAR: Final = 40
_SIGN: Final = 1 << 63


class RecordGroup(msgspec.Struct):
    """A group: the records that share a value of the field they are grouped by.

    ``buckets``: how many numbers lie from 2**(N-1) up to 2**N; 0: zeros; -1: those below zero.
    """

    key: str
    count: int = 0
    first: int = 0
    last: int = 0
    numbers: int = 0
    total: int = 0
    least: int = 0
    most: int = 0
    buckets: Counter[int] = msgspec.field(default_factory=Counter)

    def add(self, time: int, number: object) -> None:
        """Count a record, and the number that it logged (any other value: it logged none)."""
        if not self.count:
            self.first = time
        self.count += 1
        self.last = time
        if isinstance(number, int):
            signed = number - (1 << 64) if number >= _SIGN else number
            self.least = min(self.least, signed) if self.numbers else signed
            self.most = max(self.most, signed) if self.numbers else signed
            self.numbers += 1
            self.total += signed
            self.buckets[-1 if signed < 0 else signed.bit_length()] += 1

    @property
    def rate(self) -> float:
        """Records a second, from the first to the last."""
        seconds = (self.last - self.first) / 1e9
        return (self.count - 1) / seconds if seconds > 0 else 0.0


def groups(records: Iterable[Record], by: str, of: str | None) -> list[RecordGroup]:
    """The records grouped by field ``by``, the largest group first; ``of`` names the number."""
    found: dict[str, RecordGroup] = {}
    for record in records:
        key = _key(record, by)
        group = found.get(key)
        if group is None:
            group = found[key] = RecordGroup(key)
        group.add(record.time, value_of(record, of) if of is not None else None)
    return sorted(found.values(), key=lambda group: (-group.count, group.key))


def _key(record: Record, by: str) -> str:
    if by == "process":
        return f"{record.comm}[{record.pid}]"
    if by == "probe":
        return f"{record.program} {record.major}.{record.minor} {record.place}"
    value = value_of(record, by)
    return "(none)" if value is None else str(value)


def histogram(group: RecordGroup) -> Iterator[str]:
    """The group's histogram as lines of text."""
    low, high = min(group.buckets), max(group.buckets)
    largest = max(group.buckets.values())
    rows = [(bucket_name(bucket), group.buckets[bucket]) for bucket in range(low, high + 1)]
    wide = max(len(name) for name, _ in rows)
    for name, count in rows:
        # What is there at all shows.
        bar = "█" * max(round(_BAR * count / largest), count > 0)
        yield f"  {name:>{wide}} {count:>9} |{bar:<{_BAR}}|"


def bucket_name(bucket: int) -> str:
    """The range of a bucket: from a power of two up to the next."""
    if bucket < 0:
        return "below 0"
    if bucket < 2:
        return str(bucket)
    return f"[{_power(bucket - 1)}, {_power(bucket)})"


def _power(exponent: int) -> str:
    units = ("", "K", "M", "G", "T", "P", "E")
    unit, rest = divmod(exponent, 10)
    return f"{1 << rest}{units[unit]}"
