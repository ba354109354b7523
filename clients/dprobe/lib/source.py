"""Where in its source text a probe names its place, for messages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from dprobed.printable import readable
from dprobed.program.model import ProbeDefinition, Program

#: The value of a keyword, up to a comment or the end of the line.
_VALUE: Final = re.compile(r"\S.*?(?=\s*(?://.*|/\*.*)?$)")


class Excerpt(NamedTuple):
    """A place in a source file: ``line`` and ``column`` from 1, or 0 where ``file`` says it all.

    ``text``: the line, empty if it cannot be read; ``length``: of what is meant in it.
    """

    file: str
    line: int
    column: int
    text: str
    length: int


def excerpt(program: Program, probe: ProbeDefinition, path: str) -> Excerpt:
    """The value of the probe's ``offset`` or ``address``, where it is written.

    ``path``: the file that the program was read from. Of one without source text only the number of
    the probe is known.
    """
    place = program.probe_place(probe)
    if place is None:
        return Excerpt(f"{path}: probe {probe.index + 1}", 0, 0, "", 1)
    if not place.column:
        return Excerpt(str(place), 0, 0, "", 1)
    try:
        # The name that a program keeps may have bytes replaced.
        file = path if place.file == readable(path) else place.file
        text = Path(file).read_text(errors="replace").splitlines()[place.line - 1]
    except (OSError, ValueError, IndexError):
        text = ""
    value = _VALUE.match(text, place.column - 1)
    length = len(value[0]) if value is not None else 1
    return Excerpt(place.file, place.line, place.column, text, length)
