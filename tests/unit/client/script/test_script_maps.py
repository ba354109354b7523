"""Maps as bpftrace prints them: what it printed itself, for the same scripts."""

from __future__ import annotations

import json
import time

import pytest
from dprobe.lib.script.values import (
    Address,
    Average,
    BucketCounts,
    Buffer,
    MapEntry,
    MapValue,
    NamedNumber,
    Series,
    Shown,
    ShownMap,
    StackText,
)
from dprobe.view.script import maps, values

from dprobed.program.maps import linear_bucket, power_bucket

_BAR = "@" * 52
_NONE = " " * 52


def scalar(value: MapValue, kind: str = "value") -> ShownMap:
    return ShownMap("@a", kind, [MapEntry((), value)])


def keyed(*pairs: tuple[Shown, MapValue], kind: str = "count") -> ShownMap:
    return ShownMap("@b", kind, [MapEntry((key,), value) for key, value in pairs], keyed=True)


def power(*numbers: int) -> BucketCounts:
    counts: dict[int, int] = {}
    for number in numbers:
        counts[power_bucket(number, 0)] = counts.get(power_bucket(number, 0), 0) + 1
    return BucketCounts(counts)


def hist(*numbers: int) -> ShownMap:
    return ShownMap("@h", "hist", [MapEntry((), power(*numbers))], arguments=(0,))


def lhist(low: int, high: int, step: int, *numbers: int) -> ShownMap:
    counts: dict[int, int] = {}
    for number in numbers:
        bucket = linear_bucket(number, low, high, step)
        counts[bucket] = counts.get(bucket, 0) + 1
    return ShownMap(
        "@l", "lhist", [MapEntry((), BucketCounts(counts))], arguments=(low, high, step)
    )


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (1, "@a: 1\n"),
        (-5, "@a: -5\n"),
        ("hello", "@a: hello\n"),
        ((1, "a", (2, 3)), "@a: (1, a, (2, 3))\n"),
        ([1, 2], "@a: [1,2]\n"),
        ({"m": 2, "n": [3]}, "@a: { .m = 2, .n = [3] }\n"),
        (NamedNumber(1, "ONE"), "@a: ONE\n"),
        (Address(5), "@a: 0x5\n"),
        (Buffer(b"a\1"), "@a: a\\x01\n"),
        (StackText(("f+1",)), "@a: \n        f+1\n\n"),
    ],
)
def test_a_map_without_keys_is_a_line(value: Shown, wanted: str) -> None:
    assert maps.text(scalar(value)) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (5, "5"),
        ("a b \n d e", '"a b \\n d e"'),
        ('say "hi" \\', '"say \\"hi\\" \\\\"'),
        ((1, 2, "string", (4, 5)), '[1,2,"string",[4,5]]'),
        ({"y": {"m": [2]}, "f": None}, '{"y": {"m": [2]}, "f": null}'),
        (NamedNumber(333, "FOO"), "333"),
        (Address(50), "50"),
        (True, "true"),
        (Buffer(b"a\1"), '"a\\\\x01"'),
        (StackText(("f+1", "g+2")), '"\\n        f+1\\n        g+2\\n"'),
        ("h\u00e9", '"h\u00e9"'),
        ("\udcff", '"\\\\xff"'),
    ],
)
def test_a_map_without_keys_in_json(value: Shown, wanted: str) -> None:
    line = maps.as_json(scalar(value))
    assert line == f'{{"type": "map", "data": {{"@a": {wanted}}}}}\n'
    json.loads(line)


def test_numbers_come_in_their_order_the_greatest_last() -> None:
    assert maps.text(keyed((1, -7), (2, 7), (3, -1))) == "@b[1]: -7\n@b[3]: -1\n@b[2]: 7\n"


def test_texts_come_in_the_order_of_their_keys() -> None:
    shown = keyed(("b", "x"), ("a", "y"), ("c", "a"), kind="value")
    assert maps.text(shown) == "@b[a]: y\n@b[b]: x\n@b[c]: a\n"


