"""The maps of a program where native code keeps them: in memory that it shares with who reads them.

All of it is relative to the beginning, whose address ``Data.MAPS`` has, and zeros at first but for
``CAPACITY``::

    USED       bytes that were taken so far, these and the tables included
    CAPACITY   bytes that there are
    of each map, 64 bytes: lost, number of keys, and nothing
    of each map, its table: of each slot a sequence number and where its first entry is, 0: none
    entries    next (where, 0: none), what it is, key, cell

*What it is*: bytes of the key; of a ``value`` also, from bit 16, how many bytes it has room for,
and, bit 32, whether it is there. A key is, for each item, a word ``IS_WORD`` and the word itself,
or the number of bytes and the bytes, with zeros up to a whole number of words.

Keys of maps that are no ``value`` stay. An entry is whole before it is put in front of its slot by
one compare-and-swap; what its cell counts is added in one piece. Nobody waits for anybody, and
nothing is lost of what threads do at the same time. Sums have two words, and are right once those
who add to them have done so.

The cell of a ``tseries`` begins with a sequence number, as a slot has one; then, each interval at
its number modulo how many there are: its number and one, 0 where there is none, and its sum.

A slot of a ``value`` is changed by one thread at a time: its sequence number is odd meanwhile. Who
finds it odd for too long (its thread was suspended, or left the probe for ever) does without, which
is counted as lost. An entry that was deleted is used again for another key of its slot.

Who empties a map stops all threads first, and has those finish that are at it, so that nothing
comes between what was read and what is forgotten. Then the entries' room is used again. Where a
thread may come back (from a signal handler), it is not, and what that thread adds may be lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from struct import Struct
from typing import Final

from dprobed.program.map_cells import PART_WORDS, key_items, packed_key, told
from dprobed.program.maps import (
    COUNT,
    PROGRAM_BYTES,
    VALUE,
    Entry,
    Item,
    MapContents,
    MapDefinition,
    linear_bucket,
    power_bucket,
)

USED: Final = 0
CAPACITY: Final = 8
_HEADERS: Final = 64
HEADER_BYTES: Final = 64
#: Of a map's header.
LOST: Final = 0
KEYS: Final = 8
SLOT_BYTES: Final = 16
#: Of an entry.
NEXT: Final = 0
WHAT: Final = 8
KEY: Final = 16
ROOM_SHIFT: Final = 16
THERE: Final = 1 << 32
LENGTH_MASK: Final = 0xFFFF

_WORD: Final = (1 << 64) - 1
_HALF: Final = 1 << 63
#: Nanoseconds of a millisecond.
NS: Final = 1_000_000
#: Of the hash of a key: `h = (h ^ word) * FACTOR; h ^= h >> SHIFT`, for each of its words.
HASH_FACTOR: Final = 0x9E3779B97F4A7C15
HASH_SHIFT: Final = 29
#: How many entries a reader looks at again in all, because their slots were changed meanwhile.
_LOOKS: Final = 10_000

#: Lost updates that are told at most: a target can write there what it likes.
_MOST: Final = 1 << 48

_ONE: Final = Struct("<Q")


class MapLayout:
    """Where one map of a program is. ``slots``: a power of two."""

    def __init__(self, definition: MapDefinition, number: int, table: int) -> None:
        self.definition: Final = definition
        self.header: Final = _HEADERS + number * HEADER_BYTES
        self.table: Final = table
        self.slots: Final = 1 if not definition.keys else 1 << definition.size.bit_length()
        self.is_value: Final = definition.kind == VALUE
        self.cell_words: Final = _cell_words(definition)

    @property
    def end(self) -> int:
        """Behind its table."""
        return self.table + self.slots * SLOT_BYTES


def _cell_words(one: MapDefinition) -> int:
    match one.kind:
        case "hist":
            return power_bucket(_WORD, *one.arguments) + 2
        case "lhist":
            low, high, step = one.arguments
            return linear_bucket(high, low, high, step) + 2
        case "tseries":
            return 1 + PART_WORDS * one.arguments[1]
        case kind:
            return {VALUE: one.words, COUNT: 1, "sum": 2, "min": 2, "max": 2}.get(kind, 5)


def layouts(definitions: Sequence[MapDefinition]) -> list[MapLayout]:
    """Where each map is."""
    found: list[MapLayout] = []
    at = _HEADERS + len(definitions) * HEADER_BYTES
    for number, one in enumerate(definitions):
        found.append(MapLayout(one, number, at))
        at = found[-1].end
    return found


def bytes_of(definitions: Sequence[MapDefinition]) -> int:
    """How many bytes all maps take at most; most of them are never touched."""
    found = layouts(definitions)
    return (found[-1].end if found else _HEADERS) + PROGRAM_BYTES


def begin(view: memoryview, definitions: Sequence[MapDefinition]) -> None:
    """Make empty maps of bytes that are all zeros."""
    found = layouts(definitions)
    _ONE.pack_into(view, USED, found[-1].end if found else _HEADERS)
    _ONE.pack_into(view, CAPACITY, len(view))


def _hash(key: bytes) -> int:
    found = 0
    for (word,) in _ONE.iter_unpack(key):
        found = (found ^ word) * HASH_FACTOR & _WORD
        found ^= found >> HASH_SHIFT
    return found


class SharedMap:
    """``KeyedMap`` in memory that native code works on; ``view``: all of it."""

    def __init__(self, view: memoryview, layout: MapLayout) -> None:
        self._view = view
        self._layout = layout

    @property
    def definition(self) -> MapDefinition:
        """What it is."""
        return self._layout.definition

    @property
    def lost(self) -> int:
        """Updates for which there was no room."""
        return min(self._word(self._layout.header + LOST), _MOST)

    def __len__(self) -> int:
        """How many keys there are."""
        keys = self._word(self._layout.header + KEYS)
        # Below 0 where a thread was just taking back what it had counted, at ``clear``.
        return 0 if keys >> 63 else min(keys, self.definition.size)

    def contents(self) -> MapContents:
        """All that is in it. A target that writes there has lost its counts, and nothing else."""
        found: list[Entry] = []
        looks = _LOOKS
        for slot in self._slots():
            room = self.definition.size - len(found)
            before, entries = self._word(slot), self._in(slot, room)
            while looks > 0 and (before & 1 or self._word(slot) != before):
                looks -= 1 + len(entries)
                before, entries = self._word(slot), self._in(slot, room)
            found += entries
        return MapContents(self.lost, found)

    def copy(self) -> SharedMap:
        """The same in memory of its own: to be read later."""
        used = max(self._word(USED), self._layout.end)
        return SharedMap(memoryview(bytes(self._view[:used])), self._layout)

    @property
    def is_empty(self) -> bool:
        """Whether no slot has an entry, also of a deleted key."""
        return not self._slots()

    def load(self, contents: MapContents) -> None:
        """Begin with what another of the same definition has had; no program runs meanwhile."""
        self.clear()
        self._put(self._layout.header + LOST, contents.lost)
        for items, cell in contents.entries:
            if not self._add(packed_key(items), cell):
                self._put(self._layout.header + LOST, self.lost + 1)

    @property
    def is_shared(self) -> bool:
        """See KeyedMap."""
        return True

    def change(self, entries: Sequence[Entry], gone: Sequence[Sequence[Item]]) -> int | None:
        """See KeyedMap."""
        put = [(packed_key(items), cell) for items, cell in entries]
        left = [packed_key(items) for items in gone]
        if any(self._word(self._slot(key)) & 1 for key in (*left, *(key for key, _ in put))):
            return None
        for key in left:
            self._delete(key)
        without = 0
        for key, cell in put:
            at = self._found(key)
            if at:
                if not (self.definition.timed and cell and self._is_later(at, cell[0])):
                    self._put_cell(at, cell)
            else:
                without += not (self._again(key, cell) or self._add(key, cell))
        return without

    def _is_later(self, at: int, time: int) -> bool:
        """Whether an entry was set after that."""
        return self._word(at + KEY + self._room(self._word(at + WHAT))) > time

    def clear(self) -> None:
        """Forget all keys, and what was lost."""
        for slot in self._slots():
            self._put(slot + 8, 0)
        self._put(self._layout.header + LOST, 0)
        self._put(self._layout.header + KEYS, 0)

    def zero(self) -> None:
        """Keep the keys, and begin anew at each; forget what was lost."""
        for slot in self._slots():
            for at in self._chain(slot):
                self._put_cell(at, [])
        self._put(self._layout.header + LOST, 0)

    def take_out(self) -> list[tuple[int, bytes]]:
        """Its entries, each with its slot, which has none afterwards; not those that were deleted.
        No thread works on it."""
        found: list[tuple[int, bytes]] = []
        for slot in self._slots():
            for at in self._chain(slot):
                what = self._word(at + WHAT)
                is_value = self._layout.is_value
                length = self._room(what) if is_value else what & LENGTH_MASK
                end = at + KEY + length + 8 * self._layout.cell_words
                is_there = what & THERE or not is_value
                # The target can write there: no more than there can be.
                if is_there and end <= len(self._view) and len(found) < self.definition.size:
                    found.append((slot, bytes(self._view[at:end])))
            self._put(slot + 8, 0)
        return found

    def put_back(self, entries: Sequence[tuple[int, bytes]]) -> None:
        """Have such entries again, as far as there is room."""
        keys, at = 0, self._word(USED)
        for slot, entry in entries:
            if at + len(entry) > len(self._view):
                break
            self._view[at : at + len(entry)] = entry
            self._put(at + NEXT, self._word(slot + 8))
            self._put(slot + 8, at)
            at += len(entry)
            keys += 1
        self._put(USED, at)
        self._put(self._layout.header + KEYS, keys)

    # -- entries ------------------------------------------------------------------------------

    def _word(self, at: int) -> int:
        found: int = _ONE.unpack_from(self._view, at)[0]
        return found

    def _put(self, at: int, word: int) -> None:
        _ONE.pack_into(self._view, at, word & _WORD)

    def _slots(self) -> list[int]:
        """Where the slots are that have entries."""
        layout = self._layout
        heads = self._view[layout.table : layout.end].cast("Q").tolist()[1::2]
        return [layout.table + n * SLOT_BYTES for n, head in enumerate(heads) if head]

    def _chain(self, slot: int) -> Iterator[int]:
        """Where the entries of a slot are."""
        at = self._word(slot + 8)
        for _ in range(self.definition.size):
            if not 0 < at < len(self._view) - KEY:
                break
            yield at
            at = self._word(at + NEXT)

    def _in(self, slot: int, most: int) -> list[Entry]:
        """The entries of a slot, at most so many."""
        return [entry for at in islice(self._chain(slot), most) for entry in self._entry(at)]

    def _entry(self, at: int) -> list[Entry]:
        what = self._word(at + WHAT)
        if self._layout.is_value and not what & THERE:
            return []
        length = what & LENGTH_MASK
        cell = at + KEY + (self._room(what) if self._layout.is_value else length)
        count = self._layout.cell_words
        if cell + 8 * count > len(self._view):
            return []
        words = Struct(f"<{count}Q").unpack_from(self._view, cell)
        key = key_items(bytes(self._view[at + KEY : at + KEY + length]))
        return [(key, told(self.definition, words))] if len(key) == self.definition.keys else []

    @staticmethod
    def _room(what: int) -> int:
        return what >> ROOM_SHIFT & LENGTH_MASK

    def _kept(self, cell: Sequence[int]) -> list[int]:
        """What was sent of a cell as it is kept; empty: as if nothing had been added."""
        one = self.definition
        least, most = (_HALF - 1, _HALF) if one.signed else (_WORD, 0)
        match one.kind:
            case "value" | "count" | "sum":
                return list(cell) or [0] * self._layout.cell_words
            case "min" | "max":
                return [1, *cell] if cell else [0, least if one.kind == "min" else most]
            case "avg":
                return [*cell, 0, 0] if cell else [0] * 5
            case "stats":
                return list(cell) or [0, 0, 0, least, most]
            case "tseries":
                words = [0] * self._layout.cell_words
                for n in range(0, len(cell), PART_WORDS):
                    at = 1 + PART_WORDS * (cell[n] % one.arguments[1])
                    words[at : at + PART_WORDS] = cell[n] + 1, *cell[n + 1 : n + PART_WORDS]
                return words
            case _:
                words = [0] * self._layout.cell_words
                for bucket, count in zip(cell[::2], cell[1::2], strict=True):
                    words[bucket + 1] = count
                return words

    def _put_cell(self, at: int, cell: Sequence[int]) -> None:
        what = self._word(at + WHAT)
        length = self._room(what) if self._layout.is_value else what & LENGTH_MASK
        words = self._kept(cell)
        if at + KEY + length + 8 * len(words) <= len(self._view):
            for n, word in enumerate(words):
                self._put(at + KEY + length + 8 * n, word)

    def _slot(self, key: bytes) -> int:
        """Where the slot of a key is."""
        layout = self._layout
        return layout.table + (_hash(key) & (layout.slots - 1)) * SLOT_BYTES

    def _is_key(self, at: int, key: bytes) -> bool:
        """Whether an entry is that of a key."""
        what = self._word(at + WHAT)
        there = what & THERE or not self._layout.is_value
        same = there and what & LENGTH_MASK == len(key)
        return bool(same) and self._view[at + KEY : at + KEY + len(key)] == key

    def _found(self, key: bytes) -> int:
        """Where the entry of a key is, 0: it has none."""
        return next((at for at in self._chain(self._slot(key)) if self._is_key(at, key)), 0)

    def _delete(self, key: bytes) -> None:
        """Forget a key. The entry of a ``value`` is used again; that of others is left out: whoever
        has stopped in it adds to what is forgotten, and whoever has stopped before it goes on."""
        before = self._slot(key) + 8
        for at in self._chain(self._slot(key)):
            if self._is_key(at, key):
                if self._layout.is_value:
                    self._put(at + WHAT, self._word(at + WHAT) & ~THERE)
                else:
                    self._put(before, self._word(at + NEXT))
                self._put(self._layout.header + KEYS, len(self) - 1)
                return
            before = at + NEXT

    def _again(self, key: bytes, cell: Sequence[int]) -> bool:
        """Use an entry of its slot that was deleted for a key; whether there was one."""
        if len(self) >= self.definition.size:
            return False
        for at in self._chain(self._slot(key)):
            what = self._word(at + WHAT)
            room = self._room(what)
            end = at + KEY + room + 8 * self._layout.cell_words
            fits = len(key) <= room and end <= len(self._view)
            if fits and not what & THERE:
                self._view[at + KEY : at + KEY + len(key)] = key
                self._put(at + WHAT, len(key) | room << ROOM_SHIFT | THERE)
                self._put_cell(at, cell)
                self._put(self._layout.header + KEYS, len(self) + 1)
                return True
        return False

    def _add(self, key: bytes, cell: Sequence[int]) -> bool:
        """A new entry; whether there is room for it."""
        layout = self._layout
        size = KEY + len(key) + 8 * layout.cell_words
        at = self._word(USED)
        # Not as CAPACITY says: the target can write there.
        if len(self) >= layout.definition.size or at < layout.end or at + size > len(self._view):
            return False
        slot = self._slot(key)
        more = len(key) << ROOM_SHIFT | THERE if layout.is_value else 0
        self._put(at + NEXT, self._word(slot + 8))
        self._put(at + WHAT, len(key) | more)
        self._view[at + KEY : at + KEY + len(key)] = key
        self._put_cell(at, cell)
        self._put(slot + 8, at)
        self._put(USED, at + size)
        self._put(layout.header + KEYS, len(self) + 1)
        return True


def give_back(view: memoryview, found: Sequence[SharedMap], left: int = 0) -> int:
    """Use the room of entries again that maps have forgotten; no thread may be at any of them, nor
    come back to one. How much is in use then.

    Where maps still have some, these are moved: 65,536 keys take 0.3 s, in which the target stands.
    So that is done only once half of the room is used, and a quarter of it since the
    last time (``left``: what was in use then).
    """
    used = int.from_bytes(view[USED : USED + 8], "little")
    kept = [each for each in found if not each.is_empty]
    if kept and used < max(len(view) // 2, left + len(view) // 4):
        return left
    entries = [each.take_out() for each in found]
    begin(view, [each.definition for each in found])
    for each, had in zip(found, entries, strict=True):
        each.put_back(had)
    return int.from_bytes(view[USED : USED + 8], "little")


def shared_maps(view: memoryview, definitions: Sequence[MapDefinition]) -> list[SharedMap]:
    """The maps of a program, which ``begin`` has made of these bytes."""
    return [SharedMap(view, layout) for layout in layouts(definitions)]
