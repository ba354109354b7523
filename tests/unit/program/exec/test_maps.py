"""Maps of the Python executor: their bounds, and that they come back as they were."""

from __future__ import annotations

import pytest

from dprobed.program.exec.maps import (
    AddingMap,
    BucketMap,
    HeldMap,
    SeriesMap,
    ValueMap,
    held_maps,
)
from dprobed.program.maps import PROGRAM_BYTES, MapContents, MapDefinition, MapRoom

KINDS = [
    MapDefinition("value", "value", keys=1),
    MapDefinition("count", "count", keys=1),
    MapDefinition("sum", "sum", keys=1, signed=True),
    MapDefinition("min", "min", keys=1, signed=True),
    MapDefinition("max", "max", keys=1),
    MapDefinition("avg", "avg", keys=1),
    MapDefinition("stats", "stats", keys=1, signed=True),
    MapDefinition("hist", "hist", (1,), keys=1, signed=True),
    MapDefinition("lhist", "lhist", (0, 100, 10), keys=1),
    MapDefinition("tseries", "tseries", (10, 3), keys=1, signed=True),
]


def made(definition: MapDefinition, room: MapRoom | None = None) -> HeldMap:
    (one,) = held_maps([definition], room)
    return one


def fill(one: HeldMap, key: int | bytes, word: int) -> None:
    """What a program can do at a key."""
    if isinstance(one, ValueMap):
        one.count(key)
    elif isinstance(one, SeriesMap):
        one.add_at(key, word, word % 100 * 10_000_000)
    else:
        assert isinstance(one, AddingMap)
        one.add(key, word)


@pytest.mark.parametrize("definition", KINDS, ids=lambda each: each.kind)
def test_another_goes_on_from_what_one_has(definition: MapDefinition) -> None:
    one, other, whole = (made(definition) for _ in range(3))
    for word in (3, 5, (1 << 64) - 7, 90):
        fill(one, 1, word)
        fill(whole, 1, word)
    other.load(one.contents())
    assert other.contents() == one.contents()
    for key, word in ((1, 4), (b"x", 7)):
        fill(other, key, word)
        fill(whole, key, word)
    assert other.contents() == whole.contents()


@pytest.mark.parametrize("definition", KINDS, ids=lambda each: each.kind)
def test_zero_begins_anew_and_clear_gives_all_room_back(definition: MapDefinition) -> None:
    room = MapRoom(1 << 20)
    one, fresh = made(definition, room), made(definition)
    fill(one, 1, 60)
    one.lost = 4
    one.zero()
    assert one.contents().lost == 0
    assert len(one) == 1
    fill(one, 1, 5)
    fill(fresh, 1, 5)
    assert one.contents() == fresh.contents()
    assert room.left < 1 << 20
    one.clear()
    assert (len(one), room.left) == (0, 1 << 20)


@pytest.mark.parametrize("definition", KINDS, ids=lambda each: each.kind)
def test_where_there_is_no_room_updates_are_lost_and_counted(definition: MapDefinition) -> None:
    room = MapRoom(2000)
    one = made(definition, room)
    for key in range(100):
        fill(one, key, 1)
    assert 0 < len(one) < 10
    assert room.left >= 0
    assert one.lost >= 90
    # What is there goes on.
    before = one.lost
    fill(one, 0, 1)
    assert one.lost == before


def test_buckets_are_bounded_too() -> None:
    room = MapRoom(1000)
    one = made(MapDefinition("a", "hist", (5,)), room)
    assert isinstance(one, BucketMap)
    for word in range(1000):
        one.add((), word)
    (cell,) = (cell for _, cell in one.contents().entries)
    assert sum(cell[1::2]) + one.lost == 1000
    assert len(cell) // 2 < 10


def test_a_deleted_key_makes_room() -> None:
    room = MapRoom(400)
    one = made(MapDefinition("a", "value", keys=1), room)
    assert isinstance(one, ValueMap)
    one.set(1, 5)
    one.set(2, 5)
    assert (one.lost, one.has(2)) == (1, 0)
    one.delete(1)
    assert room.left == 400
    one.set(2, 6)
    assert (one.get(2), one.lost) == (6, 1)


def test_a_series_keeps_the_latest_intervals() -> None:
    room = MapRoom(1 << 20)
    one = made(MapDefinition("a", "tseries", (1, 2)), room)
    assert isinstance(one, SeriesMap)
    for now in (0, 500_000, 1_000_000, 2_000_000, 2_100_000):
        one.add_at((), 3, now)
    assert one.contents().entries == [([], [1, 3, 0, 2, 6, 0])]
    used = (1 << 20) - room.left
    one.add_at((), 3, 9_000_000)
    assert one.contents().entries == [([], [9, 3, 0])]
    assert (1 << 20) - room.left < used


def test_all_maps_of_a_program_share_its_room() -> None:
    one, other = held_maps([KINDS[1], KINDS[1]], None)
    long = b"x" * 900
    for number in range(PROGRAM_BYTES // 12_000):
        fill(one, long + b"%d" % number, 1)
    for number in range(PROGRAM_BYTES // 6000):
        fill(other, long + b"%d" % number, 1)
    assert one.lost == 0
    assert other.lost > 0


def test_what_finds_no_room_as_it_is_loaded_is_counted() -> None:
    one = made(MapDefinition("seen", "value", keys=1, size=2))
    one.load(MapContents(5, [([key], [key]) for key in range(3)]))
    assert (len(one), one.lost) == (2, 6)
