"""``dprobe programs``: the programs that are in."""

from __future__ import annotations

from pathlib import Path

import click

from dprobe.commands import options
from dprobe.lib.connection import running
from dprobe.view import probes
from dprobe.view.tables import Listing, show
from dprobed.wire import messages

_LISTING = Listing(
    "program",
    (
        ("no", "number"),
        ("program", "program"),
        ("id", "program_id"),
        ("pid", "pid"),
        ("module", "module"),
        ("major", "major"),
        ("probes", "probes"),
        ("vars", "vars"),
        ("gvars", "gvars"),
        ("kept", "kept"),
    ),
    messages.ProgramInfo.__struct_fields__,
)


@click.command(
    "programs",
    epilog="""\b
example:
  dprobe programs --json
""",
)
@options.pid_option
@options.listing(_LISTING, probes.DEPLOYMENTS)
@click.pass_obj
def programs_command(
    socket: Path | None, pid: int | None, json: bool, only: tuple[str, ...]
) -> None:
    """List the programs that are in, with their numbers."""
    with running(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.Programs(id=number, select=messages.Select(pid=pid)),
            messages.Listing,
        )
    if answer.deployments:
        probes.show_deployments(answer.deployments, json=json, only=only)
        if not answer.programs:
            return
        if not json:
            print()
    show(answer.programs, _LISTING, json=json, empty=probes.NOTHING, only=only)
