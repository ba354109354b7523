"""What has an effect is evaluated once, and in the order in which it is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.programs.cases import Region
from tests.unit.program.bt.running import AT, Running, refused

#: A script's hit, what it prints, and what is then in @v.
CASES: list[tuple[str, list[Any], dict[Any, Any]]] = [
    ("@v[0] = 5; print(delete(@v, $i++)); print($i)", [True, 1], {}),
    ("@v[$i++] += 1; print($i)", [1], {0: 1}),
    ("@v[$i++] -= 1; @v[$i++] *= 2; print($i)", [2], {0: -1, 1: 0}),
    ("@v[$i++]--; print($i)", [1], {0: -1}),
    ("--@v[$i++]; print($i)", [1], {0: -1}),
    ("@v[$i++]++; print($i)", [1], {0: 1}),
    ("print(@v[$i++]++); print($i)", [0, 1], {0: 1}),
    ("print(++@v[$i++]); print($i)", [1, 1], {0: 1}),
    ("@v[0] = 7; let $o; print(find(@v, $i++, $o)); print($o); print($i)", [True, 7, 1], {0: 7}),
    ("@v[$i++, 3] += 4; @v[(5, $i++)] += 4; print($i)", [2], {(0, 3): 4, (5, 1): 4}),
    ("@v[$i++, $i++] = 1", [], {(0, 1): 1}),
    ("@v[($i++, $i++), $i++] = 1", [], {((0, 1), 2): 1}),
    ("@v[$i] += ++$i", [], {0: 1}),
    ("@v[str($p++)] += 2; print($p - arg0)", [1], {"ab": 2}),
    ("@v[str($p++), $i++] += 2; print($p - arg0)", [1], {("ab", 0): 2}),
    ("print(($i++, $i++, $i))", [(0, 1, 2)], {}),
    ("$t = ($i++, $i++); print($t.0); print($t.1)", [0, 1], {}),
]


@pytest.mark.parametrize(("body", "said", "wanted"), CASES, ids=[each[0] for each in CASES])
def test_once_and_in_order(body: str, said: list[Any], wanted: dict[Any, Any]) -> None:
    running = Running(f"uprobe:m:f {{ $i = 0; $p = arg0; {body} }}")
    running.thread([Region(AT, bytearray(b"ab\0\0\0\0\0\0"), True)], rdi=AT)
    assert [one[1] for one in running.hit()] == said
    assert (running.map("@v") if running.bundle.maps else {}) == wanted


def test_the_address_of_what_is_altered_is_made_once() -> None:
    running = Running(
        "uprobe:m:f { $p = (uint8 *)arg0; *($p++) += 1; *($p++) = 9; "
        "$a = (uint16 *)arg0; $i = 1; $a[$i++] -= 1; print($i); print($p - (uint8 *)arg0) }"
    )
    memory = Region(AT, bytearray(b"\1\2\3\0\0\0\0\0"), True)
    context = running.thread([memory], rdi=AT)
    assert [one[1] for one in running.hit()] == [2, 2]
    assert bytes(context.regions[0].data) == b"\2\x09\2\0\0\0\0\0"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("print((nsecs, nsecs))", (1, 2)),
        ("print(nsecs < nsecs)", True),
        ("print(nsecs > nsecs)", False),
    ],
)
def test_looks_at_the_clock_come_in_their_order(
    body: str, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(f"uprobe:m:f {{ {body} }}")
    context = running.thread()
    # Each of the two executors has a thread, whose clock goes on whenever it is looked at.
    clocks: defaultdict[int, Iterator[int]] = defaultdict(lambda: count(1))
    monkeypatch.setattr(type(context), "now", lambda self: next(clocks[id(self)]))
    assert running.hit() == [("Print", said)]


def test_a_condition_counts_as_it_is_asked() -> None:
    running = Running("uprobe:m:f /@n++ < 2/ { print(1) }")
    running.thread()
    assert [running.hit() for _ in range(3)] == [[("Print", 1)], [("Print", 1)], []]


def test_a_loop_knows_what_its_variables_become() -> None:
    running = Running(
        "uprobe:m:f { $x = (uint8)1; $i = 0; while ($i < 3) { $y = $x; print($y); "
        "$x += 200; $i++ } }"
    )
    running.thread()
    assert [one[1] for one in running.hit()] == [1, 201, 401]


def test_what_is_wrong_in_a_loop_is_said_once() -> None:
    said = refused("uprobe:m:f { $x = (uint8)1; while ($x < 3) { $x += 1; nothing() } }")
    assert said.count("there is no function") == 1
