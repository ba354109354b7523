"""What maps had in processes that have ended: told of once, and changed here from then on."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from dprobed.wire import messages


class MapChange(msgspec.Struct, frozen=True):
    """Keys of a map (of values) that were set, and those that are gone."""

    name: str
    entries: list[messages.MapEntry]
    gone: list[list[int | str]]


def forgotten(
    told: Iterable[messages.MapInfo], names: Collection[str], *, keep_keys: bool
) -> list[messages.MapInfo]:
    """Without what is in maps of these names; ``keep_keys``: with their keys alone."""
    found = []
    for each in told:
        if each.map not in names:
            found.append(each)
        elif keep_keys:
            entries = [messages.MapEntry(old.key, []) for old in each.entries]
            found.append(msgspec.structs.replace(each, lost=0, entries=entries))
    return found


def changed(told: Iterable[messages.MapInfo], change: MapChange) -> list[messages.MapInfo]:
    """With the keys of a map that were set, and without those that are gone."""
    named = {tuple(key) for key in change.gone} | {tuple(each.key) for each in change.entries}
    found = []
    for each in told:
        if each.map == change.name:
            kept = [old for old in each.entries if tuple(old.key) not in named]
            each = msgspec.structs.replace(each, entries=[*kept, *change.entries])
        found.append(each)
    return found
