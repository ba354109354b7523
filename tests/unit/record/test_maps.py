"""Maps of several processes together: nothing is counted twice, and nothing left out silently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dprobed.program.exec.maps import AddingMap, SeriesMap, ValueMap, held_maps
from dprobed.program.maps import MapDefinition, MapRoom
from dprobed.record.maps import MapSums, merged, values, weight
from tests.unit.program.exec.test_maps import KINDS

WORDS = st.one_of(st.integers(0, 200), st.integers(0, (1 << 64) - 1))
UPDATES = st.lists(st.tuples(st.integers(0, 2), WORDS), max_size=30)


def added(definition: MapDefinition, updates: list[tuple[int, int]]) -> MapSums:
    sums = MapSums(definition, MapRoom(1 << 20))
    one = _filled(definition, updates)
    sums.add(*one)
    return sums


def _filled(
    definition: MapDefinition, updates: list[tuple[int, int]]
) -> tuple[int, list[tuple[list[int | bytes], list[int]]]]:
    (held,) = held_maps([definition], None)
    for key, word in updates:
        if isinstance(held, ValueMap):
            held.count(key)
        elif isinstance(held, SeriesMap):
            held.add_at(key, word, 5_000_000 * key)
        else:
            assert isinstance(held, AddingMap)
            held.add(key, word)
    contents = held.contents()
    return contents.lost, contents.entries


@pytest.mark.parametrize(
    "definition", [each for each in KINDS if each.kind != "value"], ids=lambda each: each.kind
)
@given(one=UPDATES, other=UPDATES)
def test_two_processes_are_as_one(
    definition: MapDefinition, one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    sums = added(definition, one)
    sums.add(*_filled(definition, other))
    both = added(definition, one + other)
    assert sorted(map(repr, sums.entries())) == sorted(map(repr, both.entries()))
    assert sums.left_out == 0


def test_of_timed_values_the_latest_stays() -> None:
    sums = MapSums(MapDefinition("a", "value", (2, 1), keys=1), MapRoom(100_000))
    sums.add(0, [([1], [50, 1]), ([2], [50, 1])])
    sums.add(0, [([1], [49, 2]), ([2], [51, 2]), ([3], [1, 3]), ([4], [1])])
    assert sums.entries() == [([1], [50, 1]), ([2], [51, 2]), ([3], [1, 3])]
    assert sums.left_out == 1
    assert merged(sums.definition, [5, 1], []) == [5, 1]


def test_a_value_of_several_words_is_told_with_all_of_them() -> None:
    timed = MapDefinition("a", "value", (2, 1), signed=True)
    assert values(timed, [99, (1 << 64) - 1]) == {"value": -1}
    assert values(timed, []) == {"value": None}
    assert values(MapDefinition("a", "value", (2,)), [7, 8]) == {"value": 7, "words": [7, 8]}


def test_what_has_no_room_is_counted() -> None:
    definition = MapDefinition("a", "count", keys=1)
    room = MapRoom(1000)
    sums = MapSums(definition, room)
    sums.add(3, [([n], [1]) for n in range(50)])
    assert sums.lost == 3
    assert len(sums.entries()) + sums.left_out == 50
    assert sums.left_out > 0
    sums.close()
    assert room.left == 1000


@pytest.mark.parametrize(
    ("definition", "cell", "known", "heavy"),
    [
        (MapDefinition("a", "count"), [7], {"value": 7}, 7),
        (MapDefinition("a", "value", signed=True), [(1 << 64) - 2], {"value": -2}, -2),
        (MapDefinition("a", "min"), [], {"value": None}, 0),
        (MapDefinition("a", "sum"), [0, 1], {"value": 1 << 64}, 1 << 64),
        (MapDefinition("a", "avg"), [2, 5, 0], {"count": 2, "sum": 5, "average": 2.5}, 5),
        (
            MapDefinition("a", "stats"),
            [2, 5, 0, 1, 4],
            {"count": 2, "sum": 5, "average": 2.5, "min": 1, "max": 4},
            5,
        ),
        (MapDefinition("a", "stats"), [], {"count": 0, "sum": 0, "average": None}, 0),
        (
            MapDefinition("a", "hist", (0,), signed=True),
            [-1, 2, 0, 1, 3, 4],
            {
                "count": 7,
                "buckets": [
                    {"from": None, "to": 0, "count": 2},
                    {"from": 0, "to": 1, "count": 1},
                    {"from": 4, "to": 8, "count": 4},
                ],
            },
            7,
        ),
        (
            MapDefinition("a", "lhist", (0, 25, 10)),
            [2, 1, 3, 5],
            {
                "count": 6,
                "buckets": [
                    {"from": 20, "to": 25, "count": 1},
                    {"from": 25, "to": None, "count": 5},
                ],
            },
            6,
        ),
        (
            MapDefinition("a", "tseries", (10, 3)),
            [7, 5, 0],
            {"buckets": [{"from": 70_000_000, "to": 80_000_000, "sum": 5}]},
            5,
        ),
    ],
    ids=lambda each: each.kind if isinstance(each, MapDefinition) else None,
)
def test_values(definition: MapDefinition, cell: list[int], known: object, heavy: int) -> None:
    assert values(definition, cell) == known
    assert weight(definition, cell) == heavy
