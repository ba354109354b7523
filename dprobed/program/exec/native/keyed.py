"""Operations on maps as LLVM's representation; ``maps`` says how they are kept."""

from __future__ import annotations

from typing import Final

from dprobed.program.exec import ir_maps
from dprobed.program.exec.native import maps
from dprobed.program.exec.native.abi import Data, Hit, Needs
from dprobed.program.exec.native.code import I64, PTR, CodeWriter, Value, word
from dprobed.program.exec.native.effects import string_end
from dprobed.program.exec.native.emitter import FunctionEmitter, emits
from dprobed.program.exec.native.library import Begin, Library, makes
from dprobed.program.exec.native.maps import MapLayout
from dprobed.program.map_cells import IS_WORD, PART_WORDS
from dprobed.program.maps import MAX_MAPS, STRING_BYTES

#: How often a slot that another thread changes is looked at before it is given up.
_LOOKS: Final = 256
_GET, _HAS, _SET, _COUNT, _DELETE = range(5)
_HALF: Final = 1 << 63


# -- keys -------------------------------------------------------------------------------------


def _key(to: FunctionEmitter) -> Value:
    return to.c.at(to.scratch, to.layout.key)


def _open(to: FunctionEmitter, item: int) -> Value:
    """Where the next item goes."""
    if item == 0:
        to.c.set(to.key_size, word(0))
        to.c.set(to.key_strings, word(0))
    return to.c.at(_key(to), to.c.get(to.key_size))


@emits(ir_maps.KeyWord)
def _key_word(to: FunctionEmitter, op: ir_maps.KeyWord) -> None:
    target = _open(to, op.item)
    to.c.store(IS_WORD, target)
    to.c.store(to.word(op.word), target, 8)
    to.c.add_to(to.key_size, word(16))


@emits(ir_maps.KeyName)
def _key_name(to: FunctionEmitter, op: ir_maps.KeyName) -> None:
    to.needs |= Needs.COMM
    target = _open(to, op.item)
    name = to.c.call(to.library("name"))
    to.c.store(to.c.first(name), target, 8)
    to.c.store(to.c.second(name), target, 16)
    _close(to, target, string_end(to.c, to.c.at(target, 8), word(16)))


def _close(to: FunctionEmitter, target: Value, length: Value) -> None:
    """An item of bytes is there but for its length, and zeros behind it."""
    c = to.c
    c.store(length, target)
    padded = c.b.and_(c.b.add(length, word(7)), word(-8))
    with c.each(c.b.sub(padded, length)) as n:
        c.store(0, c.at(target, 8), c.b.add(length, n), 1)
    c.add_to(to.key_size, c.b.add(padded, word(8)))


@emits(ir_maps.KeyString)
def _key_string(to: FunctionEmitter, op: ir_maps.KeyString) -> None:
    c = to.c
    to.needs |= Needs.MEMORY
    target = _open(to, op.item)
    address, length = to.word(op.address), to.word(op.length)
    room = c.b.sub(word(STRING_BYTES), c.get(to.key_strings))
    wanted = c.least(length, c.b.add(room, word(1)))
    body = c.at(target, 8)
    done = c.call(to.library("copy_in"), to.hit, to.data, body, address, wanted)
    end = string_end(c, body, done)
    is_open = c.test("==", end, done)
    to.give(op.bad, c.b.add(address, done))
    to.fail_if(c.b.and_(is_open, c.test("<", done, wanted)), op.fault)
    to.give(op.bad, length)
    to.fail_if(c.b.and_(is_open, c.test(">", done, room)), op.too_long)
    _close(to, target, end)
    c.add_to(to.key_strings, end)


@emits(ir_maps.KeyText)
def _key_text(to: FunctionEmitter, op: ir_maps.KeyText) -> None:
    c = to.c
    target = _open(to, op.item)
    cell, most = _cell(to), word(8 * len(op.words))
    for n, each in enumerate(op.words):
        c.store(to.word(each), cell, 8 * n)
    end = string_end(c, cell, most)
    to.give(op.length, end)
    room = c.b.sub(word(STRING_BYTES), c.get(to.key_strings))
    to.fail_if(c.test(">", end, room), op.too_long)
    c.copy(c.at(target, 8), cell, end, 1)
    _close(to, target, end)
    c.add_to(to.key_strings, end)


