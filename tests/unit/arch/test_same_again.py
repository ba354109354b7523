"""Whether a file still has what was read from it: the machine code, and what it answers."""

from __future__ import annotations

import os

import pytest
from iced_x86 import Decoder

from dprobed.arch.x86_64.same_again import CODE, ROOM, SameAgain
from tests.unit.arch.listing import code_of, decoded


def test_the_listing_says_what_the_code_does() -> None:
    code = code_of(CODE)
    assert decoded(code) == list(CODE)
    ends = [each.ip for each in Decoder(64, code)]
    assert all(each.near_branch_target in ends for each in Decoder(64, code) if each.op0_kind == 1)


@pytest.mark.parametrize(
    "known", [b"", b"\n", b"a name\n", b"sixteen bytes...", b"seventeen bytes.."], ids=len
)
def test_any_other_byte_is_seen_and_the_same_ones_again(known: bytes) -> None:
    file = os.memfd_create("same")
    again = SameAgain()

    def has(data: bytes) -> bool:
        os.ftruncate(file, 0)
        os.pwrite(file, data, 0)
        return bool(again.is_same())

    again.know(file, known)
    assert has(known)
    for at in range(len(known)):
        changed = bytearray(known)
        changed[at] ^= 1
        assert not has(bytes(changed))
    assert has(known)
    if known:
        assert not has(known[:-1])
    if len(known) < ROOM:
        assert not has(known + b"\0")
    again.know(file, known)
    assert has(known)
    os.close(file)
    assert not again.is_same()


def test_what_is_behind_its_room_does_not_count() -> None:
    file = os.memfd_create("same")
    again = SameAgain()
    os.pwrite(file, bytes(ROOM) + b"more", 0)
    again.know(file, bytes(ROOM))
    assert again.is_same()
    os.close(file)
