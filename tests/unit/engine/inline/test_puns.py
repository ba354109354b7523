"""Where punned jumps lead to."""

from __future__ import annotations

import itertools

from dprobed.arch.x86_64.jump import FAR_JUMP
from dprobed.arch.x86_64.paging import PAGE
from dprobed.engine.inline.puns import FreePages, Stubs
from dprobed.proc.maps import Line, lines

AT = 0x5555_5555_5000

MAPS = b"""\
555555555000-555555556000 r-xp 00000000 fe:01 7 /bin/x
555555560000-555555581000 rw-p 00000000 00:00 0 [heap]
7ffff7c00000-7ffff7e00000 r-xp 00000000 fe:01 8 /lib/libc.so.6
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]
"""


def mapped() -> list[Line]:
    return lines(MAPS)


def code(distance: int) -> bytes:
    """One byte, and behind it the displacement of a jump so far."""
    return b"\x90" + (distance - 5).to_bytes(4, "little", signed=True)


def test_a_page_is_free_away_from_all_and_from_what_grows() -> None:
    free = FreePages(mapped())
    assert not free.has(AT) and not free.has(AT + PAGE) and not free.has(AT - PAGE)
    assert free.has(AT - 2 * PAGE)
    assert not free.has(0x5555_5558_1000 + (1 << 20))  # the heap may come
    assert not free.has(0x7FFF_FFFD_D000 - (1 << 20))  # the stack may come
    assert not free.has(PAGE)
    assert free.has(0x7000_0000_0000)


def test_the_only_place_that_one_byte_leaves() -> None:
    stubs, free = Stubs(), FreePages(mapped())
    pun = stubs.find(code(-0x40_0000), AT, 1, free)
    assert pun is not None
    assert pun.target == AT - 0x40_0000
    assert (pun.text, pun.tail) == (b"\xe9", 4)
    assert stubs.holds(pun.target)
    assert stubs.find(code(-0x40_0000), AT, 1, free) is None  # it is taken
    assert stubs.find(code(0), AT, 1, free) is None  # the module itself is there


def test_a_jump_on_over_the_end_of_a_page_is_in_nobodys_way() -> None:
    """The only place that the bytes leave is taken in its second page, not in its first."""
    stubs, free = Stubs(), FreePages(mapped())
    first, second = AT - 0x40_0000 + 4, AT - 0x40_0000 - 4  # the latter reaches into the former
    assert stubs.find(code(first - AT), AT, 1, free) is not None
    assert stubs.find(code(second - AT), AT, 1, free) is None
    assert stubs.find(code(second - AT - FAR_JUMP), AT, 1, free) is not None


def test_places_in_one_page_do_not_overlap() -> None:
    stubs, free = Stubs(), FreePages(mapped())
    tail = b"\x00\xc0" + bytes(6)  # far below
    targets = []
    for number in range(100):
        pun = stubs.find(b"\x90\x90\x90" + tail, AT + 16 * number, 3, free)
        assert pun is not None
        targets.append(pun.target)
    targets.sort()
    assert all(b - a >= FAR_JUMP for a, b in itertools.pairwise(targets))
    assert len(stubs.pages) < 4
