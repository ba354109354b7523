"""Whether the facilities that programs hand over to (`exit NAME`) are there, and take it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from dprobe.lib.connection import Connection, running
from dprobe.lib.errors import DprobeError
from dprobe.lib.programs import Loaded
from dprobed.printable import readable
from dprobed.program.exits import FACILITIES
from dprobed.program.model import Diagnostic, Program
from dprobed.wire import messages

_NO_SESSION: Final = "no trace session runs, so that what ends by `exit trace` is in no file"


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


def untaken(connection: Connection, programs: Sequence[Loaded]) -> Iterator[str]:
    """What to say of programs that hand over to a facility of which nobody takes anything."""
    asked = {
        (facility, each.upload.label) for each in programs for facility in each.program.facilities
    }
    if not asked:
        return
    known: Sequence[messages.HandlerInfo] = ()
    if not connection.private:  # such a one has its own, and always armed
        known = connection.request(
            lambda number: messages.Handlers(id=number), messages.HandlerListing
        ).handlers
    for facility, label in sorted(asked, key=str):
        handlers = [
            each for each in known if each.alive and facility in (each.facility, each.number)
        ]
        if any(each.armed for each in handlers):
            continue
        if handlers:
            names = " ".join(each.handler for each in handlers)
            then = f"`dprobe handlers arm {names}` lets it"
            yield f"{label}: nothing takes `exit {facility}`, which is disarmed; {then}"
        elif facility in ("trace", FACILITIES["trace"]):
            begin = "`dprobe trace start FOLDER` begins one"
            if connection.private:
                begin = "a dprobed that runs can have one (`dprobe trace start`)"
            yield f"{label}: {_NO_SESSION}; {begin}"
