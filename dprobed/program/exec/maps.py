"""Maps as dictionaries of this process: those of the executors that are Python.

An update of a key that is there is one look-up. A new key, and a new bucket of a histogram, takes
its bytes out of what the program and its target may have (``MapRoom``); where there is no room, or
the map has ``size`` keys, nothing is kept and the update is counted as lost.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from dprobed.program.exec.interface import Context, read_some
from dprobed.program.maps import (
    BUCKET_BYTES,
    PROGRAM_BYTES,
    STRING_BYTES,
    WORD_BYTES,
    Entry,
    Item,
    MapContents,
    MapDefinition,
    MapRoom,
    as_signed,
    halves,
    key_bytes,
    linear_bucket,
    power_bucket,
    stack_item,
    whole,
)

_WORD: Final = (1 << 64) - 1
_NS: Final = 1_000_000

#: A key as programs gather it: its only item, or all of them.
KeyItems: TypeAlias = Item | tuple[Item, ...]


def _gathered(items: Sequence[Item]) -> KeyItems:
    return tuple(items) if len(items) != 1 else items[0]


class HeldMap(ABC):
    """What all kinds have: ``cells`` by key, of whatever type the kind wants."""

    __slots__ = ("_room", "_size", "_used", "cells", "definition", "lost")

    #: Bytes of a cell that has nothing in it.
    BYTES = 40

    def __init__(self, definition: MapDefinition, room: MapRoom) -> None:
        self.definition = definition
        self.lost = 0
        self.cells: dict[KeyItems, object] = {}
        self._room = room
        self._size = definition.size
        self._used = 0

    def _take(self, size: int) -> bool:
        if self._room.take(size):
            self._used += size
            return True
        self.lost += 1
        return False

    def _give(self, size: int) -> None:
        self._used -= size
        self._room.give(size)

    def _has_room(self, key: KeyItems) -> bool:
        """Whether a new key may come in."""
        if len(self.cells) < self._size:
            return self._take(self._bytes_of(key))
        self.lost += 1
        return False

    def _bytes_of(self, key: KeyItems) -> int:
        return self.BYTES + key_bytes(key if isinstance(key, tuple) else (key,))

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self.cells)

    def contents(self) -> MapContents:
        """All that is in it."""
        entries: list[Entry] = [
            (list(key) if isinstance(key, tuple) else [key], self._cell(cell))
            for key, cell in self.cells.items()
        ]
        return MapContents(self.lost, entries)

    def load(self, contents: MapContents) -> None:
        """Begin with what another of the same definition has had."""
        self.clear()
        for items, cell in contents.entries:
            key = _gathered(items)
            if self._has_room(key):
                self._begin(key, cell)
        self.lost += contents.lost

    @property
    def is_shared(self) -> bool:
        """See KeyedMap."""
        return False

    def change(self, entries: Iterable[Entry], gone: Iterable[Sequence[Item]]) -> int | None:
        """See KeyedMap."""
        for items in gone:
            key = _gathered(items)
            if key in self.cells:
                self._begin(key, [])  # which gives its buckets back
                del self.cells[key]
                self._give(self._bytes_of(key))
        before = self.lost
        for items, cell in entries:
            key = _gathered(items)
            if key in self.cells:
                if not (self.definition.timed and cell and self._is_later(key, cell[0])):
                    self._begin(key, cell)
            elif self._has_room(key):
                self._begin(key, cell)
        without, self.lost = self.lost - before, before
        return without

    def _is_later(self, key: KeyItems, time: int) -> bool:
        """Whether a key was set after that."""
        return self._cell(self.cells[key])[0] > time

    def clear(self) -> None:
        """Forget all keys, and what was lost."""
        self.cells.clear()
        self._room.give(self._used)
        self._used = self.lost = 0

    def zero(self) -> None:
        """Keep the keys, and begin anew at each; forget what was lost."""
        for key in self.cells:
            self._begin(key, [])
        self.lost = 0

    @abstractmethod
    def _cell(self, cell: object) -> list[int]:
        """A cell as it is sent."""

    @abstractmethod
    def _begin(self, key: KeyItems, cell: list[int]) -> None:
        """The cell at a key becomes what was sent of one; empty: as if nothing had been added."""


class OwnMap(HeldMap):
    """What a program sets at each key, and forgets."""

    __slots__ = ()

    def has(self, key: KeyItems) -> int:
        """Whether there is a value, 1 or 0."""
        return 1 if key in self.cells else 0

    def delete(self, key: KeyItems) -> None:
        """There is none any more."""
        if self.cells.pop(key, None) is not None:
            self._give(self._bytes_of(key))


class CellsMap(OwnMap):
    """Several words at each key."""

    __slots__ = ("_none",)
    cells: dict[KeyItems, tuple[int, ...]]  # type: ignore[assignment]

    def __init__(self, definition: MapDefinition, room: MapRoom) -> None:
        super().__init__(definition, room)
        self._none = (0,) * definition.words

    def load_cell(self, key: KeyItems) -> tuple[int, ...]:
        """The words, 0 if there are none."""
        return self.cells.get(key, self._none)

    def store_cell(self, key: KeyItems, words: Sequence[int]) -> None:
        """The words become these."""
        if key in self.cells or self._has_room(key):
            self.cells[key] = tuple(words)

    def count_at(self, key: KeyItems, now: int) -> None:
        """Add 1 to the word behind the time, which it is now."""
        _, word, *rest = self.load_cell(key)
        self.store_cell(key, (now, (word + 1) & _WORD, *rest))

    def _bytes_of(self, key: KeyItems) -> int:
        return WORD_BYTES * len(self._none) + key_bytes(key if isinstance(key, tuple) else (key,))

    def _cell(self, cell: object) -> list[int]:
        assert isinstance(cell, tuple)
        return list(cell)

    def _begin(self, key: KeyItems, cell: list[int]) -> None:
        self.cells[key] = tuple(cell) or self._none


class ValueMap(OwnMap):
    """A word at each key."""

    __slots__ = ()
    cells: dict[KeyItems, int]  # type: ignore[assignment]

    def get(self, key: KeyItems) -> int:
        """The word, 0 if there is none."""
        return self.cells.get(key, 0)

    def load_cell(self, key: KeyItems) -> tuple[int, ...]:
        """The word alone."""
        return (self.get(key),)

    def store_cell(self, key: KeyItems, words: Sequence[int]) -> None:
        """The word becomes this one."""
        self.set(key, words[0])

    def set(self, key: KeyItems, word: int) -> None:
        """The word becomes this."""
        if key in self.cells or self._has_room(key):
            self.cells[key] = word

    def count(self, key: KeyItems) -> None:
        """Add 1 to it."""
        self.set(key, (self.cells.get(key, 0) + 1) & _WORD)

    def _cell(self, cell: object) -> list[int]:
        assert isinstance(cell, int)
        return [cell]

    def _begin(self, key: KeyItems, cell: list[int]) -> None:
        self.cells[key] = cell[0] if cell else 0


class CountMap(ValueMap):
    """How often, at each key."""

    __slots__ = ()

    def count(self, key: KeyItems) -> None:
        """Once more."""
        now = self.cells.get(key)
        if now is not None:
            self.cells[key] = now + 1
        elif self._has_room(key):
            self.cells[key] = 1


class WordsMap(HeldMap):
    """One to which words are added, signed or not."""

    __slots__ = ("_signed",)

    def __init__(self, definition: MapDefinition, room: MapRoom) -> None:
        super().__init__(definition, room)
        self._signed = definition.signed


class AddingMap(WordsMap):
    """One to which they are added whenever that is."""

    __slots__ = ()

    @abstractmethod
    def add(self, key: KeyItems, word: int) -> None:
        """Add a word at a key."""


class CellMap(AddingMap):
    """One with a cell of always the same size for each key."""

    __slots__ = ()

    def add(self, key: KeyItems, word: int) -> None:
        """Add a word at a key."""
        value = as_signed(word) if self._signed else word
        if key in self.cells or self._has_room(key):
            self._add(key, value)

    @abstractmethod
    def _add(self, key: KeyItems, value: int) -> None:
        """Add a word at a key that is there, or for which there is room."""


class SumMap(CellMap):
    """The sum at each key."""

    __slots__ = ()
    cells: dict[KeyItems, int]  # type: ignore[assignment]

    def _add(self, key: KeyItems, value: int) -> None:
        self.cells[key] = self.cells.get(key, 0) + value

    def _cell(self, cell: object) -> list[int]:
        assert isinstance(cell, int)
        return halves(cell)

    def _begin(self, key: KeyItems, cell: list[int]) -> None:
        self.cells[key] = whole(cell, signed=self._signed) if cell else 0


class ExtremeMap(CellMap):
    """The least or the greatest word at each key."""

    __slots__ = ("_choose",)
    cells: dict[KeyItems, int | None]  # type: ignore[assignment]

    def __init__(self, definition: MapDefinition, room: MapRoom) -> None:
        super().__init__(definition, room)
        self._choose = min if definition.kind == "min" else max

    def _add(self, key: KeyItems, value: int) -> None:
        now = self.cells.get(key)
        self.cells[key] = value if now is None else self._choose(now, value)

    def _cell(self, cell: object) -> list[int]:
        assert cell is None or isinstance(cell, int)
        return [] if cell is None else [cell & _WORD]

    def _begin(self, key: KeyItems, cell: list[int]) -> None:
        value = as_signed(cell[0]) if cell and self._signed else cell[0] if cell else None
        self.cells[key] = value


class StatsMap(CellMap):
    """How many, their sum, the least and the greatest; for an ``avg``, the first two."""

    __slots__ = ("_extremes",)
    cells: dict[KeyItems, list[int]]  # type: ignore[assignment]
    BYTES = 256

    def __init__(self, definition: MapDefinition, room: MapRoom) -> None:
        super().__init__(definition, room)
        self._extremes = definition.kind == "stats"

    def _add(self, key: KeyItems, value: int) -> None:
        cell = self.cells.get(key)
        if not cell:
            self.cells[key] = [1, value, value, value]
            return
        cell[0] += 1
        cell[1] += value
        if value < cell[2]:
            cell[2] = value
        elif value > cell[3]:
            cell[3] = value

    def _cell(self, cell: object) -> list[int]:
        assert isinstance(cell, list)
        if not cell:
            return []
        count, total, least, most = cell
        extremes = [least & _WORD, most & _WORD] if self._extremes else []
        return [count, *halves(total), *extremes]

    def _begin(self, key: KeyItems, cell: list[int]) -> None:
        if not cell:
            self.cells[key] = []
            return
        extremes = [as_signed(word) if self._signed else word for word in cell[3:]] or [0, 0]
        self.cells[key] = [cell[0], whole(cell[1:3], signed=self._signed), *extremes]


class BucketedMap(WordsMap):
    """One with a number in each of some buckets, at each key."""

    __slots__ = ()
    cells: dict[KeyItems, dict[int, int]]  # type: ignore[assignment]
    BYTES = 232

    def _give_up(self, buckets: int) -> None:
        self._give(buckets * BUCKET_BYTES)


class BucketMap(BucketedMap, AddingMap):
    """How many in each bucket, at each key."""

    __slots__ = ("_arguments", "_plain", "_powers")

    def __init__(self, definition: MapDefinition, room: MapRoom) -> None:
        super().__init__(definition, room)
        self._arguments = definition.arguments
        self._powers = definition.kind == "hist"
        self._plain = self._powers and definition.arguments == (0,)

    def add(self, key: KeyItems, word: int) -> None:
        """Count a word in its bucket."""
        value = as_signed(word) if self._signed else word
        if self._plain and value >= 0:
            bucket = value.bit_length()  # as ``power_bucket`` says, without a call
        elif self._powers:
            bucket = power_bucket(value, *self._arguments)
        else:
            bucket = linear_bucket(value, *self._arguments)
        try:
            self.cells[key][bucket] += 1
        except KeyError:
            self._begin_bucket(key, bucket)

    def _begin_bucket(self, key: KeyItems, bucket: int) -> None:
        """The first word in a bucket, maybe the first at its key."""
        cell = self.cells.get(key)
        if cell is None:
            if not self._has_room(key):
                return
            cell = self.cells[key] = {}
        if self._take(BUCKET_BYTES):
            cell[bucket] = 1

    def _cell(self, cell: object) -> list[int]:
        assert isinstance(cell, dict)
        return [number for pair in sorted(cell.items()) for number in pair]

    def _begin(self, key: KeyItems, cell: list[int]) -> None:
        self._give_up(len(self.cells.get(key, ())))
        pairs = zip(cell[::2], cell[1::2], strict=True)
        self.cells[key] = {n: count for n, count in pairs if self._take(BUCKET_BYTES)}


class SeriesMap(BucketedMap):
    """The sum in each of the latest intervals, at each key."""

    __slots__ = ("_interval", "_most")

    def __init__(self, definition: MapDefinition, room: MapRoom) -> None:
        super().__init__(definition, room)
        milliseconds, self._most = definition.arguments
        self._interval = milliseconds * _NS

    def add_at(self, key: KeyItems, word: int, now: int) -> None:
        """Add a word in the interval that it is ``now``."""
        value = as_signed(word) if self._signed else word
        cell = self.cells.get(key)
        if cell is None:
            if not self._has_room(key):
                return
            cell = self.cells[key] = {}
        interval = now // self._interval
        if interval in cell:
            cell[interval] += value
            return
        over = [each for each in cell if each <= interval - self._most]
        for each in over:
            del cell[each]
        self._give_up(len(over))
        if self._take(BUCKET_BYTES):
            cell[interval] = value

    def _cell(self, cell: object) -> list[int]:
        assert isinstance(cell, dict)
        return [each for n, total in sorted(cell.items()) for each in (n, *halves(total))]

    def _begin(self, key: KeyItems, cell: list[int]) -> None:
        self._give_up(len(self.cells.get(key, ())))
        self.cells[key] = {
            cell[at]: whole(cell[at + 1 : at + 3], signed=self._signed)
            for at in range(0, len(cell), 3)
            if self._take(BUCKET_BYTES)
        }


_CLASSES: Final[dict[str, type[HeldMap]]] = {
    "value": ValueMap,
    "count": CountMap,
    "sum": SumMap,
    "min": ExtremeMap,
    "max": ExtremeMap,
    "avg": StatsMap,
    "stats": StatsMap,
    "hist": BucketMap,
    "lhist": BucketMap,
    "tseries": SeriesMap,
}


def held_maps(definitions: Iterable[MapDefinition], above: MapRoom | None) -> list[HeldMap]:
    """The maps of a program, empty; they take their room from that ``above``."""
    room = MapRoom(PROGRAM_BYTES, above)
    return [_class_of(each)(each, room) for each in definitions]


def _class_of(one: MapDefinition) -> type[HeldMap]:
    return CellsMap if one.words > 1 else _CLASSES[one.kind]


def key_string(
    context: Context, address: int, length: int, used: int
) -> tuple[bytes, int | None, bool]:
    """The string for a key, of which others have ``used`` bytes.

    Then what was in the way, if anything: the address that could not be read, or (and it is true
    behind that) the length of a string that does not fit.
    """
    room = STRING_BYTES - used
    wanted = min(length, room + 1)
    data = read_some(context, address, wanted)
    end = data.find(0)
    if end >= 0:
        return data[:end], None, False
    if len(data) < wanted:
        return b"", address + len(data), False
    return (b"", length, True) if len(data) > room else (data, None, False)


def key_stack(context: Context, depth: int, used: int) -> bytes:
    """The stack for a key, of which strings have ``used`` bytes: as many frames as have room."""
    return stack_item(context.user_stack(depth), STRING_BYTES - used)


def text_words(context: Context, address: int, length: int, count: int) -> tuple[int, ...]:
    """The string at an address in so many words: as much of it as can be read, zeros behind it."""
    data = read_some(context, address, min(length, 8 * count)).partition(b"\0")[0]
    return struct.unpack(f"<{count}Q", data.ljust(8 * count, b"\0"))


def text_of(words: Sequence[int]) -> bytes:
    """The string in these words."""
    return struct.pack(f"<{len(words)}Q", *words).partition(b"\0")[0]
