"""Where in its source text a probe names its place, for messages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from dprobed.program.model import ProbeDefinition, Program

#: The line with which a probe definition begins, and its value.
_BEGIN: Final = re.compile(r"\s*(?:offset|address)\s*=\s*(?P<value>.*?)\s*(?://.*|/\*.*)?")


class SourcePlace(NamedTuple):
    """``line`` and ``column`` from 1, or 0 where nothing but ``file`` is known."""

    file: str
    line: int
    column: int
    text: str
    length: int


def place_of(program: Program, probe: ProbeDefinition, source: str) -> SourcePlace:
    """The value of the probe's ``offset`` or ``address``, in the file that has it.

    ``source``: the file that the program was read from. Instructions know their lines; the
    definition begins above the first of them. Of a ``.dpb`` file whose source is not here, or has
    changed, only the number of the probe is known.
    """
    nowhere = SourcePlace(f"{source}: probe {probe.index + 1}", 0, 0, "", 1)
    at = next(((file, line) for offset, file, line in program.lines if offset == probe.entry), None)
    if at is None:
        return nowhere
    name = program.sources[at[0]]
    try:
        lines = Path(name).read_text(errors="replace").splitlines()
    except (OSError, ValueError):
        return nowhere
    for number in range(min(at[1], len(lines)), 0, -1):
        match = _BEGIN.fullmatch(lines[number - 1])
        if match is not None:
            start, end = match.span("value")
            text = lines[number - 1]
            return SourcePlace(name, number, start + 1, text, max(1, end - start))
    return nowhere
