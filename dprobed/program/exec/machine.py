"""The runtime of generated code: what is not worth writing out inline.

``Machine`` is the state of one hit of a program whose stack is kept in memory: the circular stack,
the call stack and the exception trace. The functions are the instructions whose work is a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

from dprobed.arch.x86_64.fxsave import DEFAULT_MXCSR_MASK, MXCSR_MASK
from dprobed.program.exec.interface import Context
from dprobed.program.isa import STACK_WORDS, WORD_MASK
from dprobed.program.items import NONE, ItemToken, frame_body, trace_item, words_fit, words_item

_INDEX: Final = STACK_WORDS - 1

Range = tuple[int, int]
_NOTHING: Final[Range] = (0, 0)


class Frame:
    """One level of the call stack.

    ``block``: where to go on after `ret`; ``called``, ``returns``: code offsets; ``handler``: the
    exception handler's block, -1 for none, and ``handler_at`` its code offset; ``sbp``: the
    caller's SBP. ``pv``, ``lv``, ``gv``: first index and number of the words that traces show.
    """

    __slots__ = ("block", "called", "gv", "handler", "handler_at", "lv", "pv", "returns", "sbp")

    def __init__(self, block: int, called: int, returns: int, sbp: int) -> None:
        self.block = block
        self.called = called
        self.returns = returns
        self.sbp = sbp
        self.handler = -1
        self.handler_at = NONE
        self.pv = self.lv = self.gv = _NOTHING


class Machine:
    """The state of one hit. ``d``, the number of words on the stack, lives in the generated code.

    Stack word n is ``stack[n % 1024]``. ``exception`` is the one that ended the program, ``last``
    the last one raised; ``spent`` is what the last trace costs of the budget.
    """

    __slots__ = (
        "autostacktrace",
        "ex_logmax",
        "ex_mask",
        "exception",
        "frames",
        "globals",
        "last",
        "locals",
        "sbp",
        "spent",
        "stack",
        "trace",
        "trace_starts",
    )

    def __init__(
        self,
        entry: int,
        ex_mask: int,
        autostacktrace: bool,
        ex_logmax: int,
        locals_: list[int],
        globals_: list[int],
    ) -> None:
        self.stack = [0] * STACK_WORDS
        self.frames = [Frame(-1, entry, NONE, 0)]
        self.sbp = 0
        self.ex_mask = ex_mask
        self.autostacktrace = autostacktrace
        self.ex_logmax = ex_logmax
        self.locals = locals_
        self.globals = globals_
        self.last = (0, 0, 0)
        self.exception: tuple[int, int, int] | None = None
        self.trace = bytearray()
        self.trace_starts: list[int] = []
        self.spent = 0

    def throw(self, code: int, parm1: int, parm2: int, d: int) -> tuple[int, int]:
        """Raise an exception that is not ignored: (block to go on at, or -1 for the end; new d)."""
        frames = self.frames
        level = len(frames) - 1
        if code & self.ex_mask:
            while level >= 0 and frames[level].handler < 0:
                level -= 1
        else:
            level = -1
        self.last = (code, parm1, parm2)
        if self.autostacktrace:
            self._append_trace(frames[level].handler_at if level >= 0 else NONE)
        if level < 0:
            self.exception = self.last
            return -1, d
        while len(frames) - 1 > level:
            self.sbp = frames.pop().sbp
        frame = frames[level]
        block = frame.handler
        frame.handler = -1
        frame.handler_at = NONE
        stack = self.stack
        stack[d & _INDEX] = parm2
        stack[(d + 1) & _INDEX] = parm1
        stack[(d + 2) & _INDEX] = code
        d += 3
        return block, d if d <= STACK_WORDS else d & _INDEX

    def log_stack_trace(self) -> None:
        """`log st`: a trace of the last exception, or of none."""
        frames = self.frames
        handlers = (frame.handler_at for frame in reversed(frames) if frame.handler >= 0)
        self._append_trace(next(handlers, NONE))

    def cut_trace(self, length: int) -> None:
        """`pop stp`: keep the traces that lie within ``length`` bytes."""
        cut(self.trace, self.trace_starts, length)

    def _append_trace(self, handler: int) -> None:
        code, parm1, parm2 = self.last
        room = self.ex_logmax - len(self.trace)
        item = trace_item(code, handler, parm1, parm2, self._frame_bodies(), room)
        if item:
            self.trace_starts.append(len(self.trace))
            self.trace += item
        self.spent = len(item) >> 6

    def _frame_bodies(self) -> Iterator[bytes]:
        for frame in reversed(self.frames):
            yield frame_body(
                frame.called,
                frame.returns,
                self._stack_words(frame.pv),
                _slice(self.locals, frame.lv),
                _slice(self.globals, frame.gv),
            )

    def _stack_words(self, shown: Range) -> list[int]:
        first, count = shown
        stack = self.stack
        return [stack[(first + n) & _INDEX] for n in range(min(count, STACK_WORDS))]


def _slice(words: Sequence[int], shown: Range) -> Sequence[int]:
    first, count = shown
    return words[first : first + count]


def take(stack: list[int], d: int, count: int) -> list[int]:
    """The ``count`` words from the top of a stack of ``d`` on, TOS first."""
    return [stack[n & _INDEX] for n in range(d - 1, d - 1 - count, -1)]


def stack_item(stack: list[int], d: int, count: int, room: int) -> bytes | None:
    """What `log` logs: ``count`` words above the ``d`` that are left; ``None``: no room for it."""
    if not words_fit(count, room):
        return None
    return words_item(ItemToken.WORDS, take(stack, d + count, count))


def put(stack: list[int], d: int, words: Sequence[int]) -> None:
    """Push ``words`` on a stack of ``d``; the first becomes TOS."""
    for n, word in enumerate(reversed(words), d):
        stack[n & _INDEX] = word


def fill(stack: list[int], d: int, count: int, word: int) -> None:
    """Push ``count`` copies of ``word`` on a stack of ``d``."""
    for n in range(d, d + count):
        stack[n & _INDEX] = word


def cut(buffer: bytearray, starts: list[int], length: int) -> None:
    """Take the items off the end that do not lie within ``length`` bytes; ``starts`` are theirs."""
    end = len(buffer)
    while starts and end > length:
        end = starts.pop()
    del buffer[end:]


def cut_log(log: bytearray, raw: list[int], starts: list[int], length: int) -> None:
    """`pop lp`: like ``cut``, and forget the words without prefix that went."""
    cut(log, starts, length)
    while raw and raw[-2] >= len(log):
        del raw[-2:]


def signed_div(dividend: int, divisor: int) -> tuple[int, int]:
    """(quotient, remainder) of two words as signed numbers, rounded to 0 as the processor does."""
    a = dividend - (dividend >> 63 << 64)
    b = divisor - (divisor >> 63 << 64)
    quotient = abs(a) // abs(b)
    remainder = abs(a) - quotient * abs(b)
    if (a < 0) != (b < 0):
        quotient = -quotient
    return quotient & WORD_MASK, (-remainder if a < 0 else remainder) & WORD_MASK


def first_bad_index(index: int, count: int, size: int) -> int:
    """The first of ``count`` indices from ``index`` on that is not below ``size``, or -1."""
    if not count or index + count <= size:
        return -1
    return max(index, size)


class Heap:
    """The heap of one hit: blocks of zeros, together at most ``limit`` bytes.

    A handle is never used again in the same hit. A block takes at least 8 bytes of the limit, so
    that there cannot be any number of empty ones.
    """

    __slots__ = ("_handle", "_left", "blocks")

    def __init__(self, limit: int) -> None:
        self.blocks: dict[int, bytearray] = {}
        self._left = limit
        self._handle = 0

    def malloc(self, size: int) -> int:
        """The handle of a new block, 0 if there is no room."""
        cost = _heap_cost(size)
        if cost > self._left:
            return 0
        self._left -= cost
        self._handle += 1
        self.blocks[self._handle] = bytearray(size)
        return self._handle

    def free(self, handle: int) -> bool:
        """Whether there was such a block."""
        block = self.blocks.pop(handle, None)
        if block is None:
            return False
        self._left += _heap_cost(len(block))
        return True


def _heap_cost(size: int) -> int:
    return max(size + 7 & ~7, 8)


_ELEMENTS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


def load_elements(block: bytearray, offset: int, width: int, count: int) -> Sequence[int]:
    """``count`` numbers of ``width`` bytes from ``offset`` on; they lie within the block."""
    return Struct(f"<{count}{_ELEMENTS[width]}").unpack_from(block, offset)


def store_elements(block: bytearray, offset: int, width: int, words: Sequence[int]) -> None:
    """Store the low ``width`` bytes of each word from ``offset`` on; they lie within the block."""
    mask = (1 << 8 * width) - 1
    packer = Struct(f"<{len(words)}{_ELEMENTS[width]}")
    packer.pack_into(block, offset, *[word & mask for word in words])


def fp_get(context: Context, offset: int, size: int) -> int:
    """A number out of the FXSAVE image."""
    return int.from_bytes(context.fpregs()[offset : offset + size], "little")


def fp_set(context: Context, offset: int, size: int, value: int) -> None:
    """Put the low ``size`` bytes of a word into the FXSAVE image."""
    value &= (1 << 8 * size) - 1
    context.fpregs()[offset : offset + size] = value.to_bytes(size, "little")
    context.fp_dirty = True


def mxcsr_set(context: Context, offset: int, size: int, value: int) -> None:
    """As ``fp_set``, without the bits that this processor reserves: setting one is an error."""
    mask = fp_get(context, MXCSR_MASK, 4) or DEFAULT_MXCSR_MASK
    fp_set(context, offset, size, value & mask & 0xFFFF)


def comm_words(context: Context) -> tuple[int, int]:
    """The thread's name as two words: its first eight bytes, and the rest."""
    name = context.comm[:16].ljust(16, b"\0")
    return int.from_bytes(name[:8], "little"), int.from_bytes(name[8:], "little")
