"""The gate: its listing, and the words by which a thread finds its way back."""

from __future__ import annotations

from dprobed.arch.x86_64.gate_code import (
    CLONE,
    CLONE_CODE,
    CODE,
    GATE,
    SIZE,
    WHOLE,
    WORDS,
    back,
    way_back,
)
from dprobed.arch.x86_64.registers import ORIG_RAX, RAX, REGISTER_NAMES, RIP
from tests.unit.arch.listing import decoded


def test_the_listing_says_what_the_code_does() -> None:
    assert decoded(GATE) == list(CODE)
    entry = decoded(WHOLE[CLONE:], CLONE)
    assert entry[: len(CLONE_CODE)] == list(CLONE_CODE)
    assert len(GATE) <= WORDS
    assert len(WHOLE) == SIZE


def words_for(rax: int, orig_rax: int) -> tuple[int, int]:
    """rax and rip on the way back."""
    words = [1000 + number for number in range(len(REGISTER_NAMES))]
    words[RAX], words[ORIG_RAX], words[RIP] = rax, orig_rax, 0x5000
    data = memoryview(way_back(words, 7)).cast("Q")
    assert len(data) * 8 == CLONE - WORDS
    assert data[0] == 7
    return data[1], data[-1]


def test_a_call_of_its_own_that_was_interrupted_is_made_again() -> None:
    none = (1 << 64) - 1
    assert words_for(35, none) == (35, 0x5000)
    assert words_for(0, 35) == (0, 0x5000)
    assert words_for((1 << 64) - 512, 35) == (35, 0x4FFE)
    assert words_for((1 << 64) - 516, 35) == (219, 0x4FFE)
    assert words_for((1 << 64) - 512, none) == ((1 << 64) - 512, 0x5000)


def test_who_is_in_it_is_sent_back_as_it_would_go_by_itself() -> None:
    before = [1000 + number for number in range(len(REGISTER_NAMES))]
    now = [0] * len(before)
    assert back(now, way_back(before, 7)) == 7
    altered = {"rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "rip"}
    for name, was, is_now in zip(REGISTER_NAMES, before, now, strict=True):
        if name != "orig_rax":
            assert is_now == (was if name in altered else 0), name
    assert now[ORIG_RAX] == (1 << 64) - 1
