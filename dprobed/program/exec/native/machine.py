"""The stack in memory, frames, exceptions and their trace, the heap, as of ``exec.machine``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dprobed.program.exec.ir import Shown
from dprobed.program.exec.native import scratch as at
from dprobed.program.exec.native.abi import Data
from dprobed.program.exec.native.code import I64, PAIR, PTR, CodeWriter, Value, word
from dprobed.program.exec.native.library import Begin, Library, makes
from dprobed.program.isa import STACK_WORDS
from dprobed.program.items import NONE, PREFIX, TRACE, ItemToken

_INDEX: Final = STACK_WORDS - 1
#: Bytes of an item's token and count.
_PREFIX: Final = PREFIX.size


def load_stack(c: CodeWriter, library: Library, scratch: Value, position: Value) -> Value:
    """A word of the stack in memory."""
    index = c.b.and_(position, word(_INDEX))
    found = c.load(_stack_word(c, library, scratch, index))
    # Beyond there is what others have left.
    return c.choose(c.test("<", index, c.load(scratch, library.scratch.top)), found, 0)


def store_stack(
    c: CodeWriter, library: Library, scratch: Value, position: Value, value: Value
) -> None:
    """Store a word of the stack in memory."""
    index = c.b.and_(position, word(_INDEX))
    with c.when(c.test(">=", index, c.load(scratch, library.scratch.top))):
        c.call(library("raise_top"), scratch, index)
    c.store(value, _stack_word(c, library, scratch, index))


def _stack_word(c: CodeWriter, library: Library, scratch: Value, index: Value) -> Value:
    return c.at(c.at(scratch, library.scratch.stack), c.b.shl(index, word(3)))


@makes("raise_top")
def _raise_top(library: Library, begin: Begin) -> CodeWriter:
    """(scratch, index): all of the stack up to this word is as it was stored, or 0.

    A program seldom uses more than a few words: zeros for all of them would be most of a hit.
    """
    c = begin(PTR, I64)
    scratch, index = c.arguments
    top = c.variable(c.load(scratch, library.scratch.top))
    with c.loop(lambda: c.test("<", c.get(top), index)):
        c.store(0, _stack_word(c, library, scratch, c.get(top)))
        c.add_to(top, word(1))
    c.store(c.b.add(index, word(1)), scratch, library.scratch.top)
    c.give(0)
    return c


def frame(c: CodeWriter, library: Library, scratch: Value, level: Value) -> Value:
    """The address of a frame."""
    offset = c.b.mul(level, word(at.FRAME_BYTES))
    return c.at(c.at(scratch, library.scratch.frames), offset)


def put_prefix(c: CodeWriter, target: Value, token: ItemToken, count: Value) -> None:
    """The token and the count of an item."""
    c.store(int(token), target, 0, 1)
    c.store(count, target, 1, 2)


def begin_machine(c: CodeWriter, library: Library, scratch: Value, called: Value) -> None:
    """As a hit finds it."""
    for field in ("top", "level", "sbp", "trace_size", "trace_count", "spent"):
        c.store(0, scratch, getattr(library.scratch, field))
    for n in range(3):
        c.store(0, scratch, library.scratch.last + 8 * n)
    first = c.at(scratch, library.scratch.frames)
    begin_frame(c, first, word(-1), called, word(NONE), word(0))


def begin_frame(
    c: CodeWriter, new: Value, block: Value, called: Value, returns: Value, sbp: Value
) -> None:
    """A frame without handler, of which traces show nothing."""
    c.store(block, new, at.FRAME_BLOCK)
    c.store(called, new, at.FRAME_CALLED)
    c.store(returns, new, at.FRAME_RETURNS)
    c.store(-1, new, at.FRAME_HANDLER)
    c.store(NONE, new, at.FRAME_HANDLER_AT)
    c.store(sbp, new, at.FRAME_SBP)
    for offset in at.FRAME_SHOWN.values():
        c.store(0, new, offset)
        c.store(0, new, offset + 8)


# -- exceptions -------------------------------------------------------------------------------


@makes("throw")
def _throw(library: Library, begin: Begin) -> CodeWriter:
    """(scratch, data, code, parm1, parm2, depth): the block to go on at, or -1, and the depth."""
    c = begin(PTR, PTR, I64, I64, I64, I64, result=PAIR)
    scratch, data, code, parm1, parm2, depth = c.arguments
    layout = library.scratch
    level = c.variable(word(-1))
    taken = c.test("!=", c.b.and_(code, word(library.function.ex_mask)), 0)
    with c.when(taken):
        c.set(level, c.load(scratch, layout.level))
        _to_a_handler(c, library, scratch, level)
    for n, value in enumerate((code, parm1, parm2)):
        c.store(value, scratch, layout.last + 8 * n)
    if library.function.header.autostacktrace:
        handler = c.variable(word(NONE))
        with c.when(c.test("s>=", c.get(level), 0)):
            held = frame(c, library, scratch, c.get(level))
            c.set(handler, c.load(held, at.FRAME_HANDLER_AT))
        c.call(library("append_trace"), scratch, data, c.get(handler))
    with c.when(c.test("s<", c.get(level), 0)):
        c.give(-1, depth)
    with c.loop(lambda: c.test("s>", c.load(scratch, layout.level), c.get(level))):
        now = c.load(scratch, layout.level)
        left = frame(c, library, scratch, now)
        c.store(c.load(left, at.FRAME_SBP), scratch, layout.sbp)
        c.store(c.b.sub(now, word(1)), scratch, layout.level)
    kept = frame(c, library, scratch, c.get(level))
    block = c.load(kept, at.FRAME_HANDLER)
    c.store(-1, kept, at.FRAME_HANDLER)
    c.store(NONE, kept, at.FRAME_HANDLER_AT)
    for n, value in enumerate((parm2, parm1, code)):
        store_stack(c, library, scratch, c.b.add(depth, word(n)), value)
    deeper = c.b.add(depth, word(3))
    fits = c.test("s<=", deeper, STACK_WORDS)
    c.give(block, c.choose(fits, deeper, c.b.and_(deeper, word(_INDEX))))
    return c


def _to_a_handler(c: CodeWriter, library: Library, scratch: Value, level: Value) -> None:
    """Take ``level`` down to the innermost frame with a handler; -1: there is none."""
    done = c.variable(word(0))
    with c.loop(lambda: c.b.and_(c.test("s>=", c.get(level), 0), c.test("==", c.get(done), 0))):
        held = frame(c, library, scratch, c.get(level))
        with c.b.if_else(c.test("s<", c.load(held, at.FRAME_HANDLER), 0)) as (without, with_):
            with without:
                c.add_to(level, word(-1))
            with with_:
                c.set(done, word(1))


@makes("log_trace")
def _log_trace(library: Library, begin: Begin) -> CodeWriter:
    """(scratch, data): `log st`."""
    c = begin(PTR, PTR)
    scratch, data = c.arguments
    level = c.variable(c.load(scratch, library.scratch.level))
    _to_a_handler(c, library, scratch, level)
    handler = c.variable(word(NONE))
    with c.when(c.test("s>=", c.get(level), 0)):
        held = frame(c, library, scratch, c.get(level))
        c.set(handler, c.load(held, at.FRAME_HANDLER_AT))
    c.give(c.call(library("append_trace"), scratch, data, c.get(handler)))
    return c


@makes("append_trace")
def _append_trace(library: Library, begin: Begin) -> CodeWriter:
    """(scratch, data, handler): a stack trace of the last exception."""
    c = begin(PTR, PTR, I64)
    scratch, data, handler = c.arguments
    layout = library.scratch
    size = c.load(scratch, layout.trace_size)
    room = c.b.sub(word(library.function.header.ex_logmax), size)
    c.store(0, scratch, layout.spent)
    with c.when(c.test("s<", room, at.TRACE_LEAST)):
        c.give(0)
    target = c.at(c.at(scratch, layout.trace), size)
    put_prefix(c, target, ItemToken.STACK_TRACE, word(1))
    code, parm1, parm2 = (c.load(scratch, layout.last + 8 * n) for n in range(3))
    for n, value in enumerate((code, handler, parm1, parm2)):
        c.store(value, target, _PREFIX + 8 * n)
    used, frames = c.variable(word(at.TRACE_LEAST)), c.variable(word(0))
    level = c.variable(c.load(scratch, layout.level))
    with c.loop(lambda: c.test("s>=", c.get(level), 0)):
        traced = frame(c, library, scratch, c.get(level))
        _append_frame(c, library, traced, target, used, room)
        c.add_to(level, word(-1))
        with c.b.if_else(c.test("<=", c.get(used), room)) as (fits, over):
            with fits:
                c.add_to(frames, word(1))
            with over:
                # It was not written.
                c.set(used, c.b.sub(c.get(used), _frame_size(c, library, traced, data)))
                c.set(level, word(-1))
    put_prefix(c, c.at(target, TRACE.size), ItemToken.FRAME, c.get(frames))
    starts = c.at(scratch, layout.trace_starts)
    count = c.load(scratch, layout.trace_count)
    c.store(size, starts, c.b.shl(count, word(3)))
    c.store(c.b.add(count, word(1)), scratch, layout.trace_count)
    c.store(c.b.add(size, c.get(used)), scratch, layout.trace_size)
    c.store(c.b.lshr(c.get(used), word(6)), scratch, layout.spent)
    c.give(0)
    return c


def _shown(
    c: CodeWriter, library: Library, traced: Value, data: Value, shown: Shown
) -> tuple[Value, Value]:
    """The first and the number of the words that traces of a frame show."""
    first = c.load(traced, at.FRAME_SHOWN[shown])
    count = c.load(traced, at.FRAME_SHOWN[shown] + 8)
    if shown is Shown.STACK:
        return first, c.least(count, STACK_WORDS)
    many = (
        word(library.function.header.vars)
        if shown is Shown.LOCALS
        else c.load(data, Data.GLOBAL_COUNT)
    )
    first = c.least(first, many)
    return first, c.least(count, c.b.sub(many, first))


def _frame_size(c: CodeWriter, library: Library, traced: Value, data: Value) -> Value:
    words = word(0)
    for shown in at.FRAME_SHOWN:
        words = c.b.add(words, _shown(c, library, traced, data, shown)[1])
    return c.b.add(c.b.shl(words, word(3)), word(at.TRACED_FRAME))


def _append_frame(
    c: CodeWriter, library: Library, traced: Value, target: Value, used: Value, room: Value
) -> None:
    """One frame behind what is ``used``, which grows beyond ``room`` where it does not fit."""
    scratch, data = c.arguments[:2]
    out = c.variable(c.get(used))
    c.add_to(used, _frame_size(c, library, traced, data))
    with c.when(c.test("<=", c.get(used), room)):
        c.store(c.load(traced, at.FRAME_CALLED), target, c.get(out))
        c.store(c.load(traced, at.FRAME_RETURNS), target, c.b.add(c.get(out), word(8)))
        c.add_to(out, word(16))
        for shown, token in _TOKENS.items():
            first, count = _shown(c, library, traced, data, shown)
            item = c.at(target, c.get(out))
            put_prefix(c, item, token, count)
            words = c.at(item, _PREFIX)
            with c.each(count) as n:
                at_ = c.b.add(first, n)
                if shown is Shown.STACK:
                    value = load_stack(c, library, scratch, at_)
                else:
                    value = c.load(variables(c, data, shown), c.b.shl(at_, word(3)))
                c.store(value, words, c.b.shl(n, word(3)))
            c.add_to(out, c.b.add(c.b.shl(count, word(3)), word(_PREFIX)))


def variables(c: CodeWriter, data: Value, shown: Shown) -> Value:
    """The address of the first of the variables."""
    if shown is Shown.LOCALS:
        return c.at(data, Data.LOCALS)
    return c.load_pointer(data, Data.GLOBALS)


_TOKENS: Final = {
    Shown.STACK: ItemToken.STACK,
    Shown.LOCALS: ItemToken.LOCALS,
    Shown.GLOBALS: ItemToken.GLOBALS,
}


# -- the heap ---------------------------------------------------------------------------------


def begin_heap(c: CodeWriter, library: Library, scratch: Value) -> None:
    """Nothing is allocated."""
    layout = library.scratch
    c.store(layout.heap_limit, scratch, layout.heap_left)
    for offset in (layout.heap_top, layout.heap_count, layout.heap_handle):
        c.store(0, scratch, offset)


def _heap_cost(c: CodeWriter, size: Value) -> Value:
    return c.most(c.b.and_(c.b.add(size, word(7)), word(-8)), 8)


def _heap_block(c: CodeWriter, library: Library, scratch: Value, number: Value) -> Value:
    return c.at(c.at(scratch, library.scratch.heap_blocks), c.b.shl(number, word(4)))


@contextmanager
def _found(c: CodeWriter, library: Library, scratch: Value, handle: Value) -> Iterator[Value]:
    """Where a handle is that of a block; its entry."""
    layout = library.scratch
    low, high = c.variable(word(0)), c.variable(c.load(scratch, layout.heap_count))
    with c.loop(lambda: c.test("<", c.get(low), c.get(high))):
        middle = c.b.lshr(c.b.add(c.get(low), c.get(high)), word(1))
        below = c.test("<", c.load(_heap_block(c, library, scratch, middle), 0, 4), handle)
        c.set(low, c.choose(below, c.b.add(middle, word(1)), c.get(low)))
        c.set(high, c.choose(below, c.get(high), middle))
    with c.when(c.test("<", c.get(low), c.load(scratch, layout.heap_count))):
        entry = _heap_block(c, library, scratch, c.get(low))
        same = c.test("==", c.load(entry, 0, 4), handle)
        with c.when(c.b.and_(same, c.test("!=", c.load(entry, 12, 4), 0))):
            yield entry


@makes("heap_find")
def _heap_find(library: Library, begin: Begin) -> CodeWriter:
    """(scratch, handle): the block's address and its size; 0 and 0: there is none."""
    c = begin(PTR, I64, result=PAIR)
    scratch, handle = c.arguments
    with _found(c, library, scratch, handle) as entry:
        place = c.at(c.at(scratch, library.scratch.heap), c.load(entry, 4, 4))
        c.give(c.address(place), c.load(entry, 8, 4))
    c.give(0, 0)
    return c


