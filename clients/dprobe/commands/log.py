"""``dprobe log``: the records that a daemon keeps, and new ones."""

from __future__ import annotations

from pathlib import Path

import click

from dprobe.commands import options
from dprobe.view.output import Output, complain
from dprobed.wire import messages


@click.command(
    "log",
    epilog="""\b
examples:
  dprobe log --format json
  dprobe log -f
""",
)
@click.option("-f", "follow", is_flag=True, help="Go on with new records, until Ctrl-C.")
@options.format_
@options.output("standard output")
@click.pass_obj
def log_command(socket: Path | None, follow: bool, form: str, path: str | None) -> int:
    """Show the records that the daemon keeps (the last 2 MiB of them)."""
    with options.running(socket) as daemon:
        output = Output(form, path, 1)
        daemon.listen(output.record)
        answer = daemon.request(
            lambda number: messages.Log(id=number, follow=follow), messages.Logged
        )
        if answer.forgotten:
            complain(f"{answer.forgotten} older records are no longer kept")
        output.flush()
        try:
            while follow and not output.broken:
                daemon.receive()
                output.flush()
        except KeyboardInterrupt:
            pass
        output.close()
        return output.status
