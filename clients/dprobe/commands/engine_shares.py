"""What share of a module's code each engine can serve, as its file tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from iced_x86 import Decoder

from dprobe.view.tables import Listing
from dprobed.arch.x86_64.paging import NEAR
from dprobed.arch.x86_64.placeable import LONGEST, ModuleSpan, Way, way
from dprobed.binary.file import Binary

LISTING: Final = Listing(
    "engine_share",
    (
        ("of", "of"),
        ("inline", "inline"),
        ("plain", "plain"),
        ("punned", "punned"),
        ("signal", "signal"),
        ("trap", "trap"),
        ("none", "none"),
        ("all", "count"),
    ),
    ("module", "reasons"),
)
#: Where the heap begins, and how far it may go, behind an executable.
_HEAP_ROOM: Final = 1 << 28
#: Bytes behind an instruction that a punned jump may need as they are.
_TAIL: Final = 16
_REASONS: Final = 5


def shares(elf: Binary) -> Iterator[dict[str, Any]]:
    """The functions' entries, and all instructions: how many, and percent by engine."""
    span = _span(elf)
    entries = {symbol.value for symbol in elf.symbols.code() if symbol.size}
    ways: dict[str, Counter[Way]] = {"function entries": Counter(), "instructions": Counter()}
    why_not: dict[str, Counter[str]] = {each: Counter() for each in ways}
    for section in elf.sections:
        if not section.executable:
            continue
        code = elf.content(section)
        for instruction in Decoder(64, code, ip=section.address):
            at = instruction.ip - section.address
            found, why = way(code[at : at + LONGEST + _TAIL], instruction, span)
            of = ["instructions"]
            if instruction.ip in entries:
                of.append("function entries")
            for each in of:
                ways[each][found] += 1
                if why:
                    why_not[each][why] += 1
    for of_what, found_ways in ways.items():
        yield _row(of_what, found_ways, why_not[of_what])


def reasons(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Why not all of it is by a jump, as lines for people."""
    for row in rows:
        for why, count in row["reasons"].items():
            yield f"{count} of {row['of']}: {why}"


def _row(of: str, found: Counter[Way], why_not: Counter[str]) -> dict[str, Any]:
    total = found.total()

    def share(*ways: Way) -> str:
        return f"{100 * sum(found[each] for each in ways) / total:.1f} %" if total else ""

    return {
        "of": of,
        "inline": share(Way.JUMP, Way.PUN),
        "plain": share(Way.JUMP),
        "punned": share(Way.PUN),
        "signal": share(Way.JUMP, Way.PUN, Way.SIGNAL),
        "trap": share(Way.JUMP, Way.PUN, Way.SIGNAL, Way.TRAP),
        "none": share(Way.NONE),
        "count": total,
        "reasons": dict(why_not.most_common(_REASONS)),
    }


def _span(elf: Binary) -> ModuleSpan:
    """Where the module is: at its own addresses, or anywhere far from both ends."""
    start = min(segment.vaddr for segment in elf.segments)
    end = max(segment.vaddr + segment.memory_size for segment in elf.segments)
    lowest = 1 << 20 if elf.kind in ("exec", "static") else start - NEAR
    return ModuleSpan(start, end, lowest, 0 if elf.kind == "dyn" else _HEAP_ROOM)