@emits(ir_maps.ReadText)
def _read_text(to: FunctionEmitter, op: ir_maps.ReadText) -> None:
    c = to.c
    to.needs |= Needs.MEMORY
    cell, most = _cell(to), 8 * len(op.results)
    wanted = c.least(to.word(op.length), most)
    done = c.call(to.library("copy_in"), to.hit, to.data, cell, to.word(op.address), wanted)
    end = string_end(c, cell, done)
    with c.each(c.b.sub(word(most), end)) as n:
        c.store(0, c.at(cell, end), n, 1)
    for n, result in enumerate(op.results):
        to.give(result, c.load(cell, 8 * n))


# -- what is done at a key --------------------------------------------------------------------


def _arguments(to: FunctionEmitter, items: int) -> tuple[Value, Value, Value]:
    """The maps, the key and its size."""
    to.needs |= Needs.MAPS
    held = to.c.load_pointer(to.data, Data.MAPS)
    if not items:
        return held, held, word(0)
    return held, _key(to), to.c.get(to.key_size)


@emits(ir_maps.UpdateMap)
def _update_map(to: FunctionEmitter, op: ir_maps.UpdateMap) -> None:
    layout = to.library.maps[op.map]
    if layout.is_value:
        now = word(0)
        if layout.definition.timed:
            to.needs |= Needs.TIME
            now = to.c.load(to.hit, Hit.TIME)
        to.c.call(to.library(f"map_value_{op.map}"), *_arguments(to, op.items), _COUNT, now)
        return
    value = word(1) if op.word is None else to.word(op.word)
    now = word(0)
    if layout.definition.kind == "tseries":
        to.needs |= Needs.TIME
        now = to.c.load(to.hit, Hit.TIME)
    to.c.call(to.library(f"map_add_{op.map}"), *_arguments(to, op.items), value, now)


@emits(ir_maps.ReadMap)
def _read_map(to: FunctionEmitter, op: ir_maps.ReadMap) -> None:
    what = _HAS if op.asks else _GET
    value = to.library(f"map_value_{op.map}")
    to.give(op.result, to.c.call(value, *_arguments(to, op.items), what, 0))


@emits(ir_maps.WriteMap)
def _write_map(to: FunctionEmitter, op: ir_maps.WriteMap) -> None:
    what, value = (_DELETE, word(0)) if op.word is None else (_SET, to.word(op.word))
    to.c.call(to.library(f"map_value_{op.map}"), *_arguments(to, op.items), what, value)


@emits(ir_maps.LoadCell)
def _load_cell(to: FunctionEmitter, op: ir_maps.LoadCell) -> None:
    c, cell = to.c, _cell(to)
    for n in range(len(op.results)):
        c.store(0, cell, 8 * n)
    _at_cell(to, op.map, op.items, _GET, cell)
    for n, result in enumerate(op.results):
        to.give(result, c.load(cell, 8 * n))


@emits(ir_maps.StoreCell)
def _store_cell(to: FunctionEmitter, op: ir_maps.StoreCell) -> None:
    cell = _cell(to)
    for n, each in enumerate(op.words):
        to.c.store(to.word(each), cell, 8 * n)
    _at_cell(to, op.map, op.items, _SET, cell)


def _cell(to: FunctionEmitter) -> Value:
    """Where words are that are one value."""
    return to.c.at(to.scratch, to.layout.cell)


def _at_cell(to: FunctionEmitter, number: int, items: int, what: int, cell: Value) -> None:
    """Get or set what is at a key: where it is several words, from or to ``cell``."""
    function = to.library(f"map_value_{number}")
    arguments = _arguments(to, items)
    if to.library.maps[number].cell_words > 1:
        to.c.call(function, *arguments, what, to.c.address(cell))
        return
    found = to.c.call(function, *arguments, what, to.c.load(cell))
    if what == _GET:
        to.c.store(found, cell)


# -- functions --------------------------------------------------------------------------------


