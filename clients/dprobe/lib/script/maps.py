"""The maps of a script: what processes have in them and what blocks have, as one.

Behind a map of the script stand maps of its programs (``Part``), in each process and in the blocks'
program. What is counted is added up over all of these. A value is the process's; of several
processes (and of the blocks, which hand what they set to all processes) the one that was set last
is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from dprobe.lib.script.decode import Decoder
from dprobe.lib.script.values import (
    Average,
    BucketCounts,
    MapEntry,
    MapValue,
    Series,
    Shown,
    ShownMap,
)
from dprobe.lib.summary import definition_of
from dprobe.lib.told_maps import MapChange
from dprobed.program.bt import bundle as bt
from dprobed.program.maps import (
    STACK_MARK,
    VALUE,
    Item,
    MapContents,
    MapDefinition,
    as_signed,
    whole,
)
from dprobed.record.maps import merged
from dprobed.record.strings import meant, told_apart
from dprobed.wire import messages

if TYPE_CHECKING:
    from dprobed.program.exec.maps import HeldMap, KeyItems

#: Without keys these are there from the beginning, with nothing counted yet.
_FROM_THE_START: Final = ("count", "sum", "avg", "stats", "min", "max")


class NotedCells(dict["KeyItems", object]):
    """The cells of a map; ``named``: the keys that were set or deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.named: dict[KeyItems, None] = {}

    def __setitem__(self, key: KeyItems, cell: object) -> None:
        """A key is set."""
        self.named[key] = None
        super().__setitem__(key, cell)

    def pop(self, key: KeyItems, default: object = None) -> object:
        """A key is deleted."""
        self.named[key] = None
        return super().pop(key, default)


