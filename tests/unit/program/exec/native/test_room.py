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
