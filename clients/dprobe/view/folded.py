"""Maps with stacks as keys as *folded stacks*: a line each, for who draws flame graphs.

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
        if each.kind not in KINDS:
            kinds = " and ".join(KINDS)
            raise UserError(
                f"{each.map} is a {each.kind}: {kinds} can be folded; name one of these"
            )
        for entry in each.entries[:top]:
            if not any(isinstance(item, dict) for item in entry["key"]):
                raise UserError(f"{each.map} has no stacks in its keys: `key ustack` adds one")
            if entry["value"]:
                yield f"{';'.join(_frames(entry['key']))} {entry['value']}"


def _frames(key: Sequence[Any]) -> Iterator[str]:
    for item in key:
        if not isinstance(item, dict):
            yield _name(str(item))
    for item in key:
        if isinstance(item, dict):
            for frame in reversed(item["ustack"]):
                yield _name(_function(frame))
                for inlined in reversed(frame.get("inlined", ())):
                    yield _name(inlined["function"])


def _function(frame: Mapping[str, Any]) -> str:
    if frame.get("signal"):
        return "<signal handler called>"
    if "function" in frame:
        return str(frame["function"])
    if "module" in frame:
        return f"{str(frame['module']).rpartition('/')[2]}+{frame['offset']:#x}"
    return f"{frame['address']:#x}"


def _name(text: str) -> str:
    """As a frame's name: a semicolon would end it."""
    return printable(text).replace(";", ":")
