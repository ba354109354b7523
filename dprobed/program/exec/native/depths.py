"""How much of the stack in memory a function can touch, where that can be known.

A hit has its memory on the stack of its thread, where 8 KB for 1024 words are much. Most programs
whose stack is in memory have it there for the sake of a handler, and use a few words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from dprobed.program.exec import ir
from dprobed.program.isa import STACK_WORDS

#: Operations after which the depth, or what they touch, is only known when they run.
_UNKNOWN: Final = (
    ir.DropWords,
    ir.SetDepth,
    ir.LogStack,
    ir.ReadFrameBase,
    ir.SetFrameBase,
    ir.ShowInTraces,
)
#: Deeper than that all of it may as well be there.
_MOST: Final = STACK_WORDS // 4
#: An exception that a handler gets.
_TRIPLE: Final = 3


class _UnknownError(Exception):
    """It is not known."""


def touched_words(function: ir.Function) -> int:
    """The words from the bottom of the stack in memory that the function can touch."""
    try:
        return _Depths(function).run()
    except _UnknownError:
        return STACK_WORDS


class _Depths:
    """The least and the greatest depth at each block, and what was touched at most."""

    def __init__(self, function: ir.Function) -> None:
        self._function = function
        ops = [op for block in function.blocks for op in block.ops]
        self._handlers = {op.block for op in ops if isinstance(op, ir.SetHandler)}
        self._found: dict[int, tuple[int, int]] = {0: (0, 0)}
        self._waiting = [0]
        self._most = 0

    def run(self) -> int:
        while self._waiting:
            number = self._waiting.pop()
            block = self._function.blocks[number]
            low, high = self._found[number]
            for op in block.ops:
                low, high = self._after(op, low, high)
            self._raise(block.end, low, high)
            match block.end:
                case ir.Jump(to):
                    self._reach(to, low, high)
                case ir.Branch():
                    self._reach(block.end.block, low, high)
                    self._reach(block.end.otherwise, low, high)
                case ir.Call() | ir.Return():
                    raise _UnknownError
        return self._most

    def _after(self, op: ir.Op, low: int, high: int) -> tuple[int, int]:
        """The depths behind an operation."""
        if isinstance(op, _UNKNOWN):
            raise _UnknownError
        self._raise(op, low, high)
        match op:
            case ir.StackLoad() | ir.StackStore():
                if op.base is not ir.Base.DEPTH or op.index is not None:
                    raise _UnknownError
                self._touch(low + op.plus, high + op.plus)
            case ir.MoveDepth(words):
                return low + words, high + words
            case ir.PushCopies() | ir.HeapPush():
                count = op.place.count if isinstance(op, ir.HeapPush) else op.count
                if not isinstance(count, int):
                    raise _UnknownError
                self._touch(low, high + count - 1)
                return low + count, high + count
            case ir.LogWords(ir.TopWords(count)) | ir.HeapStore(ir.TopWords(count)):
                self._touch(low - count, high - 1)
        return low, high

    def _raise(self, what: object, low: int, high: int) -> None:
        """Go on at the handlers, if it can fail."""
        for fault in _faults(what):
            for position, _ in fault.stores:
                self._touch(low + position, high + position)
            first, last = low + fault.moved, high + fault.moved
            self._touch(first, last + _TRIPLE - 1)
            for handler in self._handlers:
                self._reach(handler, first + _TRIPLE, last + _TRIPLE)

    def _touch(self, low: int, high: int) -> None:
        if low < 0 or high >= _MOST:
            raise _UnknownError
        self._most = max(self._most, high + 1)

    def _reach(self, block: int, low: int, high: int) -> None:
        before = self._found.get(block)
        now = (low, high)
        if before is not None:
            now = min(low, before[0]), max(high, before[1])
        if low < -_MOST or high > _MOST:
            raise _UnknownError
        if now != before:
            self._found[block] = now
            self._waiting.append(block)


def _faults(what: object) -> Iterator[ir.Raise]:
    """All ways in which it can fail."""
    if isinstance(what, ir.Raise):
        yield what
    elif isinstance(what, msgspec.Struct):
        for field in what.__struct_fields__:
            yield from _faults(getattr(what, field))
