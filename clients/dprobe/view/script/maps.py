"""Maps of scripts, as text and as JSON: entries with the least first."""

from __future__ import annotations

from typing import Any, Final

from dprobe.lib.script.values import (
    Address,
    Average,
    BucketCounts,
    MapEntry,
    NamedNumber,
    Series,
    ShownMap,
    StackText,
    quotient,
)
from dprobe.view.script import histograms, values

#: What JSON calls a map of a kind; all others are "map".
_TYPES: Final = {
    "hist": "hist",
    "lhist": "hist",
    "avg": "stats",
    "stats": "stats",
    "tseries": "tseries",
}
#: The end of a map of these kinds is an empty line.
_SPACED: Final = ("avg", "stats")


def text(shown: ShownMap, top: int = 0, divisor: int = 1, now: int = 0) -> str:
    """All of it, or the ``top`` greatest; numbers divided by ``divisor``. ``now``: as
    ``histograms.series`` has it."""
    parts = []
    for entry in _chosen(shown, top):
        label = f"{shown.name}{_key(entry) if shown.keyed else ''}:"
        match entry.value:
            case BucketCounts():
                found = histograms.lines(
                    shown.kind, shown.arguments, entry.value.buckets, divisor or 1
                )
                parts.append("\n".join([label, *found, "", ""]))
            case Series():
                lines = histograms.series(shown.arguments, entry.value.values, now)
                parts.append("\n".join([label, *lines, "", ""]))
            case _:
                parts.append(f"{label} {_scalar(shown.kind, entry.value, divisor or 1)}\n")
    if shown.kind in _SPACED:
        parts.append("\n")
    return "".join(parts)


def as_json(shown: ShownMap, top: int = 0, divisor: int = 1, now: int = 0) -> str:
    """As ``text``, in one object."""
    found = [
        (_json_key(entry), _json_value(shown, entry, divisor or 1, now))
        for entry in _chosen(shown, top)
    ]
    if shown.keyed:
        content = f"{{{', '.join(f'{values.quoted(key)}: {each}' for key, each in found)}}}"
    elif found:
        content = found[0][1]
    else:
        content = "{}"
    kind = _TYPES.get(shown.kind, "map")
    return f'{{"type": "{kind}", "data": {{{values.quoted(shown.name)}: {content}}}}}\n'


def _chosen(shown: ShownMap, top: int) -> list[MapEntry]:
    """In the order of their weights, or of their keys where values have none."""
    weighed = _is_weighed(shown)
    ordered = sorted(
        shown.entries, key=lambda entry: (_weight(entry) if weighed else 0, _rank(entry))
    )
    return ordered[-top:] if top else ordered


def _is_weighed(shown: ShownMap) -> bool:
    return all(
        isinstance(
            entry.value, int | float | Address | NamedNumber | BucketCounts | Average | Series
        )
        for entry in shown.entries
    )


def _weight(entry: MapEntry) -> float:
    match entry.value:
        case BucketCounts():
            return sum(entry.value.buckets.values())
        case Average():
            return entry.value.average
        case Series():
            return sum(entry.value.values.values())
        case Address() | NamedNumber():
            return entry.value.value
        case int() | float():
            return entry.value
    return 0


def _rank(entry: MapEntry) -> tuple[tuple[int, int | float, str], ...]:
    """Numbers by value, everything else by its text."""
    return tuple(
        (0, item, "") if isinstance(item, int | float) else (1, 0, values.text(item))
        for item in entry.key
    )


def _key(entry: MapEntry) -> str:
    return f"[{', '.join(values.text(item, key=True) for item in entry.key)}]"


def _json_key(entry: MapEntry) -> str:
    return ",".join(
        values.text(item, key=True) if isinstance(item, StackText | bool) else _plain(item)
        for item in entry.key
    )


def _plain(item: Any) -> str:
    """An item of a key in JSON: without the names of numbers."""
    if isinstance(item, Address | NamedNumber):
        return str(item.value)
    return values.text(item)


def _scalar(kind: str, value: Any, divisor: int) -> str:
    if isinstance(value, Average):
        if kind == "avg":
            return str(quotient(value.average, divisor))
        average = quotient(value.average, divisor)
        return f"count {value.count}, average {average}, total {quotient(value.total, divisor)}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(quotient(value, divisor))
    return values.text(value)


def _json_value(shown: ShownMap, entry: MapEntry, divisor: int, now: int) -> str:
    value = entry.value
    match value:
        case BucketCounts():
            return histograms.as_json(shown.kind, shown.arguments, value.buckets, divisor)
        case Series():
            return histograms.series_json(shown.arguments, value.values, now)
        case Average():
            average = quotient(value.average, divisor)
            if shown.kind == "avg":
                return str(average)
            total = quotient(value.total, divisor)
            return f'{{"count": {value.count}, "average": {average}, "total": {total}}}'
        case bool():
            return values.as_json(value)
        case int():
            return str(quotient(value, divisor))
    return values.as_json(value)
