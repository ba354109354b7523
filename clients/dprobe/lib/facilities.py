"""Whether the facilities that programs hand over to (`exit NAME`) are there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from dprobe.lib.connection import running
from dprobe.lib.errors import DprobeError
from dprobed.printable import readable
from dprobed.program.exits import FACILITIES
from dprobed.program.model import Diagnostic, Program


def unknown(socket: Path | None, program: Program, path: str) -> tuple[Diagnostic, ...]:
    """What is wrong with an `exit NAME`: nobody handles that.

    Asked is the running daemon; where none runs, it must be one that every daemon has.
    """
    there: Mapping[str, int] = FACILITIES
    if not {*program.facilities} - {*there, *there.values()}:
        return ()
    with contextlib.suppress(DprobeError), running(socket) as daemon:
        there = daemon.welcome.facilities
    have = ", ".join(f"{name} ({number})" for name, number in there.items())
    faults = []
    for facility in program.facilities:
        if facility not in there and facility not in there.values():
            at = next(iter(program.facility_places(facility)), None)
            place = (readable(path), 0, 0) if at is None else (at.file, at.line, at.column)
            message = f"no facility {facility} is registered"
            faults.append(Diagnostic(*place, message, f"registered: {have}"))
    return tuple(faults)
