"""Where the kernel is, nobody is told by its stacks; who may see its symbols reads names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dprobe.lib.stacks import KernelCode

from dprobed.kernel import stacks
from dprobed.kernel.stacks import told_entry, told_log
from dprobed.program.items import ItemToken, string_item, value_item, words_item
from dprobed.program.maps import STACK_MARK
from dprobed.program.user_stack import (
    KERNEL_MODULE,
    StackEnd,
    UserStack,
    frame_word,
    module_bytes,
    stack_bytes,
    unpacked,
)

BEGIN = 0xFFFFFFFF9A000000
FRAMES = [BEGIN + 0x1230, BEGIN + 0x2345, BEGIN + 0x22000010]


def _stack(frames: list[int]) -> bytes:
    words = [frame_word(1, each, exact=not n) for n, each in enumerate(frames)]
    made = stack_bytes(UserStack(StackEnd.WHOLE, [module_bytes(KERNEL_MODULE, "")], words), 4096)
    assert made is not None
    return made


@pytest.fixture(params=[BEGIN, 0])
def begin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where the kernel begins; 0: this daemon is not told."""
    stacks._begin.cache_clear()
    monkeypatch.setattr(stacks, "begin", lambda: request.param)
    yield request.param
    stacks._begin.cache_clear()


def test_frames_in_logs_and_keys(begin: int) -> None:
    stack = _stack(FRAMES)
    wanted = [0x1230, 0x2345, 0x22000010] if begin else [0, 0, 0]
    item = bytes((ItemToken.USER_STACK, len(stack), 0)) + stack
    around = (
        string_item(b"x" + stack),
        value_item(6, BEGIN, "own"),
        words_item(ItemToken.WORDS, [9]),
    )
    raw = BEGIN.to_bytes(8, "little")
    log = around[0] + raw + item + around[1] + around[2] + item
    told = told_log(log, (len(around[0]), 1))
    assert len(told) == len(log)
    # What the program itself has logged stays as it is.
    at = len(around[0]) + 8
    assert told[:at] == log[:at]
    behind = at + len(item)
    assert told[behind : -len(item)] == around[1] + around[2]
    for found in (told[at + 3 : behind], told[-len(stack) :]):
        frames, _ = unpacked(found)
        assert [frame.address for frame in frames] == wanted
        assert [frame.exact for frame in frames] == [True, False, False]
    key, cell = told_entry(([7, STACK_MARK + stack, b"name"], [3]))
    assert (key[0], key[2], cell) == (7, b"name", [3])
    assert isinstance(key[1], bytes)
    assert [frame.address for frame in unpacked(key[1][1:])[0]] == wanted


def test_names(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    lines = [(BEGIN, "T", "_text"), (BEGIN + 0x1200, "t", "first"), (BEGIN + 0x1240, "T", "second"),
             (BEGIN + 0x22000000, "t", "far\t[mod]"), (BEGIN + 0x1210, "d", "data")]  # fmt: skip
    path.write_text("".join(f"{at:x} {letter} {name}\n" for at, letter, name in lines))
    code = KernelCode(path)
    assert code.at(0x1230, exact=True) == {"function": "first", "plus": 0x30}
    # Behind a call that is the last of a function begins another one.
    assert code.at(0x1240, exact=False) == {"function": "first", "plus": 0x40}
    assert code.at(0x1240, exact=True) == {"function": "second", "plus": 0}
    assert code.at(0x22000010, exact=False) == {"function": "far", "plus": 0x10}
    path.write_text("".join(f"{0:016x} {letter} {name}\n" for _, letter, name in lines))
    assert KernelCode(path).at(0x1230, exact=True) == {}
