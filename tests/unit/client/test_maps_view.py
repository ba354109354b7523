"""Maps as text: at each width, and what is said of what is not there."""

from __future__ import annotations

from typing import Any

import pytest
from dprobe.lib.summary import SummaryMap, joined, of_programs, plain, shown
from dprobe.view.maps import map_lines

from dprobed.wire.messages import MapEntry, MapInfo


def info(kind: str, *entries: MapEntry, **more: Any) -> MapInfo:
    fields: dict[str, Any] = {
        "number": 1, "program": "p", "pid": None, "processes": 1, "map": "m", "arguments": [],
        "keys": 1, "size": 4096, "signed": False, "lost": 0, "left_out": 0,
    }  # fmt: skip
    return MapInfo(kind=kind, entries=list(entries), **(fields | more))


def lines(one: MapInfo | SummaryMap, width: int | None = None, **more: Any) -> list[str]:
    return map_lines([shown(one) if isinstance(one, MapInfo) else one], width, **more)


SIZES = info("hist", MapEntry([], [0, 1, 3, 7, 4, 14]), arguments=[0], keys=0)


@pytest.mark.parametrize(("width", "bar"), [(60, 32), (80, 52), (132, 52), (None, 52), (20, 10)])
def test_a_histogram_is_as_wide_as_there_is_room(width: int | None, bar: int) -> None:
    found = lines(SIZES, width)
    assert found[0] == "@m:"
    assert found[1:] == [
        f"{'[0]':16} {1:8} |{'@' * (bar // 14):{bar}}|",
        f"{'[1]':16} {0:8} |{'':{bar}}|",
        f"{'[2, 4)':16} {0:8} |{'':{bar}}|",
        f"{'[4, 8)':16} {7:8} |{'@' * (bar // 2):{bar}}|",
        f"{'[8, 16)':16} {14:8} |{'@' * bar}|",
    ]
    assert all(len(line) <= max(width or 80, 38) for line in found)


def test_large_buckets_have_short_labels_and_many_empty_ones_are_dots() -> None:
    found = lines(info("hist", MapEntry([], [3, 1, 40, 2, 41, 1]), arguments=[0], keys=0))
    assert [line.split("|")[0].split()[:-1] for line in found[1:2]] == [["[4,", "8)"]]
    assert found[2] == "..."
    assert [line[:16].rstrip() for line in found[3:]] == ["[512G, 1T)", "[1T, 2T)"]


def test_steps_have_open_ends() -> None:
    one = info("lhist", MapEntry([], [-1, 1, 1, 2, 3, 1]), arguments=[0, 25, 10], keys=0)
    found = lines(one)
    assert [line[:16].rstrip() for line in found[1:]] == [
        "(..., 0)", "[0, 10)", "[10, 20)", "[20, 25)", "[25, ...)",
    ]  # fmt: skip


def test_a_series_says_how_long_ago() -> None:
    one = info("tseries", MapEntry([], [7, 5, 0, 9, 10, 0]), arguments=[500, 9], keys=0)
    assert [line.split("|")[0].split() for line in lines(one)[1:]] == [
        ["-1.5", "s", "5"], ["-1", "s", "0"], ["-0.5", "s", "10"],
    ]  # fmt: skip


def test_scalars_are_a_line_each_the_greatest_last() -> None:
    one = info("count", MapEntry(["a b", 7], [3]), MapEntry(["c", 1], [9]), keys=2)
    assert lines(one) == ["@m[a b, 7]: 3", "@m[c, 1]: 9"]
    assert lines(one, top=1) == ["@m[c, 1]: 9", "(1 key with less not shown)"]
    assert lines(info("avg", MapEntry([1], [4, 10, 0]))) == ["@m[1]: average 2.5, count 4"]
    stats = info("stats", MapEntry([1], [2, 10, 0, 4, 6]), MapEntry([2], []))
    assert lines(stats) == [
        "@m[2]: count 0",
        "@m[1]: count 2, average 5, total 10, min 4, max 6",
    ]
    assert lines(info("min", MapEntry([1], []))) == ["@m[1]: -"]
    assert lines(info("count", keys=0)) == ["@m: nothing yet"]


def test_what_is_lost_is_said() -> None:
    found = lines(info("count", MapEntry([1], [3]), lost=12000, left_out=2, size=1))
    assert found[1:] == [
        "@m: 12,000 updates lost: no room for more keys or buckets (size=1)",
        "@m: 2 keys of processes left out: no room to merge them",
    ]


def test_what_does_not_show_is_escaped() -> None:
    assert lines(info("count", MapEntry(["a\x1b[2J\n"], [3]))) == ["@m[a\\x1b[2J\\n]: 3"]


def test_processes_and_programs_are_told_apart() -> None:
    one, other = info("count", MapEntry([1], [3])), info("count", MapEntry([1], [4]), program="q")
    text = map_lines([shown(one), shown(other)], None)
    assert text == ["p:", "@m[1]: 3", "", "q:", "@m[1]: 4"]
    of = [shown(info("value", MapEntry([1], [pid]), pid=pid)) for pid in (7, 8)]
    assert map_lines(of, None)[0] == "process 7:"
    ended = map_lines([shown(info("count", processes=2))], None, by_process=True)
    assert ended[0] == "2 processes that ended:"


def test_those_of_one_program_are_added_up() -> None:
    first = info("count", MapEntry([1], [3]), MapEntry(["x"], [1]), lost=1)
    second = info("count", MapEntry([1], [4]), number=2, lost=2)
    assert len(joined([first, second])) == 2
    (both,) = of_programs([first, second])
    assert [(entry["key"], entry["value"]) for entry in both.entries] == [([1], 7), (["x"], 1)]
    assert (both.lost, both.processes) == (3, 2)
    # Not those of values, nor of another definition.
    third = info("count", MapEntry([1], [4]), size=9)
    assert len(of_programs([first, third])) == 2
    values = [info("value", MapEntry([1], [4]), pid=pid) for pid in (1, 2)]
    assert len(of_programs(values)) == 2


def test_what_json_cannot_hold_is_text() -> None:
    one = plain(shown(info("sum", MapEntry([1], [1, 1]), MapEntry([2], [5, 0]))))
    assert [entry["value"] for entry in one["entries"]] == [str((1 << 64) + 1), 5]
