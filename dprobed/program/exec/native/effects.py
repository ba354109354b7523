"""Operations on the log, exceptions, the heap and control as LLVM's representation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dprobed.program.exec import ir
from dprobed.program.exec.ir import Shown, Space, Word
from dprobed.program.exec.native import scratch as at
from dprobed.program.exec.native.abi import Data, Hit, Needs
from dprobed.program.exec.native.code import I64, PAIR, PTR, CodeWriter, Value, word
from dprobed.program.exec.native.emitter import Emitter, emits
from dprobed.program.exec.native.library import Begin, Library, makes
from dprobed.program.exec.native.machine import put_prefix, variables
from dprobed.program.items import MAX_COUNT, MEMORY, PREFIX, WORD, ItemToken

_PREFIX: Final = PREFIX.size
_FAULT: Final = PREFIX.size + WORD.size
#: In place of a length: the item does not fit.
_NO_ITEM: Final = -1


# -- the log ----------------------------------------------------------------------------------


def _words(to: Emitter, words: ir.Words) -> list[Value] | None:
    """Words that are few; None: those on top of the stack in memory."""
    return None if isinstance(words, ir.TopWords) else [to.word(each) for each in words]


def _put_top(to: Emitter, target: Value, count: Value, above: int | Value, width: int = 8) -> None:
    """Store the words from ``above`` the depth on, down."""
    c = to.c
    with c.each(count) as n:
        position = c.b.sub(c.b.sub(to.word(ir.Depth(0)), word(1)), n)
        position = c.b.add(position, word(above) if isinstance(above, int) else above)
        value = to.load_stack(position)
        c.store(value, target, c.b.mul(n, word(width)), width)


@emits(ir.LogWords)
def _log_words(to: Emitter, op: ir.LogWords) -> None:
    c = to.c
    few = _words(to, op.words)
    count = op.words.count if isinstance(op.words, ir.TopWords) else len(op.words)
    size = 8 * count

    def write() -> Value:
        pair = c.at(to.raw, c.b.shl(c.get(to.raw_count), word(2)))
        c.store(c.get(to.log_size), pair, 0, 2)
        c.store(count, pair, 2, 2)
        c.add_to(to.raw_count, word(1))
        if few is None:
            _put_top(to, to.log_end(), word(count), 0)
        else:
            for n, value in enumerate(few):
                c.store(value, to.log_end(), 8 * n)
        return word(size)

    over = c.test("s>", c.get(to.log_size), to.header.logmax - size)
    if size > to.header.logmax:
        # It never fits, and there may be no room for a pair either.
        if op.overflow is not None:
            to.fail(op.overflow)
        return
    to.append(over, op.overflow, write)


@emits(ir.LogValue)
def _log_value(to: Emitter, op: ir.LogValue) -> None:
    c = to.c
    size = len(op.before) + 8 + len(op.behind)
    value = to.word(op.word)

    def write() -> Value:
        c.put_bytes(op.before, to.log_end())
        c.store(value, to.log_end(), len(op.before))
        c.put_bytes(op.behind, to.log_end(), len(op.before) + 8)
        return word(size)

    over = c.test("s>", c.get(to.log_size), to.header.logmax - size)
    to.append(over, op.overflow, write)


def _words_item(
    to: Emitter,
    token: ItemToken,
    count: Value,
    overflow: ir.Raise | None,
    put: Callable[[Value], None],
) -> None:
    """Append an item of ``count`` words, which ``put`` puts where it is told."""
    c = to.c
    size = c.b.add(c.b.shl(count, word(3)), word(_PREFIX))
    over = c.b.or_(c.test(">", count, MAX_COUNT), c.test("s>", size, to.room()))

    def write() -> Value:
        put_prefix(c, to.log_end(), token, count)
        put(c.at(to.log_end(), _PREFIX))
        return size

    to.append(over, overflow, write)


@emits(ir.LogStack)
def _log_stack(to: Emitter, op: ir.LogStack) -> None:
    count = to.word(op.count)

    def put(target: Value) -> None:
        _put_top(to, target, count, count)

    _words_item(to, ItemToken.WORDS, count, op.overflow, put)


@emits(ir.LogVariables)
def _log_variables(to: Emitter, op: ir.LogVariables) -> None:
    c = to.c
    index, count = to.word(op.index), to.word(op.count)
    local = op.space is Space.LOCAL

    def put(target: Value) -> None:
        first = variables(c, to.data, Shown.LOCALS if local else Shown.GLOBALS)
        c.copy(target, c.at(first, c.b.shl(index, word(3))), count, 8)

    token = ItemToken.LOCALS if local else ItemToken.GLOBALS
    _words_item(to, token, count, op.overflow, put)


@emits(ir.LogMemory)
def _log_memory(to: Emitter, op: ir.LogMemory) -> None:
    c = to.c
    to.needs |= Needs.MEMORY
    bad = c.variable(word(0))
    log = to.library("log_string" if op.string else "log_memory")
    address, length = to.word(op.address), to.word(op.length)
    found = c.call(log, to.hit, to.data, to.log_end(), to.room(), address, length, bad)
    size, faulted = c.first(found), c.second(found)
    to.give(op.bad, c.get(bad))
    to.append(c.test("==", size, _NO_ITEM), op.overflow, lambda: size)
    to.fail_if(c.test("!=", faulted, 0), op.fault)


def _put_fault(c: CodeWriter, target: Value, address: Value) -> None:
    put_prefix(c, target, ItemToken.MEMORY_FAULT, word(8))
    c.store(address, target, _PREFIX)


def _faulted(
    c: CodeWriter, target: Value, room: Value, item: Value, done: Value, address: Value, bad: Value
) -> None:
    """The item of ``done`` bytes, if there are any, and the fault behind them."""
    fault = c.b.add(address, done)
    c.store(fault, bad)
    used = c.choose(c.test("==", done, 0), 0, item)
    whole = c.b.add(used, word(_FAULT))
    with c.when(c.test("s>", whole, room)):
        c.give(_NO_ITEM, 1)
    _put_fault(c, c.at(target, used), fault)
    c.give(whole, 1)


@makes("log_memory")
def _memory_item(library: Library, begin: Begin) -> CodeWriter:
    """(hit, data, to, room, address, length, bad): as ``log.memory_item``: the item's size, and
    whether memory could not be read, from ``bad`` on."""
    c = begin(PTR, PTR, PTR, I64, I64, I64, PTR, result=PAIR)
    hit, data, to, room, address, length, bad = c.arguments
    size = c.b.add(length, word(MEMORY.size))
    over = c.b.or_(c.test(">", length, MAX_COUNT), c.test("s>", size, room))
    with c.when(over):
        c.give(_NO_ITEM, 0)
    body = c.at(to, MEMORY.size)
    done = c.call(library("copy_in"), hit, data, body, address, length)
    put_prefix(c, to, ItemToken.MEMORY, done)
    c.store(address, to, _PREFIX)
    with c.when(c.test("<", done, length)):
        _faulted(c, to, room, c.b.add(done, word(MEMORY.size)), done, address, bad)
    c.give(size, 0)
    return c


@makes("log_string")
def _string_item(library: Library, begin: Begin) -> CodeWriter:
    """(hit, data, to, room, address, length, bad): as ``log.string_item``."""
    c = begin(PTR, PTR, PTR, I64, I64, I64, PTR, result=PAIR)
    hit, data, to, room, address, length, bad = c.arguments
    with c.when(c.test("s<", room, _PREFIX)):
        c.give(_NO_ITEM, 0)
    most = c.least(c.b.sub(room, word(_PREFIX)), MAX_COUNT)
    wanted = c.least(length, c.b.add(most, word(1)))
    body = c.at(to, _PREFIX)
    done = c.call(library("copy_in"), hit, data, body, address, wanted)
    end = string_end(c, body, done)
    put_prefix(c, to, ItemToken.STRING, end)
    item = c.b.add(end, word(_PREFIX))
    broken = c.b.and_(c.test("==", end, done), c.test("<", done, wanted))
    with c.when(broken):
        _faulted(c, to, room, item, done, address, bad)
    c.give(c.choose(c.test(">", end, most), _NO_ITEM, item), 0)
    return c


def string_end(c: CodeWriter, text: Value, most: Value) -> Value:
    """How many bytes are before the first NUL, ``most`` at most."""
    end = c.variable(word(0))
    found = c.variable(word(0))

    def goes_on() -> Value:
        return c.b.and_(c.test("<", c.get(end), most), c.test("==", c.get(found), 0))

    with c.loop(goes_on):
        is_nul = c.test("==", c.load(text, c.get(end), 1), 0)
        c.set(found, c.choose(is_nul, 1, 0))
        c.add_to(end, c.choose(is_nul, 0, 1))
    return c.get(end)


@emits(ir.LogLength)
def _log_length(to: Emitter, op: ir.LogLength) -> None:
    to.give(op.result, to.c.get(to.log_size))


@emits(ir.LastItem)
def _last_item(to: Emitter, op: ir.LastItem) -> None:
    c = to.c
    found = c.variable(word(0))
    with c.when(c.test("!=", c.get(to.starts), 0)):
        c.set(found, _last(to, to.layout.starts, c.get(to.starts)))
    to.give(op.result, c.get(found))


def _last(to: Emitter, starts: int, count: Value) -> Value:
    """The last of so many starts."""
    offset = to.c.b.shl(to.c.b.sub(count, word(1)), word(3))
    return to.c.load(to.c.at(to.scratch, starts), offset)


@emits(ir.CutLog)
def _cut_log(to: Emitter, op: ir.CutLog) -> None:
    c = to.c
    length = to.word(op.length)

    def has_more() -> Value:
        over = c.test(">", c.get(to.log_size), length)
        return c.b.and_(over, c.test("!=", c.get(to.starts), 0))

    with c.loop(has_more):
        c.set(to.log_size, _last(to, to.layout.starts, c.get(to.starts)))
        c.add_to(to.starts, word(-1))
    if to.raw is None:
        return
    gone = c.variable(word(0))
    with c.loop(
        lambda: c.b.and_(c.test("!=", c.get(to.raw_count), 0), c.test("==", c.get(gone), 0))
    ):
        last = c.b.sub(c.get(to.raw_count), word(1))
        begins = c.load(to.raw, c.b.shl(last, word(2)), 2)
        stays = c.test("<", begins, c.get(to.log_size))
        c.set(gone, c.choose(stays, 1, 0))
        c.set(to.raw_count, c.choose(stays, c.get(to.raw_count), last))


@emits(ir.SetNumber)
def _set_number(to: Emitter, op: ir.SetNumber) -> None:
    to.needs |= Needs.NUMBERS
    to.c.store(to.word(op.word), to.hit, Hit.MAJOR if op.major else Hit.MINOR)


@emits(ir.Charge)
def _charge(to: Emitter, op: ir.Charge) -> None:
    amount = to.word(op.word)
    if op.at_most is not None:
        amount = to.c.least(amount, op.at_most)
    to.charge(to.c.b.lshr(amount, word(op.shift)))


# -- exceptions -------------------------------------------------------------------------------


@emits(ir.SetHandler)
def _set_handler(to: Emitter, op: ir.SetHandler) -> None:
    frame = to.frame()
    to.c.store(op.block, frame, at.FRAME_HANDLER)
    to.c.store(to.word(op.at), frame, at.FRAME_HANDLER_AT)


@emits(ir.ClearHandler)
def _clear_handler(to: Emitter, op: ir.ClearHandler) -> None:
    to.c.store(-1, to.frame(), at.FRAME_HANDLER)


@emits(ir.LastException)
def _last_exception(to: Emitter, op: ir.LastException) -> None:
    for n, temp in enumerate((op.code, op.parm1, op.parm2)):
        to.give(temp, to.c.load(to.scratch, to.layout.last + 8 * n))


@emits(ir.ShowInTraces)
def _show_in_traces(to: Emitter, op: ir.ShowInTraces) -> None:
    frame, offset = to.frame(), at.FRAME_SHOWN[op.shown]
    to.c.store(to.word(op.first), frame, offset)
    to.c.store(to.word(op.count), frame, offset + 8)


@emits(ir.AppendTrace)
def _append_trace(to: Emitter, op: ir.AppendTrace) -> None:
    to.c.call(to.library("log_trace"), to.scratch, to.data)
    to.charge(to.c.load(to.scratch, to.layout.spent))


@emits(ir.TraceLength)
def _trace_length(to: Emitter, op: ir.TraceLength) -> None:
    size = to.c.load(to.scratch, to.layout.trace_size) if to.scratch is not None else word(0)
    to.give(op.result, size)


@emits(ir.CutTrace)
def _cut_trace(to: Emitter, op: ir.CutTrace) -> None:
    c, layout = to.c, to.layout
    if not layout.traces:
        return
    length = to.word(op.length)

    def has_more() -> Value:
        over = c.test(">", c.load(to.scratch, layout.trace_size), length)
        return c.b.and_(over, c.test("!=", c.load(to.scratch, layout.trace_count), 0))

    with c.loop(has_more):
        count = c.load(to.scratch, layout.trace_count)
        c.store(_last(to, layout.trace_starts, count), to.scratch, layout.trace_size)
        c.store(c.b.sub(count, word(1)), to.scratch, layout.trace_count)


# -- the heap ---------------------------------------------------------------------------------


@emits(ir.Allocate)
def _allocate(to: Emitter, op: ir.Allocate) -> None:
    handle = to.c.call(to.library("heap_allocate"), to.scratch, to.word(op.size))
    to.give(op.result, handle)
    to.fail_if(to.c.test("==", handle, 0), op.fault)


@emits(ir.Free)
def _free(to: Emitter, op: ir.Free) -> None:
    done = to.c.call(to.library("heap_free"), to.scratch, to.word(op.handle))
    to.fail_if(to.c.test("==", done, 0), op.fault)


def _heap_place(to: Emitter, place: ir.HeapPlace) -> Value:
    """The address of the numbers at a place, once it is one."""
    c = to.c
    offset: Word = place.offset
    found = c.call(to.library("heap_find"), to.scratch, to.word(place.handle))
    address, size = c.first(found), c.second(found)
    to.fail_if(c.test("==", address, 0), place.no_block)
    first, length = to.word(offset), place.width * place.count
    outside = c.b.or_(c.test(">", first, size), c.test(">", word(length), c.b.sub(size, first)))
    to.fail_if(outside, place.outside)
    return c.b.inttoptr(c.b.add(address, first), PTR)


@emits(ir.HeapLoad)
def _heap_load(to: Emitter, op: ir.HeapLoad) -> None:
    source, width = _heap_place(to, op.place), op.place.width
    for n, result in enumerate(op.results):
        to.give(result, to.c.load(source, n * width, width))


@emits(ir.HeapPush)
def _heap_push(to: Emitter, op: ir.HeapPush) -> None:
    c = to.c
    source, width, count = _heap_place(to, op.place), op.place.width, op.place.count
    with c.each(word(count)) as n:
        value = c.load(source, c.b.mul(n, word(width)), width)
        position = c.b.sub(to.word(ir.Depth(count - 1)), n)
        to.store_stack(position, value)
    c.add_to(to.depth, word(count))


@emits(ir.HeapStore)
def _heap_store(to: Emitter, op: ir.HeapStore) -> None:
    target, width = _heap_place(to, op.place), op.place.width
    few = _words(to, op.words)
    if few is None:
        _put_top(to, target, word(op.place.count), 0, width)
        return
    for n, value in enumerate(few):
        to.c.store(value, target, n * width, width)


# -- control ----------------------------------------------------------------------------------


@emits(ir.CountJump)
def _count_jump(to: Emitter, op: ir.CountJump) -> None:
    c = to.c
    to.fail_if(c.test("s<=", c.get(to.jumps), 0), op.fault)
    c.add_to(to.jumps, word(-1))


@emits(ir.GuardFacility)
def _guard_facility(to: Emitter, op: ir.GuardFacility) -> None:
    if op.number not in to.facilities:
        to.facilities.append(op.number)
    gone = to.c.load_pointer(to.data, Data.GONE)
    flag = to.c.load(gone, to.facilities.index(op.number), 1)
    to.fail_if(to.c.test("!=", flag, 0), op.fault)