@makes("heap_free")
def _heap_free(library: Library, begin: Begin) -> CodeWriter:
    """(scratch, handle): whether there was such a block."""
    c = begin(PTR, I64)
    scratch, handle = c.arguments
    with _found(c, library, scratch, handle) as entry:
        c.store(0, entry, 12, 4)
        left = c.load(scratch, library.scratch.heap_left)
        cost = _heap_cost(c, c.load(entry, 8, 4))
        c.store(c.b.add(left, cost), scratch, library.scratch.heap_left)
        c.give(1)
    c.give(0)
    return c


@makes("heap_allocate")
def _heap_allocate(library: Library, begin: Begin) -> CodeWriter:
    """(scratch, size): the handle of a new block, 0 if there is no room."""
    c = begin(PTR, I64)
    scratch, size = c.arguments
    layout = library.scratch
    left = c.load(scratch, layout.heap_left)
    cost = _heap_cost(c, size)
    with c.when(c.b.or_(c.test(">", size, left), c.test(">", cost, left))):
        c.give(0)
    full = c.b.add(c.load(scratch, layout.heap_top), cost)
    with c.when(c.test(">", full, 2 * (layout.heap_limit + 7 & ~7))):
        _compact(c, library, scratch)
    top, count = c.load(scratch, layout.heap_top), c.load(scratch, layout.heap_count)
    handle = c.b.add(c.load(scratch, layout.heap_handle), word(1))
    entry = _heap_block(c, library, scratch, count)
    for n, value in enumerate((handle, top, size, word(1))):
        c.store(value, entry, 4 * n, 4)
    place = c.at(c.at(scratch, layout.heap), top)
    with c.each(c.b.lshr(cost, word(3))) as n:
        c.store(0, place, c.b.shl(n, word(3)))
    c.store(c.b.sub(left, cost), scratch, layout.heap_left)
    c.store(c.b.add(top, cost), scratch, layout.heap_top)
    c.store(c.b.add(count, word(1)), scratch, layout.heap_count)
    c.store(handle, scratch, layout.heap_handle)
    c.give(handle)
    return c


def _compact(c: CodeWriter, library: Library, scratch: Value) -> None:
    """Move what is allocated together, in the order of its handles."""
    layout = library.scratch
    kept, top = c.variable(word(0)), c.variable(word(0))
    heap = c.at(scratch, layout.heap)
    with c.each(c.load(scratch, layout.heap_count)) as n:
        entry = _heap_block(c, library, scratch, n)
        with c.when(c.test("!=", c.load(entry, 12, 4), 0)):
            cost = _heap_cost(c, c.load(entry, 8, 4))
            source = c.at(heap, c.load(entry, 4, 4))
            c.copy(c.at(heap, c.get(top)), source, c.b.lshr(cost, word(3)), 8)
            to = _heap_block(c, library, scratch, c.get(kept))
            c.copy(to, entry, word(at.HEAP_BLOCK // 8), 8)
            c.store(c.get(top), to, 4, 4)
            c.add_to(top, cost)
            c.add_to(kept, word(1))
    c.store(c.get(kept), scratch, layout.heap_count)
    c.store(c.get(top), scratch, layout.heap_top)
