"""Programs are checked by the daemon before the process that they are for is touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dprobe.lib.connection import Connection
from dprobe.lib.errors import UserError
from dprobe.lib.programs import Loaded
from dprobed.wire import messages

#: What is said after places that are refused.
MISSING_WARN: Final = "(`--missing warn` goes on without such probes)"


def check(connection: Connection, pid: int, programs: Sequence[Loaded], missing: str) -> None:
    """Ask whether programs can be put into a process; raises UserError where they cannot.

    ``missing`` is ``refuse`` where a place that is in no mapped file is a reason.
    """
    uploads = [each.upload for each in programs]
    answer = connection.request(
        lambda number: messages.Check(
            id=number, pid=pid, programs=uploads, places=missing == "refuse"
        ),
        messages.Checked,
    )
    if answer.missing:
        faults = "\n".join(_fault(programs[each.program], each) for each in answer.missing)
        raise UserError(f"{faults}\n{MISSING_WARN}")


def _fault(loaded: Loaded, missing: messages.MissingPlace) -> str:
    """What is wrong with a place, with the line in which it is written."""
    # Imported where there is a fault: they read ELF files.
    from dprobe.lib.places import diagnostic
    from dprobed.binary.errors import LocationError

    probe = next(each for each in loaded.program.probes if each.index == missing.probe)
    fault = LocationError(missing.message, missing.hint, tuple(missing.candidates))
    return str(diagnostic(loaded.program, probe, fault, loaded.path))