def _slot(c: CodeWriter, layout: MapLayout, held: Value, key: Value, size: Value) -> Value:
    """The address of the slot of a key."""
    if layout.slots == 1:
        return c.at(held, layout.table)
    found = c.variable(word(0))
    with c.each(c.b.lshr(size, word(3))) as n:
        mixed = c.b.xor(c.get(found), c.load(key, c.b.shl(n, word(3))))
        mixed = c.b.mul(mixed, word(maps.HASH_FACTOR))
        c.set(found, c.b.xor(mixed, c.b.lshr(mixed, word(maps.HASH_SHIFT))))
    index = c.b.and_(c.get(found), word(layout.slots - 1))
    return c.at(c.at(held, layout.table), c.b.mul(index, word(maps.SLOT_BYTES)))


def _is_key(c: CodeWriter, entry: Value, key: Value, size: Value) -> Value:
    """Whether the words of a key of this size are those of an entry."""
    differ = c.variable(word(0))
    with c.each(c.b.lshr(size, word(3))) as n:
        at = c.b.shl(n, word(3))
        other = c.b.xor(c.load(c.at(entry, maps.KEY), at), c.load(key, at))
        c.set(differ, c.b.or_(c.get(differ), other))
    return c.test("==", c.get(differ), 0)


def _lose(c: CodeWriter, layout: MapLayout, held: Value) -> None:
    c.b.atomic_rmw("add", c.at(held, layout.header + maps.LOST), word(1), "monotonic")


def _take(c: CodeWriter, layout: MapLayout, held: Value, size: Value) -> Value:
    """Where a new entry of so many bytes is, with a key counted; 0: there is no room, or there are
    too many keys, and it is counted as lost."""
    keys, used = c.at(held, layout.header + maps.KEYS), c.at(held, maps.USED)
    found = c.variable(word(0))
    before = c.b.atomic_rmw("add", keys, word(1), "monotonic")
    with c.when(c.test("s<", before, layout.definition.size)):
        at = c.b.atomic_rmw("add", used, size, "monotonic")
        fits = c.test("<=", c.b.add(at, size), c.load(held, maps.CAPACITY))
        c.set(found, c.choose(fits, at, 0))
        with c.when(c.b.not_(fits)):
            c.b.atomic_rmw("sub", used, size, "monotonic")
    with c.when(c.test("==", c.get(found), 0)):
        c.b.atomic_rmw("sub", keys, word(1), "monotonic")
        _lose(c, layout, held)
    return c.get(found)


def _begin_cell(c: CodeWriter, layout: MapLayout, cell: Value) -> None:
    """As if nothing had been added."""
    one = layout.definition
    least, most = (_HALF - 1, _HALF) if one.signed else (-1, 0)
    with c.each(word(layout.cell_words)) as n:
        c.store(0, cell, c.b.shl(n, word(3)))
    if one.kind in ("min", "max"):
        c.store(least if one.kind == "min" else most, cell, 8)
    elif one.kind in ("avg", "stats"):
        c.store(least, cell, 24)
        c.store(most, cell, 32)


def _make_cell(library: Library, begin: Begin, layout: MapLayout) -> CodeWriter:
    """(maps, key, size): the address of the cell at a key, which is begun where there is none;
    0: there is no room."""
    c = begin(PTR, PTR, I64)
    held, key, size = c.arguments
    slot = _slot(c, layout, held, key, size)
    mine = c.variable(word(0))
    with c.loop(lambda: c.test("==", word(0), 0)):
        head = c.load_whole(c.at(slot, 8))
        at = c.variable(head)
        with c.loop(lambda: c.test("!=", c.get(at), 0)):
            entry = c.at(held, c.get(at))
            with (
                c.when(c.test("==", c.load(entry, maps.WHAT), size)),
                c.when(_is_key(c, entry, key, size)),
            ):
                with c.when(c.test("!=", c.get(mine), 0)):
                    # Another thread was first; the room is wasted.
                    keys = c.at(held, layout.header + maps.KEYS)
                    c.b.atomic_rmw("sub", keys, word(1), "monotonic")
                c.give(c.address(c.at(c.at(entry, maps.KEY), size)))
            c.set(at, c.load(entry, maps.NEXT))
        with c.when(c.test("==", c.get(mine), 0)):
            whole = c.b.add(size, word(maps.KEY + 8 * layout.cell_words))
            c.set(mine, _take(c, layout, held, whole))
            with c.when(c.test("==", c.get(mine), 0)):
                c.give(0)
            new = c.at(held, c.get(mine))
            c.store(size, new, maps.WHAT)
            c.copy(c.at(new, maps.KEY), key, c.b.lshr(size, word(3)), 8)
            _begin_cell(c, layout, c.at(c.at(new, maps.KEY), size))
        new = c.at(held, c.get(mine))
        c.store(head, new, maps.NEXT)
        with c.when(c.swapped(c.at(slot, 8), head, c.get(mine))):
            c.give(c.address(c.at(c.at(new, maps.KEY), size)))
    c.b.unreachable()
    return c


