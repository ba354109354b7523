"""A stack as bytes: the same everywhere, as much as there is room for, never trusted."""

from __future__ import annotations

import random

import pytest

from dprobed.program.user_stack import (
    StackEnd,
    StackFrame,
    StackModule,
    UserStack,
    frame_word,
    module_bytes,
    stack_bytes,
    unpacked,
)

PROGRAM, LIBC = module_bytes("/bin/x", "abcd"), module_bytes("/lib/libc.so.6", "")
STACK = UserStack(
    StackEnd.WHOLE,
    [LIBC, PROGRAM],
    [
        frame_word(1, 0x1000, exact=True),
        frame_word(1, 0x2000, exact=False, signal=True),
        frame_word(2, 0x3000, exact=True),
        frame_word(0, 0x7F00_0000_0000, exact=False),
    ],
)


def test_comes_back() -> None:
    data = stack_bytes(STACK, 1000)
    assert data is not None
    libc, program = StackModule("/lib/libc.so.6", ""), StackModule("/bin/x", "abcd")
    assert unpacked(data) == (
        [
            StackFrame(libc, 0x1000, True, False),
            StackFrame(libc, 0x2000, False, True),
            StackFrame(program, 0x3000, True, False),
            StackFrame(None, 0x7F00_0000_0000, False, False),
        ],
        StackEnd.WHOLE,
    )


def test_as_many_frames_as_fit() -> None:
    whole = stack_bytes(STACK, 1000)
    assert whole is not None and stack_bytes(STACK, len(whole)) == whole
    counts = []
    for room in range(len(whole)):
        data = stack_bytes(STACK, room)
        if data is None:
            counts.append(0)
            continue
        assert len(data) <= room
        frames, end = unpacked(data)
        assert end == StackEnd.ROOM
        assert frames == unpacked(whole)[0][: len(frames)]
        counts.append(len(frames))
    assert counts == sorted(counts) and set(counts) == {0, 1, 2, 3}


def test_rubbish() -> None:
    whole = stack_bytes(STACK, 1000)
    assert whole is not None
    for size in range(len(whole)):
        with pytest.raises(ValueError):
            unpacked(whole[:size])
    with pytest.raises(ValueError):
        unpacked(whole + b"\0")
    drawn = random.Random(3)
    for _ in range(2000):
        damaged = bytearray(whole)
        damaged[drawn.randrange(len(whole))] = drawn.randrange(256)
        try:
            unpacked(bytes(damaged))
        except ValueError:
            continue
