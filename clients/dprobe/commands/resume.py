"""``dprobe resume``: resume held threads and processes."""

from __future__ import annotations

import click

from dprobe.commands import options
from dprobe.commands import pids as processes
from dprobe.view.tables import Listing, show
from dprobed.wire import messages

_LISTING = Listing("resumed", (("resumed", "tid"),))


@click.command(
    "resume",
    cls=processes.PidsCommand,
    epilog="""\b
examples:
  dprobe resume              # all that are held
  dprobe resume -p nginx     # all of these processes
  dprobe resume 1234 1240    # thread 1240 of process 1234
""",
)
@processes.option("What is held of these processes: numbers, or a name that they have.")
@options.json
@click.argument("pid", type=options.pid_type, required=False)
@click.argument("tid", type=options.pid_type, required=False)
@click.pass_context
def resume_command(
    ctx: click.Context, pids: tuple[int, ...], pid: int | None, tid: int | None, json: bool
) -> None:
    """Let threads go on that a program's `suspend` holds, and processes held for a debugger."""
    if pids and pid is not None:
        raise click.UsageError("name processes by -p, or a process and its thread", ctx)
    tids: list[int] = []
    silent: list[int] = []
    with options.running(ctx.obj) as daemon:
        for each in pids or (pid,):
            answer = daemon.request(
                lambda number, each=each: messages.Resume(id=number, pid=each, tid=tid),  # type: ignore[misc]
                messages.Resumed,
            )
            tids += answer.tids
            silent += answer.silent
    rows = [{"tid": each} for each in tids]
    show(rows, _LISTING, json=json, empty="" if silent else "nothing is held")
    for each in silent:
        options.complain(f"process {each}: its tracer does not answer; what it holds is still held")
    if silent:
        ctx.exit(2)
