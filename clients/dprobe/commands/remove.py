"""``dprobe remove``: take programs out."""

from __future__ import annotations

import click

from dprobe.commands import options
from dprobe.lib.connection import running
from dprobe.view import probes
from dprobed.wire import messages


@click.command(
    "remove",
    epilog="""\b
examples:
  dprobe remove 3                  # by the number of `dprobe programs`
  dprobe remove alloc opens        # by name
  dprobe remove --module libc.so.6 --pid 1234
  dprobe remove --all
""",
)
@click.option("--module", metavar="NAME", help="Programs for this module.")
@click.option("--id", "program_id", type=int, metavar="N", help="Programs with this header `id`.")
@options.pid_option
@click.option("--all", "everything", is_flag=True, help="All programs, of every process.")
@options.json
@click.argument("programs", nargs=-1)
@click.pass_context
def remove_command(
    ctx: click.Context,
    programs: tuple[str, ...],
    module: str | None,
    program_id: int | None,
    pid: int | None,
    everything: bool,
    json: bool,
) -> None:
    """Take programs out, and show their last counters."""
    narrowed = bool(programs) or (module, program_id, pid) != (None, None, None)
    if everything == narrowed:
        raise click.UsageError("say which programs, or --all", ctx)
    selects = [
        options.selection(program, module=module, program_id=program_id, pid=pid)
        for program in programs or (None,)
    ]
    with running(ctx.obj) as daemon:
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
        json=json,
    )
