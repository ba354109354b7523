"""``dprobe query``: states and counters of probes."""

from __future__ import annotations

from pathlib import Path

import click

from dprobe.commands import options
from dprobe.lib.connection import running
from dprobe.view import probes
from dprobed.wire import messages


@click.command(
    "query",
    epilog="""\b
examples:
  dprobe query
  dprobe query -x --pid 1234 --json
""",
)
@click.option("-x", "extended", is_flag=True, help="All columns, and the processes.")
@options.pid_option
@options.listing(
    probes.PROBES, probes.PROBES_EXTENDED, probes.DEPLOYMENTS, probes.TARGETS, probes.EARLIER
)
@click.argument("program", required=False)
@click.pass_obj
def query_command(
    socket: Path | None,
    program: str | None,
    extended: bool,
    pid: int | None,
    json: bool,
    only: tuple[str, ...],
) -> None:
    """Show probes: of one program (number or name), of one process, or all."""
    select = options.selection(program, pid=pid)
    with running(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.Query(id=number, select=select), messages.Status
        )
    everything = select == messages.Select()
    probes.show_status(answer, extended=extended, everything=everything, json=json, only=only)