def test_the_top_and_a_divisor() -> None:
    shown = keyed(("x", 3), ("y", 1), ("z", 9))
    assert maps.text(shown, top=2) == "@b[x]: 3\n@b[z]: 9\n"
    assert maps.text(shown, top=1, divisor=2) == "@b[z]: 4\n"
    assert maps.text(keyed((1, -7)), divisor=2) == "@b[1]: -3\n"


def test_several_keys_and_stacks_within_keys() -> None:
    shown = ShownMap("@s", "count", [MapEntry(("sh", StackText(("f+1",)), 1), 2)], keyed=True)
    assert maps.text(shown) == "@s[sh, \n    f+1\n, 1]: 2\n"
    only = ShownMap("@", "count", [MapEntry((StackText(("f+1", "g+2")),), 1)], keyed=True)
    assert maps.text(only) == "@[\n    f+1\n    g+2\n]: 1\n"
    wanted = {"type": "map", "data": {"@": {"\n    f+1\n    g+2\n": 1}}}
    assert json.loads(maps.as_json(only)) == wanted


def test_keys_in_json_have_commas_and_no_names() -> None:
    shown = ShownMap(
        "@b",
        "count",
        [MapEntry(("y", 1), 1), MapEntry(("x", NamedNumber(2, "TWO")), 3)],
        keyed=True,
    )
    assert maps.as_json(shown) == '{"type": "map", "data": {"@b": {"y,1": 1, "x,2": 3}}}\n'
    assert maps.text(shown) == "@b[y, 1]: 1\n@b[x, TWO]: 3\n"


def test_averages_and_stats() -> None:
    shown = keyed(("a", Average(1, 10)), ("b", Average(5, 21)), kind="stats")
    assert maps.text(shown) == (
        "@b[b]: count 5, average 4, total 21\n@b[a]: count 1, average 10, total 10\n\n"
    )
    assert json.loads(maps.as_json(shown)) == {
        "type": "stats",
        "data": {
            "@b": {
                "b": {"count": 5, "average": 4, "total": 21},
                "a": {"count": 1, "average": 10, "total": 10},
            }
        },
    }
    average = keyed(("c", Average(2, 60)), ("d", Average(1, 40)), kind="avg")
    assert maps.text(average, top=2, divisor=10) == "@b[c]: 3\n@b[d]: 4\n\n"
    assert maps.as_json(average) == '{"type": "stats", "data": {"@b": {"c": 30, "d": 40}}}\n'
    assert maps.text(scalar(Average(2, -7), "stats")) == "@a: count 2, average -3, total -7\n\n"


def test_a_histogram_has_the_buckets_between_its_first_and_its_last() -> None:
    assert maps.text(hist(5, 500, 0, -4)) == (
        "@h:\n"
        f"(..., 0)               1 |{_BAR}|\n"
        f"[0]                    1 |{_BAR}|\n"
        f"[1]                    0 |{_NONE}|\n"
        f"[2, 4)                 0 |{_NONE}|\n"
        f"[4, 8)                 1 |{_BAR}|\n"
        f"[8, 16)                0 |{_NONE}|\n"
        f"[16, 32)               0 |{_NONE}|\n"
        f"[32, 64)               0 |{_NONE}|\n"
        f"[64, 128)              0 |{_NONE}|\n"
        f"[128, 256)             0 |{_NONE}|\n"
        f"[256, 512)             1 |{_BAR}|\n"
        "\n"
    )


def test_bars_are_in_proportion_and_numbers_short() -> None:
    assert maps.text(hist(1024, 1024, 1024, 2048)) == (
        f"@h:\n[1K, 2K)               3 |{_BAR}|\n"
        f"[2K, 4K)               1 |{'@' * 17}{' ' * 35}|\n\n"
    )
    assert "[1M, 2M)" in maps.text(hist(1 << 20))
    assert "[1G, 2G)" in maps.text(hist(1 << 30))
    assert "[8E, 16E)" in maps.text(hist(1 << 63))