def _make_add(library: Library, begin: Begin, layout: MapLayout, number: int) -> CodeWriter:
    """(maps, key, size, word, now): add a word at a key."""
    c = begin(PTR, PTR, I64, I64, I64)
    held, key, size, value, now = c.arguments
    found = c.call(library(f"map_cell_{number}"), held, key, size)
    with c.when(c.test("==", found, 0)):
        c.give(0)
    cell = c.b.inttoptr(found, PTR)
    match layout.definition.kind:
        case "count":
            _plus(c, cell, 0, word(1))
        case "sum":
            _sum(c, layout, cell, value)
        case "min" | "max" as kind:
            _extreme(c, layout, cell, 8, kind, value)
            _plus(c, cell, 0, word(1))
        case "avg" | "stats" as kind:
            _sum(c, layout, c.at(cell, 8), value)
            if kind == "stats":
                _extreme(c, layout, cell, 24, "min", value)
                _extreme(c, layout, cell, 32, "max", value)
            _plus(c, cell, 0, word(1))
        case "tseries":
            _add_to_interval(c, layout, cell, now, value)
        case _:
            bucket = c.b.add(_bucket(c, layout, value), word(1))
            _plus(c, c.at(cell, c.b.shl(bucket, word(3))), 0, word(1))
    c.give(0)
    return c


def _add_to_interval(
    c: CodeWriter, layout: MapLayout, cell: Value, now: Value, value: Value
) -> None:
    """Add to the interval that it is now; a new one is begun by one thread at a time.

    Who is suspended here for as long as all intervals last adds to a later one.
    """
    milliseconds, most = layout.definition.arguments
    number = c.b.udiv(now, word(milliseconds * maps.NS))
    index = c.b.urem(number, word(most))
    part = c.at(c.at(cell, 8), c.b.mul(index, word(8 * PART_WORDS)))
    named = c.b.add(number, word(1))
    with c.when(c.test("<", c.load_whole(part), named), likely=False):
        sequence = _lock(c, layout, c.arguments[0], cell)
        with c.when(c.test("<", c.load_whole(part), named)):
            # Whoever finds the number finds the zeros.
            c.store_whole(word(0), c.at(part, 8))
            c.store_whole(word(0), c.at(part, 16))
            c.store_whole(named, part)
        c.store_whole(c.b.add(sequence, word(2)), cell)
    # One that is too old by now is not kept.
    with c.when(c.test("==", c.load_whole(part), named)):
        _sum(c, layout, c.at(part, 8), value)


def _plus(c: CodeWriter, cell: Value, offset: int, value: Value) -> None:
    c.b.atomic_rmw("add", c.at(cell, offset), value, "monotonic")


def _sum(c: CodeWriter, layout: MapLayout, cell: Value, value: Value) -> None:
    """Add to two words."""
    before = c.b.atomic_rmw("add", cell, value, "monotonic")
    more = c.choose(c.test("<", c.b.add(before, value), value), 1, 0)
    if layout.definition.signed:
        more = c.b.add(more, c.b.ashr(value, word(63)))
    with c.when(c.test("!=", more, 0)):
        _plus(c, cell, 8, more)


