"""``dprobe programs``: the programs that are in."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from dprobe.commands import options
from dprobe.commands import pids as processes
from dprobe.view import probes
from dprobe.view.tables import Listing, show
from dprobed.durations import text
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
        ("user", "user"),
        ("age", "age"),
        ("ends", "ends"),
        ("ended", "ended"),
    ),
    messages.ProgramInfo.__struct_fields__,
)


@click.command(
    "programs",
    cls=processes.PidsCommand,
    epilog="""\b
example:
  dprobe programs --json
""",
)
@processes.only
@options.listing(_LISTING, probes.DEPLOYMENTS)
@click.pass_obj
def programs_command(
    socket: Path | None, pids: tuple[int, ...], json: bool, only: tuple[str, ...]
) -> None:
    """List the programs that are in, with their numbers."""
    with options.running(socket) as daemon:
        answers = [
            daemon.request(
                lambda number, select=select: messages.Programs(id=number, select=select),  # type: ignore[misc]
                messages.Listing,
            )
            for select in options.selections((), pids)
        ]
    deployments = {one.number: one for each in answers for one in each.deployments}
    programs = [one for each in answers for one in each.programs]
    processes.refuse_missing(pids, (each.pid for each in programs))
    if deployments:
        probes.show_deployments(list(deployments.values()), json=json, only=only)
        if not programs:
            return
        if not json:
            print()
    rows: list[dict[str, object]] = [
        msgspec.to_builtins(each)
        if json
        else {
            **msgspec.to_builtins(each),
            "user": probes.user_name(each.uid),
            "age": text(each.age_seconds),
            "ends": "" if each.left_seconds is None else f"in {text(each.left_seconds)}",
        }
        for each in programs
    ]
    show(rows, _LISTING, json=json, empty=probes.NOTHING, only=only)