def test_a_histogram_in_json() -> None:
    assert json.loads(maps.as_json(hist(-4, 0, 5))) == {
        "type": "hist",
        "data": {
            "@h": [
                {"max": -1, "count": 1},
                {"min": 0, "max": 0, "count": 1},
                {"min": 1, "max": 1, "count": 0},
                {"min": 2, "max": 3, "count": 0},
                {"min": 4, "max": 7, "count": 1},
            ]
        },
    }
    assert maps.as_json(hist()) == '{"type": "hist", "data": {"@h": []}}\n'


def test_a_histogram_that_was_zeroed_is_empty() -> None:
    assert maps.text(hist()) == "@h:\n\n"
    assert maps.text(
        ShownMap("@h", "hist", [MapEntry((), BucketCounts({1: 0}))], arguments=(0,))
    ) == ("@h:\n\n")


def test_histograms_by_key_come_by_how_much_is_in_them() -> None:
    shown = ShownMap(
        "@h",
        "hist",
        [MapEntry(("x",), power(5, 5)), MapEntry(("y",), power(100000))],
        keyed=True,
        arguments=(0,),
    )
    assert maps.text(shown).split("\n")[0] == "@h[y]:"
    assert maps.text(shown, top=1, divisor=2) == f"@h[x]:\n[4, 8)                 1 |{_BAR}|\n\n"
    assert list(json.loads(maps.as_json(shown))["data"]["@h"]) == ["y", "x"]


def test_a_linear_histogram() -> None:
    assert maps.text(lhist(0, 30, 10, 5, -1, 200)) == (
        "@l:\n"
        f"(..., 0)               1 |{_BAR}|\n"
        f"[0, 10)                1 |{_BAR}|\n"
        f"[10, 20)               0 |{_NONE}|\n"
        f"[20, 30)               0 |{_NONE}|\n"
        f"[30, ...)              1 |{_BAR}|\n"
        "\n"
    )
    assert json.loads(maps.as_json(lhist(0, 10, 10, 5, -1, 200)))["data"]["@l"] == [
        {"max": -1, "count": 1},
        {"min": 0, "max": 9, "count": 1},
        {"min": 10, "count": 1},
    ]
    assert maps.text(lhist(0, 1, 1, 0)).split("\n")[1].startswith("[0, 1)")


@pytest.mark.parametrize(
    ("shown", "label"),
    [
        (lhist(0, 10240, 1024, 2000), "[1K, 2K) "),
        (lhist(0, 10240, 1024, 20000), "[10K, ...) "),
        (lhist(0, 102400, 1000, 20000), "[20000, 21000) "),
        (lhist(0, 10485760, 1048576, 2000000), "[1M, 2M) "),
    ],
)
def test_numbers_of_a_linear_histogram_are_short_where_its_steps_are(
    shown: ShownMap, label: str
) -> None:
    assert maps.text(shown).split("\n")[1].startswith(label)


def test_a_time_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    shown = ShownMap("@", "tseries", [MapEntry((), Series({10: -1, 12: 1}))], arguments=(100, 5))
    column = " " * 25
    assert maps.text(shown, now=36_000_000_000_000) == (
        "@:\n"
        f"             -1{' ' * 50}1\n"
        f"hh:mm:ss.ms  |{'_' * 51}|\n"
        f"10:00:01.000 *{column}.{column}| -1\n"
        f"10:00:01.100 |{column}*{column}| 0\n"
        f"10:00:01.200 |{column}.{column}* 1\n"
        f"             v{'_' * 51}v\n"
        f"             -1{' ' * 50}1\n"
        "\n"
    )
    assert json.loads(maps.as_json(shown, now=36_000_000_000_000))["data"]["@"][0] == {
        "interval_start": "10:00:01.000",
        "value": -1,
    }


def test_bytes_that_are_not_text_stay_what_they_are() -> None:
    assert values.text("\udcff") == "\udcff"
