"""Maps in memory of the target are given what is to be in them, again and again."""

from __future__ import annotations

import pytest

from dprobed.program.exec.native.maps import SharedMap, begin, bytes_of, shared_maps
from dprobed.program.maps import PROGRAM_BYTES, Entry, Item, MapContents, MapDefinition


def made(size: int = 4096) -> SharedMap:
    definitions = [MapDefinition("seen", "value", keys=1, size=size)]
    view = memoryview(bytearray(bytes_of(definitions)))
    begin(view, definitions)
    (found,) = shared_maps(view, definitions)
    return found


def entries(*items: Item) -> list[Entry]:
    return [([item], [number]) for number, item in enumerate(items)]


def test_values_that_are_set_again_and_again_find_room() -> None:
    one = made()
    sets = [[b"%03d" % number * 300 for number in range(first, first + 100)] for first in (0, 100)]
    rounds = 2 * PROGRAM_BYTES // (100 * 900)
    for number in range(rounds):
        keys, gone = sets[number % 2], sets[(number + 1) % 2]
        assert one.change([([key], [number]) for key in keys], [[key] for key in gone]) == 0
    assert sorted(one.contents().entries) == [([key], [rounds - 1]) for key in keys]
    assert one.lost == 0


def test_what_is_not_among_the_new_values_is_gone() -> None:
    one = made()
    one.load(MapContents(0, entries(b"a longer one", b"b", 1, 2)))
    one.load(MapContents(0, entries(b"c", b"a longer one", 2)))
    assert sorted(one.contents().entries, key=lambda each: each[1]) == entries(
        b"c", b"a longer one", 2
    )
    one.load(MapContents(0, []))
    assert (len(one), one.contents().entries) == (0, [])


@pytest.mark.parametrize("before", [0, 3])
def test_keys_that_find_no_room_are_counted(before: int) -> None:
    one = made(size=2)
    one.load(MapContents(0, entries(*range(before))))
    one.load(MapContents(5, entries(7, 8, 9)))
    assert (len(one), one.lost) == (2, 6)
