"""Keys of values that are set and forgotten from outside: the others stay as they are."""

from __future__ import annotations

import pytest

from dprobed.program.exec.interface import KeyedMap
from dprobed.program.exec.maps import held_maps
from dprobed.program.exec.native.maps import SLOT_BYTES, begin, bytes_of, layouts, shared_maps
from dprobed.program.maps import Item, MapContents, MapDefinition, MapRoom

DEFINITION = MapDefinition("v", "value", keys=1, size=4)
KINDS = ["held", "shared"]


def made(kind: str, definition: MapDefinition = DEFINITION, **cells: int) -> KeyedMap:
    """A map with something in it."""
    one: KeyedMap
    if kind == "held":
        (one,) = held_maps([definition], None)
    else:
        view = memoryview(bytearray(bytes_of([definition])))
        begin(view, [definition])
        (one,) = shared_maps(view, [definition])
    one.load(MapContents(0, [([key.encode()], [cell]) for key, cell in cells.items()]))
    return one


def contents(one: KeyedMap) -> dict[Item, int]:
    """What is in it, by key."""
    found = {key[0]: cell[0] for key, cell in one.contents().entries}
    assert len(found) == len(one)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_set_and_forgotten(kind: str) -> None:
    one = made(kind, a=1, b=2)
    assert one.change([([b"b"], [5]), ([b"c"], [(1 << 64) - 1])], [[b"a"], [b"none"]]) == 0
    assert contents(one) == {b"b": 5, b"c": (1 << 64) - 1}
    assert one.lost == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_room_is_told_to_who_sets_it(kind: str) -> None:
    one = made(kind, a=1, b=2, c=3, d=4)
    assert one.change([([b"e"], [5]), ([b"a"], [7])], []) == 1
    assert contents(one) == {b"a": 7, b"b": 2, b"c": 3, b"d": 4}
    assert one.lost == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_comes_and_goes_takes_no_more_room(kind: str) -> None:
    one = made(kind, a=1)
    for number in range(200_000 if kind == "held" else 100_000):
        assert one.change([([b"k"], [number])], []) == 0
        assert one.change([], [[b"k"]]) == 0
    assert one.change([([b"k"], [3])], []) == 0
    assert (contents(one), one.lost) == ({b"a": 1, b"k": 3}, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "definition",
    [
        MapDefinition("c", "count", keys=1, size=4),
        MapDefinition("h", "hist", (0,), keys=1, size=4),
        MapDefinition("a", "stats", keys=1, size=4),
    ],
    ids=lambda each: each.kind,
)
def test_keys_of_all_kinds_are_forgotten(kind: str, definition: MapDefinition) -> None:
    cell = {"count": [5], "hist": [1, 4, 2, 3], "stats": [1, 2, 0, 2, 2]}[definition.kind]
    one = made(kind, definition)
    for _ in range(3):
        keys: list[list[Item]] = [[b"a"], [2], [b"long" * 9], [7]]
        one.load(MapContents(0, [(key, cell) for key in keys]))
        assert one.change([], [[2], [b"long" * 9], [b"none"]]) == 0
        assert sorted(one.contents().entries, key=repr) == [([7], cell), ([b"a"], cell)]
        assert len(one) == 2
        assert one.change([], [[b"a"], [7]]) == 0
        assert (one.contents().entries, len(one)) == ([], 0)


def test_what_is_forgotten_gives_its_room_back() -> None:
    room = MapRoom(1 << 20)
    (one,) = held_maps([MapDefinition("h", "hist", (0,), keys=1)], room)
    one.load(MapContents(0, [([1], [1, 4, 2, 3])]))
    assert room.left < 1 << 20
    one.change([], [[1]])
    assert room.left == 1 << 20


def test_nothing_is_changed_while_a_thread_is_in_the_middle() -> None:
    view = memoryview(bytearray(bytes_of([DEFINITION])))
    begin(view, [DEFINITION])
    (one,) = shared_maps(view, [DEFINITION])
    one.load(MapContents(0, [([b"a"], [1])]))
    (layout,) = layouts([DEFINITION])
    for slot in range(layout.table, layout.end, SLOT_BYTES):
        view[slot] = 1
    assert one.change([([b"a"], [2])], [[b"b"]]) is None
    assert contents(one) == {b"a": 1}
    for slot in range(layout.table, layout.end, SLOT_BYTES):
        view[slot] = 2
    assert one.change([([b"a"], [2])], [[b"b"]]) == 0
    assert contents(one) == {b"a": 2}


def test_what_a_target_has_written_over_is_not_believed() -> None:
    view = memoryview(bytearray(bytes_of([DEFINITION])))
    begin(view, [DEFINITION])
    (one,) = shared_maps(view, [DEFINITION])
    one.load(MapContents(0, [([b"a"], [1])]))
    for at in range(0, layouts([DEFINITION])[0].end, 8):
        view[at : at + 8] = (len(view) - 8 - at % 64 // 8 * 2).to_bytes(8, "little")
    one.change([([b"a"], [2]), ([b"b"], [2])], [[b"c"]])
    one.contents()


TIMED = MapDefinition("t", "value", (3, 1), keys=1, size=4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_set_later_stays(kind: str) -> None:
    one = made(kind, TIMED)
    assert one.change([([1], [50, 5, 5]), ([2], [50, 6, 6])], []) == 0
    assert one.change([([1], [49, 7, 7]), ([2], [51, 8, 8]), ([3], [1, 9, 9])], []) == 0
    assert sorted(one.contents().entries) == [
        ([1], [50, 5, 5]),
        ([2], [51, 8, 8]),
        ([3], [1, 9, 9]),
    ]
    assert one.change([([1], [52, 1, 2])], [[2], [3]]) == 0
    assert one.contents().entries == [([1], [52, 1, 2])]
