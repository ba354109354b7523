"""``dprobe remove``: take programs out."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dprobe.commands import complete, options
from dprobe.commands import pids as processes
from dprobe.lib.connection import Connection
from dprobe.lib.errors import UserError
from dprobe.lib.summary import of_programs, plain
from dprobe.view import probes
from dprobe.view.maps import map_lines
from dprobe.view.tables import encoded, width_of
from dprobed.wire import messages


@click.command(
    "remove",
    cls=processes.PidsCommand,
    epilog="""\b
examples:
  dprobe remove 3                  # by the number of `dprobe programs`
  dprobe remove alloc opens        # by name
  dprobe remove --module libc.so.6 -p 1234
  dprobe remove --all
""",
)
@click.option("--module", metavar="NAME", help="Programs for this module.")
@click.option("--id", "program_id", type=int, metavar="N", help="Programs with this header `id`.")
@processes.only
@click.option("--all", "everything", is_flag=True, help="All programs, of every process.")
@options.json
@click.argument("programs", nargs=-1, shell_complete=complete.programs)
@click.pass_context
def remove_command(
    ctx: click.Context,
    programs: tuple[str, ...],
    module: str | None,
    program_id: int | None,
    pids: tuple[int, ...],
    everything: bool,
    json: bool,
) -> None:
    """Take programs out, and show their last counters."""
    narrowed = bool(programs or pids) or (module, program_id) != (None, None)
    if everything == narrowed:
        raise click.UsageError("say which programs, or --all", ctx)
    selects = options.selections(programs, pids, module=module, program_id=program_id)
    with options.running(ctx.obj) as daemon:
        if len(selects) > 1:
            _refuse_missing(daemon, selects)
        answers = [
            daemon.request(
                lambda number, select=select: messages.Remove(id=number, select=select),  # type: ignore[misc]
                messages.Removed,
            )
            for select in selects
        ]
    probes.show_all(
        [each for answer in answers for each in answer.deployments],
        [each for answer in answers for each in answer.probes],
        [each for answer in answers for each in answer.earlier],
        [each for answer in answers for each in answer.variables],
        json=json,
    )
    maps = of_programs([each for answer in answers for each in answer.maps])
    if json:
        for each in maps:
            print(encoded("map", plain(each)))
    elif maps:
        print("\n" + "\n".join(map_lines(maps, width_of(1))))
    stays = {why: None for answer in answers for why in answer.stays.values()}
    for why in stays:
        options.complain(why)
    if stays:
        ctx.exit(2)


def _refuse_missing(daemon: Connection, selects: Sequence[messages.Select]) -> None:
    """Raise UserError where there is nothing to remove, so that all is removed or nothing."""
    for select in selects:
        answer = daemon.request(
            lambda number, select=select: messages.Programs(id=number, select=select),  # type: ignore[misc]
            messages.Listing,
        )
        if not answer.programs and not answer.deployments:
            program = "" if select.number is None else f" {select.number}"
            where = "" if select.pid is None else f" in process {select.pid}"
            raise UserError(
                f"there is no program{program or f' {select.label}' * bool(select.label)}{where}; "
                "`dprobe programs` lists them"
            )
