"""What the module says of a map: its keys and cells, as native code has them."""

from __future__ import annotations

from struct import Struct
from typing import Final

from dprobed.program.map_cells import key_items, told
from dprobed.program.maps import Entry, MapDefinition

#: ``struct dprobes_entry``: bytes of the key, words of the cell.
_HEAD: Final = Struct("<II")


def entries(definition: MapDefinition, data: bytes) -> list[Entry]:
    """The entries of a map, behind one another in ``data``."""
    found: list[Entry] = []
    at = 0
    while at < len(data):
        size, count = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        key = key_items(data[at : at + size])
        at += size
        words = Struct(f"<{count}Q").unpack_from(data, at)
        at += 8 * count
        found.append((key, _cell(definition, words)))
    return found


def _cell(definition: MapDefinition, words: tuple[int, ...]) -> list[int]:
    if not words:
        return []
    # Native code has a word more in front of intervals.
    return told(definition, (0, *words) if definition.kind == "tseries" else words)
