"""What maps had in processes that have ended: told of once, and changed here from then on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from dprobed.wire import messages


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


def changed(
    told: Iterable[messages.MapInfo],
    name: str,
    entries: Sequence[messages.MapEntry],
    gone: Iterable[Sequence[int | str]],
) -> list[messages.MapInfo]:
    """With these keys of a map of values, and without those that are ``gone``."""
    named = {tuple(key) for key in gone} | {tuple(each.key) for each in entries}
    found = []
    for each in told:
        if each.map == name:
            kept = [old for old in each.entries if tuple(old.key) not in named]
            each = msgspec.structs.replace(each, entries=[*kept, *entries])
        found.append(each)
    return found