class ScriptMaps:
    """The maps of one script. ``held``: those of its blocks, by name."""

    def __init__(self, bundle: bt.Bundle, decoder: Decoder, held: dict[str, HeldMap]) -> None:
        self._bundle: Final = bundle
        self._decoder: Final = decoder
        self._held: Final = held
        for each in held.values():
            if each.definition.kind == VALUE:
                each.cells = NotedCells()
        #: The only process that the programs are in, 0: there are several.
        self.whose = 0

    def names(self, index: int) -> tuple[str, ...]:
        """The maps of programs that a map of the script is."""
        return tuple(part.name for part in self._bundle.maps[index].parts)

    def lost(self, index: int) -> int:
        """How many updates of the blocks found no room in a map."""
        return sum(self._held[name].lost for name in self.names(index) if name in self._held)

    def shown(self, index: int, infos: Iterable[messages.MapInfo]) -> ShownMap:
        """A map as it is printed. ``infos``: what processes have, whichever maps they are of."""
        script_map = self._bundle.maps[index]
        cells: dict[str, tuple[tuple[Shown, ...], list[int]]] = {}
        definition = MapDefinition(script_map.name, script_map.kind, script_map.arguments)
        infos = list(infos)
        for part in script_map.parts:
            for of, items, cell in self._cells(part, infos):
                definition = of
                key = self._decoder.key(script_map, part, items, self.whose)
                known = cells.get(repr(key))
                both = cell if known is None else merged(of, known[1], cell)
                cells[repr(key)] = key, both
        entries = [
            MapEntry(key, self._value(script_map, definition, cell)) for key, cell in cells.values()
        ]
        if not entries and not script_map.key and script_map.kind in _FROM_THE_START:
            entries = [MapEntry((), self._value(script_map, definition, []))]
        return ShownMap(
            script_map.name,
            script_map.kind,
            entries,
            bool(script_map.key),
            definition.arguments or script_map.arguments,
        )

    def _cells(
        self, part: bt.Part, infos: Sequence[messages.MapInfo]
    ) -> Iterator[tuple[MapDefinition, tuple[int | str, ...], list[int]]]:
        """All that is in a part: the blocks' first."""
        of_part = [info for info in infos if info.map == part.name]
        held = self._held.get(part.name)
        if held is not None and (held.definition.kind != VALUE or not of_part):
            for items, cell in held.contents().entries:
                yield held.definition, tuple(map(_travelling, items)), cell
        for info in of_part:
            for entry in info.entries:
                yield definition_of(info), tuple(map(_token, entry.key)), entry.cell

    def _value(self, script_map: bt.Map, definition: MapDefinition, cell: list[int]) -> MapValue:
        match script_map.kind:
            case "hist" | "lhist":
                return BucketCounts(dict(zip(cell[::2], cell[1::2], strict=True)))
            case "avg" | "stats":
                if not cell:
                    return Average(0, 0)
                return Average(cell[0], whole(cell[1:3], signed=definition.signed))
            case "tseries":
                return Series(
                    {
                        cell[at]: whole(cell[at + 1 : at + 3], signed=definition.signed)
                        for at in range(0, len(cell), 3)
                    }
                )
            case "count":
                return cell[0] if cell else 0
            case "sum":
                return whole(cell, signed=definition.signed) if cell else 0
            case "min" | "max":
                word = cell[0] if cell else 0
                return as_signed(word) if definition.signed else word
        words = cell or [0] * definition.words
        return self._decoder.cell(script_map.value, words[script_map.timed :], self.whose)

    # -- for blocks -----------------------------------------------------------------------------

    def load(self, infos: Sequence[messages.MapInfo]) -> None:
        """Give the blocks the values that processes have."""
        for name, held in self._held.items():
            of_part = [info for info in infos if info.map == name]
            if held.definition.kind != VALUE or not of_part:
                continue
            cells: dict[tuple[int | str, ...], list[int]] = {}
            for entry in (entry for info in of_part for entry in info.entries):
                key = tuple(entry.key)
                cells[key] = merged(held.definition, cells.get(key, []), entry.cell)
            held.load(
                MapContents(0, [(list(map(_held_item, key)), cell) for key, cell in cells.items()])
            )
            if isinstance(held.cells, NotedCells):
                held.cells.named.clear()

    def changes(self) -> list[MapChange]:
        """What the blocks have changed, since they were asked last, in maps of values that programs
        use."""
        return [
            change
            for each in self._bundle.maps
            if each.kind == VALUE and each.hits and each.blocks
            for part in each.parts
            if part.name in self._held
            for change in _change(self._held[part.name])
        ]

    def delete(
        self, index: int, key: tuple[Shown, ...], infos: Sequence[messages.MapInfo]
    ) -> list[MapChange]:
        """Forget a key of the blocks' maps; what is to be changed in those of processes."""
        script_map = self._bundle.maps[index]
        changes = []
        for part in script_map.parts:

            def meant(items: Sequence[int | str], part: bt.Part = part) -> bool:
                tokens = tuple(map(_token, items))
                return self._decoder.key(script_map, part, tokens, self.whose) == key

            held = self._held.get(part.name)
            if held is not None:
                there = [list(items) for items, _ in held.contents().entries]
                held.change([], [each for each in there if meant(_key(each))])
            entries = [each for info in infos if info.map == part.name for each in info.entries]
            gone = {tuple(each.key): each.key for each in entries if meant(each.key)}
            if gone:
                changes.append(MapChange(part.name, [], list(gone.values())))
        return changes

    def forget(self, index: int, *, keep_keys: bool) -> None:
        """Forget what the blocks have in a map; ``keep_keys``: begin anew at each key."""
        for name in self.names(index):
            if name in self._held:
                held = self._held[name]
                held.zero() if keep_keys else held.clear()

    def number(self, entry: MapEntry) -> int:
        """What a cast of an entry's value to an integer gives."""
        value = entry.value
        if isinstance(value, Average):
            return value.average
        if isinstance(value, BucketCounts):
            return sum(value.buckets.values())
        return value if isinstance(value, int) else getattr(value, "value", 0)


def _change(held: HeldMap) -> Iterator[MapChange]:
    """What was changed in a map since it was asked last, if anything was."""
    assert isinstance(held.cells, NotedCells)
    named = held.cells.named
    if not named:
        return
    there = [key for key in named if key in held.cells]
    cells = {_key(items): cell for items, cell in held.contents().entries}
    yield MapChange(
        held.definition.name,
        [messages.MapEntry(list(_key(_items(key))), cells[_key(_items(key))]) for key in there],
        [list(_key(_items(key))) for key in named if key not in held.cells],
    )
    named.clear()


def _items(key: KeyItems) -> Sequence[Item]:
    return key if isinstance(key, tuple) else (key,)


def _key(items: Sequence[Item]) -> tuple[int | str, ...]:
    return tuple(map(_travelling, items))


def _travelling(item: Item) -> int | str:
    """An item of a key as the daemon sends it."""
    if isinstance(item, bytes):
        if item.startswith(STACK_MARK):
            return item.decode("latin-1")
        return told_apart(item)
    return item


def _held_item(item: int | str) -> Item:
    """An item of a key as the blocks' program has it."""
    if isinstance(item, str):
        return item.encode("latin-1") if item.startswith(STACK_MARK.decode()) else meant(item)
    return item


def _token(item: int | str) -> int | str:
    """An item of a key as a record has it: bytes that are not UTF-8 escaped as Python does."""
    if isinstance(item, int) or item.startswith(STACK_MARK.decode()):
        return item
    return meant(item).decode("utf-8", "surrogateescape")
