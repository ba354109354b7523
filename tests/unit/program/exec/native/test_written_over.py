"""Maps in memory that the target can write to as well: what it does there costs it its counts."""

from __future__ import annotations

import random

import pytest

from dprobed.program.exec.native import maps
from dprobed.program.exec.native.maps import begin, bytes_of, shared_maps
from dprobed.program.maps import MapContents, MapDefinition

DEFINITIONS = [
    MapDefinition("words", "count", (), keys=1, size=16, signed=False),
    MapDefinition("spread", "hist", (0,), keys=2, size=16, signed=False),
    MapDefinition("value", "value", (), keys=1, size=16, signed=False),
]


def made() -> tuple[memoryview, list[maps.SharedMap]]:
    view = memoryview(bytearray(bytes_of(DEFINITIONS)))
    begin(view, DEFINITIONS)
    found = shared_maps(view, DEFINITIONS)
    found[0].load(MapContents(0, [([number], [number + 1]) for number in range(10)]))
    return view, found


def test_entries_in_a_circle_are_read_as_often_as_there_may_be_keys() -> None:
    view, (words, *_) = made()
    assert sorted(words.contents().entries) == [([n], [n + 1]) for n in range(10)]
    for slot in words._slots():
        at = words._word(slot + 8)
        words._put(at + maps.NEXT, at)
    assert len(words.contents().entries) == 16
    words.zero()
    assert len(view)


def test_a_slot_that_is_always_being_changed_is_read_all_the_same() -> None:
    _, (words, *_) = made()
    for slot in words._slots():
        words._put(slot, 1)
    assert sorted(words.contents().entries) == [([n], [n + 1]) for n in range(10)]


@pytest.mark.parametrize("used", [0, 8, 1 << 40, (1 << 64) - 1])
def test_what_is_said_to_be_used_is_not_believed(used: int) -> None:
    """And so it is counted what could not be kept."""
    view, (words, *_) = made()
    words._put(maps.USED, used)
    words._put(maps.CAPACITY, (1 << 64) - 1)
    words.load(MapContents(3, [([number], [number]) for number in range(5)]))
    assert words.contents() == MapContents(8, [])
    assert len(view)


def test_more_keys_than_there_may_be_are_lost_and_counted() -> None:
    _, (words, *_) = made()
    words.load(MapContents(3, [([number], [number]) for number in range(20)]))
    assert (words.lost, len(words)) == (3 + 4, 16)


def test_numbers_that_cannot_be_are_not_told() -> None:
    _, (words, *_) = made()
    words._put(words._layout.header + maps.KEYS, (1 << 64) - 1)
    words._put(words._layout.header + maps.LOST, (1 << 64) - 1)
    assert (len(words), words.contents().lost) == (0, 1 << 48)
    words._put(words._layout.header + maps.KEYS, (1 << 63) - 1)
    assert len(words) == 16


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_written_there(seed: int) -> None:
    drawn = random.Random(seed)
    view, found = made()
    for _ in range(drawn.choice((1, 8, 200))):
        at = drawn.randrange(0, len(view) - 8)
        view[at : at + 8] = drawn.choice(
            (drawn.randbytes(8), drawn.randrange(len(view)).to_bytes(8, "little"), b"\xff" * 8)
        )
    for one in found:
        contents = one.contents()
        assert len(contents.entries) <= 16
        assert all(len(key) == one.definition.keys for key, _ in contents.entries)
        one.zero()
        one.load(contents)
        assert len(one) <= 16
        one.clear()
