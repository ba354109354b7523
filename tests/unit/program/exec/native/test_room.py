"""Maps that are emptied again and again: what keys have taken is used again."""

from __future__ import annotations

import pytest

from dprobed.program.exec.native import maps
from dprobed.program.exec.native.maps import begin, bytes_of, give_back, shared_maps
from dprobed.program.maps import Entry, MapContents, MapDefinition

DEFINITIONS = [
    MapDefinition("words", "count", (), keys=1, size=64, signed=False),
    MapDefinition("value", "value", (), keys=1, size=64, signed=False),
]
ENTRIES: list[Entry] = [([number], [number]) for number in range(64)]


def made() -> tuple[memoryview, list[maps.SharedMap]]:
    view = memoryview(bytearray(bytes_of(DEFINITIONS)))
    begin(view, DEFINITIONS)
    return view, shared_maps(view, DEFINITIONS)


@pytest.mark.parametrize("others", [0, 10], ids=["all", "some"])
def test_room_does_not_run_out(others: int) -> None:
    """More keys in all than there is room for; of another map nothing is lost."""
    view, (words, value) = made()
    value.load(MapContents(0, ENTRIES[:others]))
    for _ in range(len(view) // 40 // 64 + 100):
        # As many as are wasted at once, for the sake of time.
        words._put(maps.USED, words._word(maps.USED) + 1024 * 64 * 40)
        words.clear()
        give_back(view, [words, value])
        words.load(MapContents(0, ENTRIES))
        assert (words.lost, len(words)) == (0, 64)
    assert sorted(value.contents().entries) == ENTRIES[:others]


@pytest.mark.parametrize("kind", ["count", "value"])
def test_room_does_not_run_out_beside_a_map_of_many_keys(kind: str) -> None:
    """Which keeps all of them, with what they have, but for those that were deleted."""
    definitions = [
        MapDefinition("words", "count", (), keys=1, size=64, signed=False),
        MapDefinition("many", kind, (), keys=1, size=10_000, signed=False),
    ]
    view = memoryview(bytearray(bytes_of(definitions)))
    begin(view, definitions)
    words, many = shared_maps(view, definitions)
    had: list[Entry] = [([number], [number + 1]) for number in range(9_000)]
    many.load(MapContents(3, had))
    gone = [[number] for number in range(8_000, 9_000)]
    assert many.change([], gone) == 0
    left = 0
    for _ in range(20):
        words._put(maps.USED, words._word(maps.USED) + len(view) // 8)
        words.clear()
        left = give_back(view, [words, many], left)
        words.load(MapContents(0, ENTRIES))
        assert (words.lost, len(words), len(many), many.lost) == (0, 64, 8_000, 3)
    assert sorted(many.contents().entries) == had[:8_000]
    assert many.change([([8_500], [7])], []) == 0
    assert ([8_500], [7]) in many.contents().entries


def test_room_that_maps_need_is_not_moved_again_and_again() -> None:
    view, (words, value) = made()
    value.load(MapContents(0, ENTRIES))
    words._put(maps.USED, len(view) // 2)
    left = give_back(view, [words, value])
    assert left == words._word(maps.USED) < len(view) // 2
    words._put(maps.USED, len(view) // 2)
    assert give_back(view, [words, value], len(view) // 3) == len(view) // 3
    assert words._word(maps.USED) == len(view) // 2


def test_a_copy_is_as_it_was() -> None:
    _, (words, _) = made()
    words.load(MapContents(2, ENTRIES))
    copy = words.copy()
    words.clear()
    assert (copy.lost, sorted(copy.contents().entries)) == (2, ENTRIES)
    assert words.contents() == MapContents(0, [])


def test_keys_that_were_deleted_keep_their_room() -> None:
    """Their slots lead to it still."""
    view, (words, value) = made()
    value.load(MapContents(0, ENTRIES))
    for slot in value._slots():
        for at in value._chain(slot):
            value._put(at + maps.WHAT, value._word(at + maps.WHAT) & ~maps.THERE)
    value._put(value._layout.header + maps.KEYS, 0)
    used = words._word(maps.USED)
    give_back(view, [words, value])
    assert words._word(maps.USED) == used
