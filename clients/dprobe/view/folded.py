"""Maps with stacks as keys as *folded stacks*: a line each, for who draws flame graphs, or drawn.

``outermost;…;innermost 42``, as flamegraph.pl, inferno and speedscope read it. What else is in a
key stands before its stack, as frames that called all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dprobe.lib.errors import UserError
from dprobe.lib.summary import SummaryMap
from dprobed.printable import printable

#: Kinds whose cells are one number that adds up.
KINDS: Final = ("count", "sum", "value")


def folded_lines(maps: Sequence[SummaryMap], top: int | None = None) -> Iterator[str]:
    """All of them, each map's greatest first; ``top``: so many keys of each. Raises UserError."""
    for each in maps:
        for names, value in _stacks(each, top):
            # A semicolon in a name would end it.
            yield f"{';'.join(name.replace(';', ':') for name in names)} {value}"


def drawn(maps: Sequence[SummaryMap], top: int | None, *, page: bool) -> str:
    """One map, of whatever processes, as a flame graph (``flame``); raises UserError."""
    from dprobe.view import flame

    names = list(dict.fromkeys(each.map for each in maps))
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise UserError(f"a flame graph shows one map; name one of these: {known}")
    stacks: list[tuple[list[str], int]] = []
    below = 0
    for each in maps:
        of = [f"process {each.pid}"] if each.pid is not None else []
        for frames, value in _stacks(each, top):
            if value > 0:
                stacks.append((of + frames, value))
            else:
                below += 1
    if not stacks:
        raise UserError(f"there is nothing in {names[0]} that could be drawn")
    title = names[0] if not below else f"{names[0]} (without {below} sums below 0)"
    lost = sum(each.lost + each.left_out for each in maps)
    title += f", {lost} lost" if lost else ""
    draw = flame.html if page else flame.svg
    return draw(title, names[0], stacks)


def _stacks(one: SummaryMap, top: int | None) -> Iterator[tuple[list[str], int]]:
    """What is at each key of a map, with the names of its frames, the outermost first; raises
    UserError."""
    if one.kind not in KINDS:
        kinds = " and ".join(KINDS)
        raise UserError(f"{one.map} is a {one.kind}: {kinds} can be folded; name one of these")
    for entry in one.entries[:top]:
        if not any(isinstance(item, dict) for item in entry["key"]):
            raise UserError(f"{one.map} has no stacks in its keys: `key ustack` adds one")
        if entry["value"]:
            yield list(_frames(entry["key"])), entry["value"]


def _frames(key: Sequence[Any]) -> Iterator[str]:
    for item in key:
        if not isinstance(item, dict):
            yield printable(str(item))
    for item in key:
        if isinstance(item, dict):
            for frame in reversed(item["ustack"]):
                yield printable(_function(frame))
                for inlined in reversed(frame.get("inlined", ())):
                    yield printable(inlined["function"])


def _function(frame: Mapping[str, Any]) -> str:
    if frame.get("signal"):
        return "<signal handler called>"
    if "function" in frame:
        return str(frame["function"])
    if "module" in frame:
        return f"{str(frame['module']).rpartition('/')[2]}+{frame['offset']:#x}"
    return f"{frame['address']:#x}"
