"""What maps report: cells merged over processes, and as the values that people read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from dprobed.program.maps import (
    BUCKET_BYTES,
    VALUE,
    WORD_BYTES,
    Entry,
    Item,
    MapDefinition,
    MapRoom,
    as_signed,
    bounds,
    halves,
    is_entry,
    key_bytes,
    whole,
)

_MILLISECOND: Final = 1_000_000
#: Kinds whose cells are pairs, or triples, that grow in number.
_WIDTHS: Final = {"hist": 2, "lhist": 2, "tseries": 3}


class MapSums:
    """One map of several processes together. ``lost``: updates that found no room in a process;
    ``left_out``: keys of processes that found none here, in ``room``."""

    def __init__(self, definition: MapDefinition, room: MapRoom) -> None:
        self.definition: Final = definition
        self.lost = 0
        self.left_out = 0
        self._room = room
        self._used = 0
        self._cells: dict[tuple[Item, ...], list[int]] = {}

    def add(self, lost: int, entries: Iterable[Entry]) -> None:
        """Add those of one process, or the sums of several."""
        self.lost += lost
        for items, cell in entries:
            if not is_entry(self.definition, (items, cell)):
                # No tracer of ours says so.
                self.left_out += 1
                continue
            key = tuple(items)
            known = self._cells.get(key)
            if known is None:
                self._put(key, [], cell, key_bytes(key))
            else:
                self._put(key, known, merged(self.definition, known, cell), 0)

    def _put(self, key: tuple[Item, ...], known: list[int], cell: list[int], more: int) -> None:
        size = more + self._bytes(cell) - self._bytes(known)
        if not self._room.take(size):
            self.left_out += 1
            return
        self._used += size
        self._cells[key] = cell

    def delete(self, items: Sequence[Item]) -> None:
        """Forget a key."""
        key = tuple(items)
        known = self._cells.pop(key, None)
        if known is not None:
            size = key_bytes(key) + self._bytes(known)
            self._used -= size
            self._room.give(size)

    def _bytes(self, cell: Sequence[int]) -> int:
        """What a cell takes besides its key, where that is more than a little."""
        if self.definition.words > 1:
            return WORD_BYTES * len(cell)
        width = _WIDTHS.get(self.definition.kind)
        return BUCKET_BYTES * len(cell) // width if width else 0

    def close(self) -> None:
        """Forget all of it, and give its room back."""
        self._room.give(self._used)
        self._used = 0
        self._cells.clear()

    def entries(self) -> list[Entry]:
        """Keys and cells."""
        return [(list(key), cell) for key, cell in self._cells.items()]


def merged(definition: MapDefinition, one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Two cells of the same key in one; a ``value`` is of one process, and the later one stays: the
    one that was told later, or the one that was set later where that is known."""
    if not one or not other:
        return list(other or one)
    if definition.kind == VALUE:
        return list(one if definition.timed and one[0] > other[0] else other)
    signed = definition.signed
    match definition.kind:
        case "count":
            return [one[0] + other[0]]
        case "sum":
            return halves(whole(one, signed=signed) + whole(other, signed=signed))
        case "min" | "max":
            return [_extreme(definition.kind, one[0], other[0], signed)]
        case "avg" | "stats":
            total = whole(one[1:3], signed=signed) + whole(other[1:3], signed=signed)
            extremes = zip(("min", "max"), one[3:], other[3:], strict=False)
            ends = [_extreme(kind, a, b, signed) for kind, a, b in extremes]
            return [one[0] + other[0], *halves(total), *ends]
        case "tseries":
            return _series(definition, one, other)
    counts = dict(_pairs(one))
    for bucket, count in _pairs(other):
        counts[bucket] = counts.get(bucket, 0) + count
    return [number for pair in sorted(counts.items()) for number in pair]


def _extreme(kind: str, one: int, other: int, signed: bool) -> int:
    choose = min if kind == "min" else max
    return choose(one, other, key=as_signed) if signed else choose(one, other)


def _pairs(cell: Sequence[int]) -> Iterable[tuple[int, int]]:
    return zip(cell[::2], cell[1::2], strict=True)


def _intervals(definition: MapDefinition, cell: Sequence[int]) -> dict[int, int]:
    return {
        cell[at]: whole(cell[at + 1 : at + 3], signed=definition.signed)
        for at in range(0, len(cell), 3)
    }


def _series(definition: MapDefinition, one: Sequence[int], other: Sequence[int]) -> list[int]:
    sums = _intervals(definition, one)
    for interval, total in _intervals(definition, other).items():
        sums[interval] = sums.get(interval, 0) + total
    first = max(sums) - definition.arguments[1]
    return [n for i, total in sorted(sums.items()) if i > first for n in (i, *halves(total))]


# -- as people read them ----------------------------------------------------------------------


def values(definition: MapDefinition, cell: Sequence[int]) -> dict[str, Any]:
    """What a cell says, by name; of an empty one nothing but how much there was."""
    signed = definition.signed
    match definition.kind:
        case "value" | "min" | "max":
            words = [as_signed(each) if signed else each for each in cell[definition.timed :]]
            first: dict[str, Any] = {"value": words[0] if words else None}
            return first | ({"words": words} if len(words) > 1 else {})
        case "count":
            return {"value": cell[0] if cell else 0}
        case "sum":
            return {"value": whole(cell, signed=signed) if cell else 0}
        case "avg" | "stats":
            count, total = (cell[0], whole(cell[1:3], signed=signed)) if cell else (0, 0)
            known = {"count": count, "sum": total, "average": total / count if count else None}
            for name, word in zip(("min", "max"), cell[3:], strict=False):
                known[name] = as_signed(word) if signed else word
            return known
        case "tseries":
            length = definition.arguments[0] * _MILLISECOND
            return {
                "buckets": [
                    {"from": n * length, "to": (n + 1) * length, "sum": total}
                    for n, total in sorted(_intervals(definition, cell).items())
                ]
            }
    pairs = list(_pairs(cell))
    found = [dict(zip(("from", "to"), bounds(definition, n), strict=True)) for n, _ in pairs]
    return {
        "count": sum(count for _, count in pairs),
        "buckets": [each | {"count": count} for each, (_, count) in zip(found, pairs, strict=True)],
    }


def weight(definition: MapDefinition, cell: Sequence[int]) -> int:
    """By how much a key is ordered among the others."""
    found = values(definition, cell)
    if "buckets" in found and "count" not in found:
        return sum(each["sum"] for each in found["buckets"])
    number = found.get("value", found.get("sum", found.get("count")))
    return number or 0
