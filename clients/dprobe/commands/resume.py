"""``dprobe resume``: resume held threads and processes."""

from __future__ import annotations

from pathlib import Path

import click

from dprobe.commands import options
from dprobe.view.tables import Listing, show
from dprobed.wire import messages

_LISTING = Listing("resumed", (("resumed", "tid"),))


@click.command(
    "resume",
    epilog="""\b
examples:
  dprobe resume              # all that are held
  dprobe resume 1234 1240    # thread 1240 of process 1234
""",
)
@options.json
@click.argument("pid", type=options.pid_type, required=False)
@click.argument("tid", type=options.pid_type, required=False)
@click.pass_obj
def resume_command(socket: Path | None, pid: int | None, tid: int | None, json: bool) -> None:
    """Let threads go on that a program's `suspend` holds, and processes held for a debugger."""
    with options.running(socket) as daemon:
        answer = daemon.request(
            lambda number: messages.Resume(id=number, pid=pid, tid=tid), messages.Resumed
        )
    rows = [{"tid": each} for each in answer.tids]
    show(rows, _LISTING, json=json, empty="nothing is held")