def _extreme(
    c: CodeWriter, layout: MapLayout, cell: Value, offset: int, kind: str, value: Value
) -> None:
    sign = "s" if layout.definition.signed else ""
    place = c.at(cell, offset)
    relation = f"{sign}<" if kind == "min" else f"{sign}>"
    with c.when(c.test(relation, value, c.load_whole(place))):
        c.b.atomic_rmw(kind if sign else f"u{kind}", place, value, "monotonic")


def _bucket(c: CodeWriter, layout: MapLayout, value: Value) -> Value:
    """The number of the bucket of a word."""
    one = layout.definition
    sign = "s" if one.signed else ""
    if one.kind == "hist":
        (bits,) = one.arguments
        above = c.b.sub(word(63 - bits), c.leading_zeros(value))
        shift = c.choose(c.test("s>", above, 0), above, 0)
        found = c.b.add(c.b.shl(shift, word(bits)), c.b.lshr(value, shift))
        low = 0
    else:
        low, high, step = one.arguments
        found = c.b.udiv(c.b.sub(value, word(low)), word(step))
        found = c.choose(c.test(f"{sign}>=", value, high), layout.cell_words - 2, found)
    return c.choose(c.test(f"{sign}<", value, low), -1, found)


def _make_value(library: Library, begin: Begin, layout: MapLayout) -> CodeWriter:
    """(maps, key, size, what, word): do something at a key of a ``value``; of one of several words
    ``word`` is where they are, which are put there or taken from there; to count, it is the time
    of a timed one."""
    c = begin(PTR, PTR, I64, I64, I64)
    held, key, size, what, value = c.arguments
    slot = _slot(c, layout, held, key, size)
    sequence = _lock(c, layout, held, slot)
    found, free = _look_up(c, held, slot)
    result = c.variable(word(0))
    is_there = c.test("!=", found, 0)
    entry = c.at(held, found)
    with c.when(is_there):
        cell = _value_cell(c, entry)
        if layout.cell_words > 1:
            words = word(layout.cell_words)
            c.set(result, word(1))
            with c.when(c.test("==", what, _GET)):
                c.copy(c.b.inttoptr(value, PTR), cell, words, 8)
            with c.when(c.test("==", what, _SET)):
                c.copy(cell, c.b.inttoptr(value, PTR), words, 8)
            if layout.definition.timed:
                with c.when(c.test("==", what, _COUNT)):
                    c.store(value, cell)
                    c.store(c.b.add(c.load(cell, 8), word(1)), cell, 8)
        else:
            now = c.load(cell)
            c.set(result, c.choose(c.test("==", what, _HAS), 1, now))
            changed = c.choose(c.test("==", what, _SET), value, c.b.add(now, word(1)))
            with c.when(c.b.or_(c.test("==", what, _SET), c.test("==", what, _COUNT))):
                c.store(changed, cell)
        with c.when(c.test("==", what, _DELETE)):
            c.store(c.b.and_(c.load(entry, maps.WHAT), word(~maps.THERE)), entry, maps.WHAT)
            keys = c.at(held, layout.header + maps.KEYS)
            c.b.atomic_rmw("sub", keys, word(1), "monotonic")
    adds = c.b.or_(c.test("==", what, _SET), c.test("==", what, _COUNT))
    with c.when(c.b.and_(adds, c.b.not_(is_there))):
        _add_value(c, layout, slot, free)
    # The next even number: the slot is nobody's.
    c.store_whole(c.b.add(sequence, word(2)), slot)
    c.give(c.get(result))
    return c


def _lock(c: CodeWriter, layout: MapLayout, held: Value, slot: Value) -> Value:
    """Have a slot alone, or return; its sequence number before."""
    left, before = c.variable(word(_LOOKS)), c.variable(word(1))
    with c.loop(lambda: c.test("!=", c.b.and_(c.get(before), word(1)), 0)):
        with c.when(c.test("==", c.get(left), 0), likely=False):
            _lose(c, layout, held)
            c.give(0)
        c.add_to(left, word(-1))
        now = c.load_whole(slot)
        with (
            c.when(c.test("==", c.b.and_(now, word(1)), 0)),
            c.when(c.swapped(slot, now, c.b.add(now, word(1)))),
        ):
            c.set(before, now)
        with c.when(c.test("!=", c.b.and_(c.get(before), word(1)), 0)):
            c.pause()
    return c.get(before)


