"""Conditions on records, and what records come to."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest

from dprobed.record.record import Record
from dprobed.trace import stat
from dprobed.trace.choose import ConditionError, FieldError, Fields, all_of, value_of
from dprobed.trace.stat import RecordGroup
from tests.trace_support import decoded, raw


def record(word: int, string: str = "/lib/a.so", **changes: Any) -> Record:
    data = string.encode()
    log = pack("<Q", word & (1 << 64) - 1) + pack("<bH", 1, len(data)) + data
    return decoded(raw(log, (0, 1), **changes))


def test_a_byte_is_no_backslash_with_letters_behind_it() -> None:
    log = b"".join(
        pack("<bH", 1, len(data)) + data for data in (b"a\xffb", rb"a\xffb", rb"c:\dir", rb"\\x")
    )
    found = decoded(raw(log, (1, 1, 1, 1)))
    names = [value_of(found, f"string_{number}") for number in range(4)]
    assert names == [r"a\xffb", r"a\\xffb", r"c:\dir", r"\\\\x"]
    assert all_of([r"string_0=a\xffb"])(found)
    assert not all_of([r"string_1=a\xffb"])(found)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("word_0=100", True),
        ("word_0 = 0x64", True),
        ("word_0!=100", False),
        ("word_0>=100", True),
        ("word_0>100", False),
        ("word_0<101", True),
        ("word_0<=99", False),
        ("word_0=ten", False),
        ("word_1=100", False),
        ("string_0=*.so", True),
        ("string_0=*.SO", False),
        ("string_0!=*.so", False),
        ("string_0=/lib/?.so", True),
        ("string_0>/lib", True),
        ("pid=4242", True),
        ("comm=so*", True),
        ("program=program1", True),
        ("place=function1*", True),
        ("exit=trace", True),
        ("hit<1", False),
        ("nothing=1", False),
    ],
)
def test_conditions(condition: str, holds: bool) -> None:
    assert all_of([condition])(record(100)) is holds


def test_all_conditions_must_hold() -> None:
    assert all_of([])(record(1))
    assert all_of(["word_0=1", "uid=1000"])(record(1))
    assert not all_of(["word_0=1", "uid=1001"])(record(1))


def test_below_zero() -> None:
    assert all_of(["word_0=-1"])(record(-1))
    assert all_of(["word_0>=0x8000000000000000"])(record(-1))


@pytest.mark.parametrize("text", ["", "word_0", "=3", "word_0==", "a b=3"])
def test_what_is_no_condition(text: str) -> None:
    if text == "word_0==":
        assert not all_of([text])(record(1))
        return
    with pytest.raises(ConditionError, match="is no condition"):
        all_of([text])


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("word_0>ten", "`word_0` is a number, and `ten` is none"),
        ("word_0=1*", "`word_0` is a number, and `1*` is none"),
        ("value_9=1", "no record has a field `value_9`"),
        ("word_0>10", None),
        ("string_0=*.so", None),
        ("string_0=12", None),
        ("comm>a", None),
    ],
)
def test_what_no_record_can_be(condition: str, says: str | None) -> None:
    fields = Fields([condition])
    fields.check()  # where there is no record, nothing is known
    for number in range(3):
        fields.see(record(number))
    if says is None:
        fields.check()
        return
    with pytest.raises(FieldError) as raised:
        fields.check()
    assert str(raised.value).startswith(says)


@pytest.mark.parametrize("text", ["pid=x", "time>10.5", "hit<many"])
def test_a_number_that_is_none(text: str) -> None:
    with pytest.raises(ConditionError, match="is a whole number, and"):
        all_of([text])


def test_groups_and_rates() -> None:
    records = [
        record(n, string="ab"[n % 2], time=n * 1_000_000_000, comm=b"x", pid=1 + n % 2)
        for n in range(5)
    ]
    first, second = stat.groups(records, "string_0", "word_0")
    assert (first.key, first.count, first.total, first.least, first.most) == ("a", 3, 6, 0, 4)
    assert (second.key, second.count, second.total) == ("b", 2, 4)
    assert first.rate == pytest.approx(0.5)
    assert [g.key for g in stat.groups(records, "process", None)] == ["x[1]", "x[2]"]
    assert [g.key for g in stat.groups(records, "probe", None)] == ["program1 7.3 function1+0x4"]
    assert [g.key for g in stat.groups(records, "fault_0", None)] == ["(none)"]
    assert stat.groups([], "probe", None) == []


def drawn(*numbers: int) -> list[str]:
    (group,) = stat.groups([record(number) for number in numbers], "program", "word_0")
    return list(stat.histogram(group))


def test_histogram() -> None:
    """Buckets of powers of two without a gap; the longest bar is the largest count."""
    full, half = "█" * 40, "█" * 20
    assert drawn(0, 1, 3, 2, 8, 15, 9, 12) == [
        f"        0         1 |{'█' * 10:<40}|",
        f"        1         1 |{'█' * 10:<40}|",
        f"   [2, 4)         2 |{half:<40}|",
        f"   [4, 8)         0 |{'':<40}|",
        f"  [8, 16)         4 |{full}|",
    ]


def test_histogram_of_large_and_negative_numbers() -> None:
    lines = drawn(-5, 1 << 62, *[5] * 1000)
    assert lines[0].split("|")[0].split() == ["below", "0", "1"]
    # One of a thousand is still seen, and one that is far away is told of.
    assert lines[0].count("█") == 1
    assert lines[-2].split("|")[0].strip().startswith("[4, 8)")
    assert lines[-1] == "  and 1 far above, up to 4E"


def test_what_is_often_there_is_drawn_however_far_away() -> None:
    lines = drawn(*[1 << 40] * 10, *[5] * 10)
    assert lines[-1].split("|")[0].split() == ["[1T,", "2T)", "10"]


def test_units_of_a_histogram() -> None:
    group = RecordGroup("x")
    for number in (1500, 1500, 1_500_000, 1_500_000):
        group.add(1, number)
    assert [line.split("|")[0].split()[:4] for line in stat.histogram(group, "ns")][0::10] == [
        ["[1.024", "µs,", "2.048", "µs)"],
        ["[1.049", "ms,", "2.097", "ms)"],
    ]


def test_percentiles() -> None:
    group = RecordGroup("x")
    for number in range(1, 101):
        group.add(1, number)
    assert [group.percentile(each) for each in (1, 25, 50)] == [1, 25, 50]
    assert 90 <= group.percentile(90) <= 93
    assert group.percentile(100) == 100
    group = RecordGroup("y")
    for value in (-0.5, 1e300, 2.5):
        group.add(1, value)
    assert group.percentile(50) == 2.5
    assert group.buckets == {-1: 1, 997: 1, 2: 1}


def test_numbers_of_a_group() -> None:
    group = RecordGroup("x")
    for number in (3, -1, None, 10):
        group.add(1, number)
    assert (group.count, group.numbers, group.total) == (4, 3, 12)
    assert (group.least, group.most) == (-1, 10)
