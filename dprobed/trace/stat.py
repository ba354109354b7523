"""Statistics of records: counts, rates and histograms of a logged number, grouped by a field."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from dprobed.record.record import Record
from dprobed.trace.choose import value_of
from dprobed.trace.lines import places_by_name, values_by_name

_BAR: Final = 40
_SIGN: Final = 1 << 63
#: Below it each number has a fine bucket of its own; above, there are so many to a power of two.
_EXACT: Final = 32
#: So many empty buckets are a wide gap; what is at most one in so many beyond it is not drawn.
_GAP: Final = 4
_FEW: Final = 100


class RecordGroup(msgspec.Struct):
    """A group: the records that share a value of the field they are grouped by.

    ``buckets``: how many numbers lie from 2**(N-1) up to 2**N; 0: those from 0 up to 1; -1: those
    below zero. ``fine``: the same in narrower ones, by their upper ends, for percentiles.
    """

    key: str
    count: int = 0
    first: int = 0
    last: int = 0
    numbers: int = 0
    total: float = 0
    least: float = 0
    most: float = 0
    buckets: Counter[int] = msgspec.field(default_factory=Counter)
    fine: Counter[float] = msgspec.field(default_factory=Counter)

    def add(self, time: int, number: float | None) -> None:
        """Count a record, and the number that it logged (None: it logged none)."""
        if not self.count:
            self.first = time
        self.count += 1
        self.last = time
        if number is not None:
            self.least = min(self.least, number) if self.numbers else number
            self.most = max(self.most, number) if self.numbers else number
            self.numbers += 1
            self.total += number
            self.buckets[-1 if number < 0 else int(number).bit_length()] += 1
            self.fine[_rounded(number)] += 1

    @property
    def rate(self) -> float:
        """Records a second, from the first to the last."""
        seconds = (self.last - self.first) / 1e9
        return (self.count - 1) / seconds if seconds > 0 else 0.0

    def percentile(self, percent: float) -> float:
        """What so many of a hundred numbers do not exceed; it may be 3 % too large."""
        left = self.numbers * percent / 100
        for upper in sorted(self.fine):
            left -= self.fine[upper]
            if left <= 0:
                return min(upper, self.most)
        return self.most


def _rounded(number: float) -> float:
    """The number, or one at most 3 % above it, so that there are few of them."""
    if isinstance(number, int) and abs(number) < _EXACT:
        return number
    mantissa, exponent = math.frexp(number)
    rounded = math.ldexp(math.ceil(mantissa * _EXACT) / _EXACT, exponent)
    return int(rounded) if isinstance(number, int) else rounded


def groups(records: Iterable[Record], by: str, of: str | None) -> list[RecordGroup]:
    """The records grouped by field ``by``, the largest group first; ``of`` names the number."""
    found: dict[str, RecordGroup] = {}
    for record in records:
        key = _key(record, by)
        group = found.get(key)
        if group is None:
            group = found[key] = RecordGroup(key)
        group.add(record.time, None if of is None else _number(record, of))
    return sorted(found.values(), key=lambda group: (-group.count, group.key))


def _number(record: Record, of: str) -> float | None:
    """A logged number: words as signed ones, typed values as they are."""
    typed = values_by_name(record).get(of)
    if typed is not None:
        return typed if math.isfinite(typed) else None
    value = value_of(record, of)
    if not isinstance(value, int):
        return None
    return value - (1 << 64) if value >= _SIGN else value


def _key(record: Record, by: str) -> str:
    if by == "process":
        return f"{record.comm}[{record.pid}]"
    if by == "probe":
        return f"{record.program} {record.major}.{record.minor} {record.place}"
    place = places_by_name(record).get(by)
    value = place if place is not None else value_of(record, by)
    return "(none)" if value is None else str(value)


class Scale(msgspec.Struct, frozen=True):
    """What numbers count: each further ``name`` is ``step`` times the one before."""

    step: int
    names: tuple[str, ...]

    def text(self, number: float) -> str:
        """A number with its unit, short enough to be read."""
        index = 0
        while abs(number) >= self.step and index + 1 < len(self.names):
            number /= self.step
            index += 1
        return f"{number:.4g}{self.names[index]}"


#: By the name of ``--unit``.
UNITS: Final = {
    "none": Scale(1 << 10, ("", "K", "M", "G", "T", "P", "E")),
    "bytes": Scale(1 << 10, (" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB")),
    "ns": Scale(1000, (" ns", " µs", " ms", " s")),
}


def histogram(group: RecordGroup, unit: str = "none") -> Iterator[str]:
    """The group's histogram as lines of text; what lies far from the rest is told in numbers."""
    low, high = _drawn(group.buckets)
    largest = max(group.buckets.values())
    named = UNITS[unit]
    rows = [(bucket_name(bucket, named), group.buckets[bucket]) for bucket in range(low, high + 1)]
    wide = max(len(name) for name, _ in rows)
    for name, count in rows:
        # What is there at all shows.
        bar = "█" * max(round(_BAR * count / largest), count > 0)
        yield f"  {name:>{wide}} {count:>9} |{bar:<{_BAR}}|"
    below = sum(n for bucket, n in group.buckets.items() if bucket < low)
    above = sum(n for bucket, n in group.buckets.items() if bucket > high)
    if below:
        yield f"  and {below} far below, down to {named.text(group.least)}"
    if above:
        yield f"  and {above} far above, up to {named.text(group.most)}"


def _drawn(buckets: Counter[int]) -> tuple[int, int]:
    """The first and last bucket that are drawn: outliers beyond a wide gap are not."""
    there = sorted(bucket for bucket, count in buckets.items() if count)
    few = max(1, sum(buckets.values()) // _FEW)
    low, high = 0, len(there) - 1
    for index in range(len(there) - 1):
        wide = there[index + 1] - there[index] > _GAP
        if wide and sum(buckets[each] for each in there[: index + 1]) <= few:
            low = index + 1
        elif wide and sum(buckets[each] for each in there[index + 1 :]) <= few:
            high = index
            break
    return there[low], there[high]


def bucket_name(bucket: int, unit: Scale = UNITS["none"]) -> str:
    """The range of a bucket: from a power of two up to the next."""
    if bucket < 0:
        return "below 0"
    if bucket < 2:
        return unit.text(bucket)
    return f"[{unit.text(1 << (bucket - 1))}, {unit.text(1 << bucket)})"