def _value_cell(c: CodeWriter, entry: Value) -> Value:
    room = c.b.lshr(c.load(entry, maps.WHAT), word(maps.ROOM_SHIFT))
    return c.at(c.at(entry, maps.KEY), c.b.and_(room, word(maps.LENGTH_MASK)))


def _look_up(c: CodeWriter, held: Value, slot: Value) -> tuple[Value, Value]:
    """Where the entry of the key is, and where one that was deleted and has room for it; or 0."""
    key, size = c.arguments[1:3]
    found, free = c.variable(word(0)), c.variable(word(0))
    at = c.variable(c.load(slot, 8))
    with c.loop(lambda: c.test("!=", c.get(at), 0)):
        entry = c.at(held, c.get(at))
        what = c.load(entry, maps.WHAT)
        is_there = c.test("!=", c.b.and_(what, word(maps.THERE)), 0)
        same = c.test("==", c.b.and_(what, word(maps.LENGTH_MASK)), size)
        with c.when(c.b.and_(is_there, same)), c.when(_is_key(c, entry, key, size)):
            c.set(found, c.get(at))
        room = c.b.and_(c.b.lshr(what, word(maps.ROOM_SHIFT)), word(maps.LENGTH_MASK))
        with c.when(c.b.and_(c.b.not_(is_there), c.test(">=", room, size))):
            c.set(free, c.get(at))
        c.set(at, c.load(entry, maps.NEXT))
    return c.get(found), c.get(free)


def _add_value(c: CodeWriter, layout: MapLayout, slot: Value, free: Value) -> None:
    """A new key in a slot that is ours: its entry, if there is room."""
    held, key, size, what, value = c.arguments
    keys = c.at(held, layout.header + maps.KEYS)
    at = c.variable(free)
    with c.b.if_else(c.test("!=", free, 0)) as (again, anew):
        with again:
            before = c.b.atomic_rmw("add", keys, word(1), "monotonic")
            with c.when(c.test("s>=", before, layout.definition.size)):
                c.b.atomic_rmw("sub", keys, word(1), "monotonic")
                _lose(c, layout, held)
                c.set(at, word(0))
        with anew:
            taken = _take(c, layout, held, c.b.add(size, word(maps.KEY + 8 * layout.cell_words)))
            c.set(at, taken)
            with c.when(c.test("!=", taken, 0)):
                new = c.at(held, taken)
                c.store(c.b.shl(size, word(maps.ROOM_SHIFT)), new, maps.WHAT)
                c.store(c.load(slot, 8), new, maps.NEXT)
                c.store(taken, slot, 8)
    with c.when(c.test("!=", c.get(at), 0)):
        entry = c.at(held, c.get(at))
        c.copy(c.at(entry, maps.KEY), key, c.b.lshr(size, word(3)), 8)
        if layout.cell_words > 1:
            cell = _value_cell(c, entry)
            with c.when(c.test("==", what, _SET)):
                c.copy(cell, c.b.inttoptr(value, PTR), word(layout.cell_words), 8)
            with c.when(c.test("==", what, _COUNT)):
                _begin_cell(c, layout, cell)
                c.store(value, cell)
                c.store(1, cell, 8)
        else:
            c.store(c.choose(c.test("==", what, _SET), value, 1), _value_cell(c, entry))
        room = c.b.and_(c.load(entry, maps.WHAT), word(maps.LENGTH_MASK << maps.ROOM_SHIFT))
        c.store(c.b.or_(c.b.or_(room, size), word(maps.THERE)), entry, maps.WHAT)


def _makes_maps(number: int) -> None:
    @makes(f"map_cell_{number}")
    def _cell(library: Library, begin: Begin) -> CodeWriter:
        return _make_cell(library, begin, library.maps[number])

    @makes(f"map_add_{number}")
    def _add(library: Library, begin: Begin) -> CodeWriter:
        return _make_add(library, begin, library.maps[number], number)

    @makes(f"map_value_{number}")
    def _value(library: Library, begin: Begin) -> CodeWriter:
        return _make_value(library, begin, library.maps[number])


for _number in range(MAX_MAPS):
    _makes_maps(_number)
