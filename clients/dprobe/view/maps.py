"""Maps as text: a line for each key, or a histogram, the greatest last, as bpftrace shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dprobe.lib.summary import SummaryMap
from dprobed.printable import printable
from dprobed.program.maps import MapDefinition, bounds, linear_bucket, power_bucket
from dprobed.program.user_stack import REASONS, StackEnd
from dprobed.record.text import stack_lines

#: Keys that are shown of a map, where nobody says how many.
TOP: Final = 100
_LABEL: Final = 16
_BAR: Final = 52
_LEAST_BAR: Final = 10
#: Empty buckets in a row that are drawn; of more there are only dots.
_GAP: Final = 16
_UNITS: Final = "KMGTPE"
#: Frames of a stack that are named in a line.
_FRAMES: Final = 4
_SECOND: Final = 1_000_000_000


def map_lines(
    maps: Sequence[SummaryMap], width: int | None, *, top: int = TOP, by_process: bool = False
) -> list[str]:
    """All of them; ``by_process``: with the process also where there is but one."""
    several = len({each.program for each in maps}) > 1
    whose = by_process or len({each.pid for each in maps}) > 1
    lines: list[str] = []
    for each in maps:
        name = f"@{each.map}"
        of = [each.program] if several else []
        if each.pid is not None and whose:
            of.append(f"process {each.pid}")
        elif whose and each.pid is None:
            count = f"{each.processes} process{'es' * (each.processes != 1)}"
            of.append(f"{count} that ended" if by_process else count)
        if lines:
            lines.append("")
        if of:
            lines.append(f"{', '.join(of)}:")
        lines += _one(each, name, width, top)
    return [printable(part) for line in lines for part in line.split("\n")]


def _one(one: SummaryMap, name: str, width: int | None, top: int) -> Iterator[str]:
    if not one.entries:
        yield f"{name}: nothing yet"
    for entry in reversed(one.entries[:top]):
        label = f"{name}{_key(entry['key'])}:"
        if "buckets" in entry:
            yield label
            yield from _histogram(one, entry["buckets"], width)
        else:
            yield f"{label} {_scalar(one.kind, entry)}"
    if len(one.entries) > top:
        left = len(one.entries) - top
        yield f"({left:,} {'keys' if left > 1 else 'key'} with less not shown)"
    for text in losses(one.lost, one.left_out, one.size):
        yield f"{name}: {text}"


def map_rows(maps: Sequence[SummaryMap], top: int) -> list[dict[str, object]]:
    """A row for each key, as far as ``top`` of a map, those with most first; and what is not in."""
    rows: list[dict[str, object]] = []
    for each in maps:
        of = {"program": each.program, "map": each.map, "pid": each.pid or ""}
        for entry in each.entries[:top]:
            key = ", ".join(map(_short_item, entry["key"]))
            rows.append({**of, "key": key, "value": _in_a_line(each, entry)})
        if len(each.entries) > top:
            rows.append({**of, "key": "…", "value": f"{len(each.entries) - top:,} keys with less"})
        for text in losses(each.lost, each.left_out, each.size):
            rows.append({**of, "key": "", "value": text})
    return rows


def _short_item(item: int | str | Mapping[str, Any]) -> str:
    """An item of a key in a line: of a stack its first functions."""
    if not isinstance(item, Mapping):
        return str(item)
    frames = item["ustack"]
    names = [
        each.get("function") or f"{each.get('offset', each.get('address', 0)):#x}"
        for each in frames[:_FRAMES]
    ]
    return " < ".join(names + ["…"] * (len(frames) > _FRAMES))


def _in_a_line(one: SummaryMap, entry: Mapping[str, Any]) -> str:
    if "buckets" not in entry:
        return _scalar(one.kind, entry)
    buckets = entry["buckets"]
    if not buckets:
        return "-"
    if one.kind == "tseries":
        return f"{buckets[-1]['sum']} in the latest of {len(buckets)} intervals"
    most = max(buckets, key=lambda each: each["count"])
    return f"count {entry['count']}, most in {_range(most['from'], most['to'])}: {most['count']}"


def losses(lost: int, left_out: int, size: int) -> Iterator[str]:
    """What is not in a map, and why."""
    if lost:
        yield f"{lost:,} updates lost: no room for more keys or buckets (size={size})"
    if left_out:
        yield f"{left_out:,} keys of processes left out: no room to merge them"


def _key(items: Sequence[int | str | dict[str, Any]]) -> str:
    return f"[{', '.join(map(_item, items))}]" if items else ""


def _item(item: int | str | dict[str, Any]) -> str:
    """An item of a key; a stack has a line for each frame."""
    if not isinstance(item, dict):
        return printable(str(item))
    if item.get("ended") == REASONS[StackEnd.DEPTH]:
        # As it was asked for, of each of them.
        item = {"ustack": item["ustack"]}
    return "\n" + "".join(f"    {line}\n" for line in stack_lines(item))


def _scalar(kind: str, entry: Mapping[str, Any]) -> str:
    if "words" in entry:
        return " ".join(map(str, entry["words"]))
    if kind not in ("avg", "stats"):
        return "-" if entry["value"] is None else str(entry["value"])
    if not entry["count"]:
        return "count 0"
    average = f"{entry['average']:.1f}".removesuffix(".0")
    if kind == "avg":
        return f"average {average}, count {entry['count']}"
    ends = f"min {entry['min']}, max {entry['max']}"
    return f"count {entry['count']}, average {average}, total {entry['sum']}, {ends}"


# -- histograms -------------------------------------------------------------------------------


def _histogram(
    one: SummaryMap, buckets: Sequence[Mapping[str, Any]], width: int | None
) -> Iterator[str]:
    rows = list(_series(buckets) if one.kind == "tseries" else _filled(one, buckets))
    label = max([_LABEL, *(len(text) for text, _ in rows)])
    number = max([8, *(len(str(count)) for _, count in rows)])
    bar = _BAR if width is None else min(_BAR, width - label - number - 4)
    bar = max(bar, _LEAST_BAR)
    most = max((count or 0 for _, count in rows), default=0)
    for text, count in rows:
        if count is None:
            yield text
            continue
        filled = "@" * (bar * max(count, 0) // most if most > 0 else 0)
        yield f"{text:{label}} {count:{number}} |{filled:{bar}}|"


def _filled(
    one: SummaryMap, buckets: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, int | None]]:
    """Label and count of each bucket, the empty ones between them too; None: dots for many."""
    definition = MapDefinition(one.map, one.kind, tuple(one.arguments))
    last: int | None = None
    for bucket in buckets:
        number = _number(definition, bucket["from"])
        between = range(number if last is None else last + 1, number)
        if len(between) > _GAP:
            yield "...", None
        else:
            yield from ((_range(*bounds(definition, n)), 0) for n in between)
        yield _range(bucket["from"], bucket["to"]), bucket["count"]
        last = number


def _number(definition: MapDefinition, first: int | None) -> int:
    if first is None:
        return -1
    if definition.kind == "lhist":
        return linear_bucket(first, *definition.arguments)
    return power_bucket(first, *definition.arguments)


def _range(low: int | None, high: int | None) -> str:
    if low is not None and high == low + 1:
        return f"[{_short(low)}]"
    left = "(..." if low is None else f"[{_short(low)}"
    return f"{left}, {'...' if high is None else _short(high)})"


def _short(number: int) -> str:
    """``2048`` as ``2K``, where that is exact."""
    unit = ""
    for each in _UNITS:
        if number % 1024 or not number:
            break
        number //= 1024
        unit = each
    return f"{number}{unit}"


def _series(buckets: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int | None]]:
    """Label and sum of each interval, by how long before the end of the latest it began."""
    if not buckets:
        return
    end, length = buckets[-1]["to"], buckets[0]["to"] - buckets[0]["from"]
    last = buckets[0]["from"]
    for bucket in buckets:
        missing = (bucket["from"] - last) // length
        for number in range(missing if missing <= _GAP else 0):
            yield _before(end - last - number * length), 0
        if missing > _GAP:
            yield "...", None
        yield _before(end - bucket["from"]), bucket["sum"]
        last = bucket["to"]


def _before(nanoseconds: int) -> str:
    return f"-{nanoseconds / _SECOND:g} s"
