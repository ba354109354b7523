"""Histograms and time series, as lines of text and as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from dprobe.lib.script.values import quotient
from dprobed.program.maps import MapDefinition, bounds

_BAR: Final = 52
_UNITS: Final = "KMGTPE"
#: The last column of a time series, from 0.
_GRAPH: Final = 52
_MILLISECOND: Final = 1_000_000


def rows(
    kind: str, arguments: tuple[int, ...], buckets: Mapping[int, int]
) -> Iterator[tuple[int | None, int | None, int]]:
    """From where to before where each bucket goes, and its count: from the first one that has
    something to the last, the empty ones between them too."""
    filled = [number for number, count in buckets.items() if count]
    if not filled:
        return
    definition = MapDefinition("", kind, arguments)
    for number in range(min(filled), max(filled) + 1):
        yield *bounds(definition, number), buckets.get(number, 0)


def lines(
    kind: str, arguments: tuple[int, ...], buckets: Mapping[int, int], divisor: int = 1
) -> Iterator[str]:
    """A histogram as text; counts are divided by ``divisor``."""
    found = list(rows(kind, arguments, buckets))
    most = max((count for _, _, count in found), default=0)
    step = arguments[2] if kind == "lhist" else None
    for low, high, count in found:
        bar = "@" * (_BAR * count // most)
        shown = quotient(count, divisor)
        yield f"{_label(low, high, step):16}{shown:8} |{bar:{_BAR}}|"


def _label(low: int | None, high: int | None, step: int | None) -> str:
    if low is None:
        return f"(..., {_short(high or 0, step)})"
    if high is None:
        return f"[{_short(low, step)}, ...)"
    if step is None and high == low + 1:
        return f"[{_short(low, step)}]"
    return f"[{_short(low, step)}, {_short(high, step)})"


def _short(number: int, step: int | None) -> str:
    """``2048`` as ``2K``, where that is exact; of a linear one, where its steps are so, too."""
    if step is not None and step % 1024:
        return str(number)
    unit = ""
    for each in _UNITS if step is None else _UNITS[:2]:
        if number % 1024 or not number:
            break
        number //= 1024
        unit = each
    return f"{number}{unit}"


def as_json(
    kind: str, arguments: tuple[int, ...], buckets: Mapping[int, int], divisor: int = 1
) -> str:
    """A histogram as JSON: ``min`` and ``max`` of each bucket are the least and the greatest whole
    number in it."""
    found = []
    for low, high, count in rows(kind, arguments, buckets):
        fields = [] if low is None else [f'"min": {low}']
        fields += [] if high is None else [f'"max": {high - 1}']
        fields.append(f'"count": {quotient(count, divisor)}')
        found.append(f"{{{', '.join(fields)}}}")
    return f"[{', '.join(found)}]"


# -- time series ------------------------------------------------------------------------------


def series(arguments: tuple[int, ...], values: Mapping[int, int], now: int) -> Iterator[str]:
    """A time series as text. ``arguments``: milliseconds of an interval, and how many there are;
    ``now``: nanoseconds between the beginnings of the clock that counts and of the calendar's."""
    found = list(_intervals(arguments, values, now))
    if not found:
        return
    low, high = min(each for _, each in found), max(each for _, each in found)
    if low == high:
        low, high = low - 1, high + 1
    head = f"{low}{high:>{_GRAPH + 1 - len(str(low))}}"
    yield f"{'':13}{head}"
    yield f"hh:mm:ss.ms  |{'_' * (_GRAPH - 1)}|"
    zero = _column(0, low, high) if low < 0 < high else None
    for began, value in found:
        row = [" "] * (_GRAPH + 1)
        row[0], row[-1] = "|", "|"
        if zero is not None:
            row[zero] = "."
        row[_column(value, low, high)] = "*"
        yield f"{_clock(began)} {''.join(row)} {value}"
    yield f"{'':13}v{'_' * (_GRAPH - 1)}v"
    yield f"{'':13}{head}"


def series_json(arguments: tuple[int, ...], values: Mapping[int, int], now: int) -> str:
    """A time series as JSON."""
    found = [
        f'{{"interval_start": "{_clock(began)}", "value": {value}}}'
        for began, value in _intervals(arguments, values, now)
    ]
    return f"[{', '.join(found)}]"


def _intervals(
    arguments: tuple[int, ...], values: Mapping[int, int], now: int
) -> Iterator[tuple[int, int]]:
    """When each interval began (of the calendar), and its value."""
    if values:
        last = max(values)
        for number in range(max(min(values), last - arguments[1] + 1), last + 1):
            yield number * arguments[0] * _MILLISECOND + now, values.get(number, 0)


def _column(value: int, low: int, high: int) -> int:
    return (value - low) * _GRAPH // (high - low)


def _clock(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    at = time.strftime("%H:%M:%S", time.localtime(seconds))
    return f"{at}.{rest // _MILLISECOND:03}"
