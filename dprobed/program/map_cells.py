"""Keys and cells of maps as C and native code have them: packed keys, and all words of a cell.

A packed key is, for each item, a word ``IS_WORD`` and the word itself, or the number of bytes and
the bytes, with zeros up to a whole number of words. Of a cell ``told`` makes what travels
(``maps``).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from dprobed.program.maps import Item, MapDefinition

IS_WORD: Final = (1 << 64) - 1
#: Of a ``tseries``: the words of an interval.
PART_WORDS: Final = 3

_ONE: Final = Struct("<Q")


def packed_key(items: Sequence[Item]) -> bytes:
    """A key as it stands in an entry."""
    found = bytearray()
    for item in items:
        if isinstance(item, int):
            found += _ONE.pack(IS_WORD) + _ONE.pack(item)
        else:
            found += _ONE.pack(len(item)) + item.ljust(len(item) + 7 & ~7, b"\0")
    return bytes(found)


def key_items(data: bytes) -> list[Item]:
    """The items of a key."""
    found: list[Item] = []
    at = 0
    while at + 8 <= len(data):
        (size,) = _ONE.unpack_from(data, at)
        at += 8
        if size == IS_WORD:
            if at + 8 > len(data):
                break
            found.append(_ONE.unpack_from(data, at)[0])
            at += 8
        else:
            found.append(data[at : at + size])
            at += size + 7 & ~7
    return found


def told(definition: MapDefinition, words: Sequence[int]) -> list[int]:
    """The words that a cell has here, as they are sent."""
    match definition.kind:
        case "value" | "count" | "sum":
            return list(words)
        case "min" | "max":
            return [words[1]] if words[0] else []
        case "avg":
            return list(words[:3]) if words[0] else []
        case "stats":
            return list(words) if words[0] else []
        case "tseries":
            return _latest(definition, words)
        case _:
            pairs = [(n - 1, count) for n, count in enumerate(words) if count]
            return [number for pair in pairs for number in pair]


def _latest(definition: MapDefinition, words: Sequence[int]) -> list[int]:
    """The intervals that are not too old beside the latest."""
    parts = [words[at : at + PART_WORDS] for at in range(1, len(words), PART_WORDS)]
    found = sorted((number - 1, low, high) for number, low, high in parts if number)
    oldest = found[-1][0] - definition.arguments[1] if found else 0
    return [word for part in found if part[0] > oldest for word in part]
